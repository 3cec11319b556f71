"""What each patch of a scene shows and what each noun of a question refers to, in words of the question grammar: what
the vision-language model is taught beside the answers."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..captions import COLORS, LETTERS, NUMBERS, SHAPES
from ..questions import PLURALS, sides
from ..scenes import SIZE, Scene, _glyph
from .processor import PATCH

IGNORE = -100
# What can be said of a patch or a noun. Class 0 of each is none of these words.
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

_NOUNS = {shape: shape for shape in SHAPES} | {plural: shape for shape, plural in PLURALS.items()}
_NOUNS |= {"object": "", "objects": ""}


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
        for name, word in (told | _side(where, kind)).items():
            found[name][inside] = _class(name, word)
        for name in found:
            found[name][rim & (found["color"] <= 0)] = IGNORE
    for o in scene.objects:
        found["centre"][int(o.y) // PATCH * (SIZE // PATCH) + int(o.x) // PATCH] = 1
    for number, (letter, left, top, right, bottom) in enumerate(boxes):
        ink = (left <= x) & (x < right) & (top <= y) & (y < bottom)
        found["letter"][ink] = LETTERS.index(letter) + 1
        found["place"][ink] = 1 if number == 0 else 2 if number == len(boxes) - 1 else 0
    return torch.from_numpy(np.stack([found[name] for name in VIEW], -1))


def word_targets(scene: Scene, tokens: list[str]) -> torch.Tensor:
    """``(len(tokens), len(VIEW))`` of classes for the `tokens` of a question, `IGNORE` where there is nothing to say.

    Nouns, with a colour before them or without, are told how many objects they are, of which colour, shape and side
    where there is only one; a letter, whether it is on the sign, or in a word, which letter of the sign has its place.
    """
    order = {name: i for i, name in enumerate(VIEW)}
    found = torch.full((len(tokens), len(VIEW)), IGNORE)
    text, where = (scene.spec.text or "").lower(), sides(scene)
    for at, token in enumerate(tokens):
        word = token.removeprefix("▁")
        told: dict[str, int] = {}
        if text and word in ("sign", "letters"):
            values = {"color": scene.spec.sign_color, "shape": "sign", "number": NUMBERS[len(text) - 1]}
            told = {name: _class(name, value) for name, value in values.items()}
        elif text and token in VIEW["letter"]:
            start = max(i for i in range(at) if tokens[i] == "▁") + 1
            alone = at == start and (at + 1 == len(tokens) or tokens[at + 1] not in VIEW["letter"])
            letter = (token if token in text else "") if alone else text[at - start : at - start + 1]
            told = {"letter": VIEW["letter"].index(letter) + 1 if letter else 0}
        elif not text and word in _NOUNS:
            color = tokens[at - 1].removeprefix("▁") if at else ""
            told = _told(scene, where, color if color in COLORS else "", _NOUNS[word])
        for name, value in told.items():
            found[at, order[name]] = value
    return found


def _class(name: str, word: str) -> int:
    """Of a word of ``VIEW[name]``; 0 is none of them."""
    return VIEW[name].index(word) + 1


def _side(where: dict[str, tuple[str, str]], kind: int) -> dict[str, str]:
    """On which side of the other kind this one is, ``across`` and ``along`` the picture, where that can be said."""
    axes = {"across": "x", "along": "y"}
    return {name: where[axis][kind].removesuffix(" of") for name, axis in axes.items() if axis in where}


def _told(scene: Scene, where: dict[str, tuple[str, str]], color: str, shape: str) -> dict[str, int]:
    """What there is to say of the objects of `color` and `shape`, "" for any, as classes of `VIEW`."""
    groups = [
        (group, number)
        for number, group in enumerate(scene.spec.groups)
        if color in ("", group.color) and shape in ("", group.shape)
    ]
    if not groups:
        return dict.fromkeys(("color", "shape", "number", "across", "along"), 0)
    told = {"number": sum(group.count for group, _ in groups)}
    for name in ("color", "shape"):
        values = {getattr(group, name) for group, _ in groups}
        if len(values) == 1:
            told[name] = _class(name, values.pop())
    if len(groups) == 1:
        told |= {"across": 0, "along": 0}
        told |= {name: _class(name, word) for name, word in _side(where, groups[0][1]).items()}
    return told


class Lens(nn.Module):
    """Compares states with the embeddings of the words of `VIEW`.

    Args:
        none_weight: of a state that is none of the words.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, none_weight: float = 1.0) -> None:
        super().__init__()
        self.none_weight = none_weight
        self.words = [  # letters on a sign are spelled, the rest are whole
            tokenizer.convert_tokens_to_ids([w if name == "letter" else f"▁{w}" for w in words])
            for name, words in VIEW.items()
        ]
        self.sharpness = nn.Parameter(torch.full((len(VIEW),), 20.0))
        self.nothing = nn.Parameter(torch.full((len(VIEW),), 4.0))  # the logit of class 0

    def forward(self, states: torch.Tensor, embeddings: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Sum of the cross entropies of `states` ``(n, dim)`` under the classes `wanted` ``(n, len(VIEW))``."""
        states = F.normalize(states.float(), dim=-1)
        loss = states.new_zeros(())
        for i, ids in enumerate(self.words):
            logits = self.sharpness[i] * states @ F.normalize(embeddings[ids].float(), dim=-1).T
            logits = torch.cat([self.nothing[i].expand(len(states), 1), logits], -1)
            weight = torch.ones(logits.shape[-1], device=logits.device)
            weight[0] = self.none_weight
            each = F.cross_entropy(logits, wanted[:, i], weight, ignore_index=IGNORE, reduction="sum")
            known = wanted[:, i] != IGNORE
            loss = loss + each / weight[wanted[known, i]].sum().clamp(min=1)
        return loss
