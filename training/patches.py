"""What each patch of a scene shows, in words of the question grammar: the lessons of the vision encoder."""

import numpy as np
import torch

from tinyworld.captions import COLORS, LETTERS, NUMBERS, SHAPES
from tinyworld.questions import sides
from tinyworld.scenes import SIZE, Scene, _glyph

from .processor import PATCH

IGNORE = -100
# What can be said of a patch. Class 0 of each is none of these words.
VIEW = {
    "color": COLORS,
    "shape": (*SHAPES, "sign"),
    "number": NUMBERS,  # of objects of its kind, or of letters on its sign
    "across": ("left", "right"),  # where its kind is as seen from the other kind
    "along": ("above", "below"),
    "letter": tuple(LETTERS.lower()),
    "place": ("first", "last"),  # of its letter on the sign
    "centre": ("object",),  # the middle of an object is in it
}


def letter_boxes(scene: Scene) -> list[tuple[str, int, int, int, int]]:
    """Each letter of the sign with its left, top, right and bottom in pixels; none where there is no sign."""
    if scene.spec.text is None:
        return []
    glyphs, gap = [_glyph(letter, 22) for letter in scene.spec.text], 3  # as `scenes` draws them
    width, height = sum(g.shape[1] for g in glyphs) + gap * (len(glyphs) - 1), max(g.shape[0] for g in glyphs)
    (sign,) = scene.objects
    left, top = round(sign.x - width / 2), round(sign.y - height / 2)
    boxes = []
    for letter, glyph in zip(scene.spec.text, glyphs, strict=True):
        boxes.append((letter, left, top, left + glyph.shape[1], top + glyph.shape[0]))
        left += glyph.shape[1] + gap
    return boxes


def patch_targets(scene: Scene) -> torch.Tensor:
    """``(patches, len(VIEW))`` of classes in the order of `VIEW`; `IGNORE` at the rim of an object."""
    y, x = np.mgrid[0:SIZE:PATCH, 0:SIZE:PATCH].reshape(2, -1) + (PATCH - 1) / 2
    found = {name: np.zeros(len(x), np.int64) for name in VIEW}
    boxes = letter_boxes(scene)
    where = sides(scene)
    kinds = [number for number, group in enumerate(scene.spec.groups) for _ in range(group.count)] or [0]
    for o, kind in zip(scene.objects, kinds, strict=True):
        if o.shape == "sign":
            top, bottom = min(b[2] for b in boxes) - 4, max(b[4] for b in boxes) + 4
            inside = (abs(x - o.x) < o.radius) & (top <= y) & (y < bottom)
            rim, count = np.zeros_like(inside), len(boxes)
        else:
            distance = np.hypot(x - o.x, y - o.y) / o.radius
            inside, rim = distance < 0.8, (distance >= 0.8) & (distance < 1.1)
            count = scene.spec.groups[kind].count
        told = {"color": o.color, "shape": o.shape, "number": NUMBERS[count - 1]}
        for name, axis in (("across", "x"), ("along", "y")):
            if axis in where:
                told[name] = where[axis][kind].removesuffix(" of")
        for name, word in told.items():
            found[name][inside] = VIEW[name].index(word) + 1
        for name in found:
            found[name][rim & (found["color"] <= 0)] = IGNORE
    for o in scene.objects:
        found["centre"][int(o.y) // PATCH * (SIZE // PATCH) + int(o.x) // PATCH] = 1
    for number, (letter, left, top, right, bottom) in enumerate(boxes):
        ink = (left <= x) & (x < right) & (top <= y) & (y < bottom)
        found["letter"][ink] = LETTERS.index(letter) + 1
        found["place"][ink] = 1 if number == 0 else 2 if number == len(boxes) - 1 else 0
    return torch.from_numpy(np.stack([found[name] for name in VIEW], -1))
