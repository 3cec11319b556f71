"""Clutter: pictures of many small objects and a small sign, in which a question is about a few pixels among many.

In the scenes that captions tell, each object is a good part of the picture; here each covers one to four patches of the
embedded vision-language model, and which of them matter only the question says.
"""

import numpy as np

from .captions import COLORS, LETTERS, MAX_WORD, SHAPES, Group, SceneSpec, group_is_held_out, is_held_out
from .scenes import (
    LETTERS_AMONG,
    SDF,
    SIZE,
    Scene,
    SceneObject,
    _background,
    _draw_sign,
    _draw_solid,
    letter_boxes,
)

OBJECTS = (8, 14)  # beside the sign, fewest and most
RADII = (3.4, 4.2)  # px
PATIENCE = 2000  # draws in a row that do not fit, after which none ever will


def sample_clutter(rng: np.random.Generator, split: str = "train") -> SceneSpec:
    """Draws what is in a picture of the ``"train"`` or the ``"test"`` split: in this one each kind of object and the
    word are combinations that training never sees, in the other none of them is. No object has the sign's colour.

    Raises:
        ValueError: `split` is neither.
    """
    if split not in ("train", "test"):
        raise ValueError(f"`split` must be 'train' or 'test', got {split!r}.")
    held_out = split == "test"
    word = ""
    while not word or is_held_out(SceneSpec(text=word)) != held_out:
        word = "".join(rng.choice(list(LETTERS), size=rng.integers(2, MAX_WORD + 1)))
    sign_color = str(rng.choice(COLORS))
    groups: dict[tuple[str, str], Group] = {}
    wanted = left = int(rng.integers(OBJECTS[0], OBJECTS[1] + 1))
    missed = 0
    while left:
        if missed == PATIENCE:  # the kinds that are held out are few, and may all be there
            groups, left, missed = {}, wanted, 0
        missed += 1
        count = int(rng.choice((1, 2, 3), p=(0.6, 0.25, 0.15)))
        group = Group(count, str(rng.choice(COLORS)), str(rng.choice(SHAPES)))
        kind = group.color, group.shape
        if group.color == sign_color or kind in groups or count > left or group_is_held_out(group) != held_out:
            continue
        groups[kind] = group
        left, missed = left - count, 0
    return SceneSpec(tuple(groups.values()), text=word, sign_color=sign_color)


def make_clutter(seed: int, split: str = "train") -> Scene:
    """The clutter of this `seed`, its sign last among the objects; it has no caption. `split`: see `sample_clutter`."""
    rng = np.random.default_rng((seed, 32))
    spec = sample_clutter(rng, split)
    canvas = _background(rng, str(rng.choice(("light", "dark", "striped", "checkered"))))
    sign = _draw_sign(canvas, rng, spec.sign_color, spec.text, LETTERS_AMONG)
    kinds = [group for group in spec.groups for _ in range(group.count)]
    while (places := _place(rng, len(kinds), spec.text, sign)) is None:
        pass
    objects = [SceneObject(g.color, g.shape, *p) for g, p in zip(kinds, places, strict=True)]
    for o in objects:
        _draw_solid(canvas, rng, SDF[o.shape], o.color, o.x, o.y, o.radius)
    canvas += rng.normal(0, 2, canvas.shape)
    return Scene(np.clip(canvas, 0, 255).astype(np.uint8), "", spec, (*objects, sign))


def _place(rng: np.random.Generator, n: int, word: str, sign: SceneObject) -> list[tuple[float, float, float]] | None:
    """One attempt at `n` centres and radii apart from one another and from the sign; `None` when they do not fit."""
    boxes = letter_boxes(word, sign, LETTERS_AMONG)
    half_h = (boxes[0, 1] - boxes[0, 0]) / 2 + sign.radius - (boxes[-1, 3] - boxes[0, 2]) / 2
    placed: list[tuple[float, float, float]] = []
    for _ in range(n):
        radius = rng.uniform(*RADII)
        edge = 1.1 * radius + 0.5
        for _ in range(60):
            x, y = rng.uniform(edge, SIZE - edge, 2)
            beside = max(abs(x - sign.x) - sign.radius, abs(y - sign.y) - half_h)
            if beside > edge and all(np.hypot(x - a, y - b) > 1.08 * (radius + r) + 1 for a, b, r in placed):
                placed.append((float(x), float(y), radius))
                break
        else:
            return None
    return placed
