"""What is in a picture, and whether that is what its caption says."""

from collections import Counter
from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image

from ..captions import SceneSpec, parse_caption
from ..scenes import SIZE
from .background import find_background
from .regions import balance, color_name, find_regions, to_array
from .shapes import FoundObject, match_shape
from .signs import find_ink, is_sign, read_word

MIN_LETTER = 0.8  # correlation with its template below which a letter is not read with confidence
RELATION_MARGIN = 4.0  # px between the mean centres; scenes keep at least 8


@dataclass(frozen=True)
class Verdict:
    """`attributes` holds what the caption asks for; `correct` is all of them; `score` in [0, 1] is the share that is
    right, a word counting by its letters. `text` is the word read on the first sign found."""

    correct: bool
    attributes: dict[str, bool]
    found: list[FoundObject]
    text: str | None
    score: float
    category: str

    def to_dict(self) -> dict:
        """Plain types for JSON."""
        return asdict(self)


def _look(image: Image.Image | np.ndarray) -> tuple[list[FoundObject], list[str], str]:
    """Everything in a picture: the objects (signs first), the words on the signs, the background."""
    rgb = balance(to_array(image))
    found, words = [], []
    regions = find_regions(rgb)
    plates = np.zeros((SIZE, SIZE), bool)
    for region in (region for region in regions if is_sign(rgb, region)):
        top, bottom, left, right = region.box
        plates[top:bottom, left:right] = True
        word, confidence = read_word(find_ink(rgb, region))
        words.append(word if confidence >= MIN_LETTER else word + "?")
        place = (left + right - 1) / 2, (top + bottom - 1) / 2, (right - left) / 2
        found.append(FoundObject(color_name(region.color), "sign", *place, confidence))
    # A bit of plate that letters cut off from the rest lies on the plate and is no object.
    found += [match_shape(region) for region in regions if (region.solid & plates).sum() < 0.5 * region.solid.sum()]
    return found, words, find_background(rgb, regions)


def detect(image: Image.Image | np.ndarray) -> list[FoundObject]:
    """The objects and signs in a picture (PIL image or uint8 ``(h, w, 3)``; resized to 64×64)."""
    return _look(image)[0]


def read_sign(image: Image.Image | np.ndarray) -> str | None:
    """The word on the first sign in a picture, ``None`` without one; ``"?"`` ends a word not read with confidence."""
    words = _look(image)[1]
    return words[0] if words else None


def _related(found: list[FoundObject], spec: SceneSpec) -> bool:
    """Whether the mean centre of the first kind lies on the asked side of that of the second."""
    sign = 1 if spec.relation in ("left of", "above") else -1
    places = [(sign * (o.x if spec.relation in ("left of", "right of") else o.y), o.color, o.shape) for o in found]
    first, second = ([p for p, *kind in places if kind == [g.color, g.shape]] for g in spec.groups)
    if spec.groups[0].color == spec.groups[1].color and spec.groups[0].shape == spec.groups[1].shape:
        first, second = sorted(first)[: spec.groups[0].count], sorted(second)[spec.groups[0].count :]
    return bool(first and second and np.mean(second) - np.mean(first) >= RELATION_MARGIN)


def judge(image: Image.Image | np.ndarray, caption: str) -> Verdict:
    """Compares a picture (PIL image or uint8 ``(h, w, 3)``; resized to 64×64) with what `caption` says.

    ``color`` and ``shape`` compare which ones are there, ``count`` how many of each kind, ``binding`` (two kinds)
    which colour goes with which shape.

    Raises:
        ValueError: the caption is outside the grammar or the array is no image.
    """
    spec = parse_caption(caption)
    found, words, ground = _look(image)
    text = words[0] if words else None
    attributes: dict[str, bool] = {}
    partial = 0.0
    if spec.text is not None:
        attributes["shape"] = {o.shape for o in found} == {"sign"}
        attributes["color"] = {o.color for o in found} == {spec.sign_color}
        attributes["count"] = len(found) == 1
        attributes["text"] = text == spec.text
        if text and not attributes["text"]:
            partial = sum(a == b for a, b in zip(text, spec.text, strict=False)) / max(len(text), len(spec.text))
    else:
        asked: Counter = Counter()
        for group in spec.groups:
            asked[group.color, group.shape] += group.count
        seen = Counter((o.color, o.shape) for o in found)
        attributes["color"] = {c for c, _ in seen} == {c for c, _ in asked}
        attributes["shape"] = {s for _, s in seen} == {s for _, s in asked}
        attributes["count"] = seen.total() == asked.total() and (seen.keys() != asked.keys() or seen == asked)
        if len(spec.groups) == 2:
            attributes["binding"] = seen.keys() == asked.keys()
        if spec.relation:
            attributes["relation"] = _related(found, spec)
    if spec.background:
        attributes["background"] = ground == spec.background
    score = (sum(attributes.values()) + partial) / len(attributes)
    return Verdict(all(attributes.values()), attributes, found, text, score, spec.category)
