"""What each patch of a scene shows and what each noun of a question refers to, in words of the question grammar: what
the vision-language model is taught beside the answers."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..captions import COLORS, LETTERS, MAX_COUNT, NUMBERS, SHAPES
from ..questions import PLURALS, members, sides
from ..scenes import LETTERS_ALONE, LETTERS_AMONG, SIZE, Scene, SceneObject, letter_boxes
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


def patch_targets(scene: Scene) -> torch.Tensor:
    """``(patches, len(VIEW))`` of classes in the order of `VIEW`; `IGNORE` at the rim of an object, and in clutter for
    how many of its kind there are: elsewhere any patch of an object says that, here they are to be counted."""
    y, x = np.mgrid[0:SIZE:PATCH, 0:SIZE:PATCH].reshape(2, -1) + (PATCH - 1) / 2
    found = {name: np.zeros(len(x), np.int64) for name in VIEW}
    kinds = members(scene)
    for i, (group, objects) in enumerate(zip(scene.spec.groups, kinds, strict=True)):
        told = {"color": _class("color", group.color), "shape": _class("shape", group.shape)}
        told["number"] = group.count if len(kinds) <= 2 else IGNORE
        if len(kinds) == 2:
            told |= _side(objects, kinds[1 - i])
        for o in objects:
            distance = np.hypot(x - o.x, y - o.y) / o.radius
            middle = _patch(o)
            inside, rim = distance < 0.8, (distance >= 0.8) & (distance < 1.1)
            inside[middle], rim[middle] = True, False
            for name, said in told.items():
                found[name][inside] = said
            for name in found:
                found[name][rim & (found["color"] <= 0)] = IGNORE
            found["centre"][middle] = 1
    if scene.spec.text is not None:
        _tell_sign(scene, found, x, y)
    return torch.from_numpy(np.stack([found[name] for name in VIEW], -1))


def _tell_sign(scene: Scene, found: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray) -> None:
    word, sign = scene.spec.text, scene.objects[-1]
    boxes = letter_boxes(word, sign, LETTERS_AMONG if scene.spec.groups else LETTERS_ALONE)
    pad = sign.radius - (boxes[-1, 3] - boxes[0, 2]) / 2 - 0.5
    plate = (abs(x - sign.x) < sign.radius) & (boxes[:, 0].min() - pad <= y) & (y < boxes[:, 1].max() + pad)
    told = {"color": _class("color", sign.color), "shape": _class("shape", "sign"), "number": len(word)}
    for name, said in told.items():
        found[name][plate] = said
    found["centre"][_patch(sign)] = 1
    for i, (letter, (top, bottom, left, right)) in enumerate(zip(word, boxes, strict=True)):
        ink = (left <= x) & (x < right) & (top <= y) & (y < bottom)
        found["letter"][ink] = LETTERS.index(letter) + 1
        found["place"][ink] = 1 if i == 0 else 2 if i == len(word) - 1 else 0


def _patch(o: SceneObject) -> int:
    """The patch that an object's centre is in."""
    return int(o.y) // PATCH * (SIZE // PATCH) + int(o.x) // PATCH


def word_targets(scene: Scene, tokens: list[str]) -> torch.Tensor:
    """``(len(tokens), len(VIEW))`` of classes for the `tokens` of a question, `IGNORE` where there is nothing to say.

    Nouns, with a colour before them or without, are told how many objects they are, of which colour, shape and side
    where there is only one; in clutter, where there are many others, the side is that of the noun before. A letter is
    told whether it is on the sign, or in a word, which letter of the sign has its place.
    """
    order = {name: i for i, name in enumerate(VIEW)}
    found = torch.full((len(tokens), len(VIEW)), IGNORE)
    text, before = (scene.spec.text or "").lower(), None
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
        elif scene.spec.groups and word in _NOUNS:
            color = tokens[at - 1].removeprefix("▁") if at else ""
            told, before = _told(scene, color if color in COLORS else "", _NOUNS[word], before)
        for name, value in told.items():
            found[at, order[name]] = value
    return found


def _class(name: str, word: str) -> int:
    """Of a word of ``VIEW[name]``; 0 is none of them."""
    return VIEW[name].index(word) + 1


def _side(objects: tuple[SceneObject, ...], others: tuple[SceneObject, ...]) -> dict[str, int]:
    """On which side of `others` `objects` are, ``across`` and ``along`` the picture, as classes of `VIEW`."""
    where = sides(objects, others)
    axes = {"across": "x", "along": "y"}
    return {
        name: _class(name, where[axis][0].removesuffix(" of")) if axis in where else 0 for name, axis in axes.items()
    }


def _told(scene: Scene, color: str, shape: str, before: int | None) -> tuple[dict[str, int], int | None]:
    """What there is to say of the objects of `color` and `shape`, "" for any, as classes of `VIEW`, where the group of
    number `before` was named before; and their own group's number, where it is one."""
    groups, kinds = scene.spec.groups, members(scene)
    named = [i for i, g in enumerate(groups) if color in ("", g.color) and shape in ("", g.shape)]
    if not named:
        return dict.fromkeys(("color", "shape", "number", "across", "along"), 0), None
    total = sum(groups[i].count for i in named)
    told = {"number": total if total <= MAX_COUNT else IGNORE}
    for name in ("color", "shape"):
        values = {getattr(groups[i], name) for i in named}
        if len(values) == 1:
            told[name] = _class(name, values.pop())
    if len(named) > 1:
        return told, None
    (kind,) = named
    if len(groups) == 1:
        told |= {"across": 0, "along": 0}
    elif len(groups) == 2 or before is not None:
        told |= _side(kinds[kind], kinds[1 - kind if len(groups) == 2 else before])
    return told, kind


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
