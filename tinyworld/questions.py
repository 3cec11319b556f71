"""Questions about a scene whose short answers are known exactly, for training and measuring vision-language models.

Kinds of question: ``count`` ("how many red circles are there?"), ``color``, ``shape``, ``relation`` (which of two
sides, or what is on a side), ``text`` (the word on a sign, or a letter of it) and ``yes_no``, whose answers are
balanced. Every answer is one lower-case word.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from .captions import COLORS, LETTERS, MAX_COUNT, NUMBERS, SHAPES, Group
from .clutter import make_clutter
from .scenes import Scene, SceneObject, make_scene

KINDS = ("count", "color", "shape", "relation", "text", "yes_no")
MARGIN = 8.0  # px between centres along an axis, below which nobody is asked who is left or above
# axis -> what the object with the smaller and the larger coordinate is to the other
SIDES = {"x": ("left of", "right of"), "y": ("above", "below")}
PLURALS = {shape: shape + ("es" if shape == "cross" else "s") for shape in SHAPES}
# Every word that questions and answers are made of; only the words on signs are not among them.
WORDS = (
    *("a", "above", "an", "any", "are", "below", "color", "do", "does", "exactly", "first", "have", "how", "is"),
    *("last", "left", "letter", "letters", "many", "no", "number", "object", "objects", "of", "on", "or", "right"),
    *("say", "see", "shape", "sign", "text", "the", "there", "to", "what", "which", "word", "written", "yes", "you"),
    *("zero", *COLORS, *SHAPES, *PLURALS.values(), *NUMBERS),
)


@dataclass(frozen=True)
class Question:
    """``text`` ends with a question mark, ``answer`` is one lower-case word, ``kind`` is one of `KINDS`."""

    text: str
    answer: str
    kind: str


Draft = tuple[tuple[str, ...], str]  # paraphrases and the answer


def kinds_of(scene: Scene) -> tuple[str, ...]:
    """The kinds of question that can be asked about `scene` without ambiguity."""
    groups, sign = scene.spec.groups, scene.spec.text is not None
    possible = {
        "count": True,
        "color": sign or bool(_alone(groups, "shape")),
        "shape": bool(_alone(groups, "color")),
        "relation": any(_apart(scene)),
        "text": sign,
        "yes_no": True,
    }
    return tuple(kind for kind in KINDS if possible[kind])


def ask(scene: Scene, rng: np.random.Generator, kind: str | None = None) -> Question:
    """Draws a question about `scene` of this `kind` (default: any that fits).

    Raises:
        ValueError: `kind` is unknown, or cannot be asked about `scene` (see `kinds_of`).
    """
    possible = kinds_of(scene)
    if kind is not None and kind not in KINDS:
        raise ValueError(f"`kind` must be one of {KINDS}, got {kind!r}.")
    if kind is not None and kind not in possible:
        raise ValueError(f"`kind` {kind!r} cannot be asked about {scene.caption!r}, possible are {possible}.")
    kind = kind or str(rng.choice(possible))
    forms, answer = _DRAFTS[kind](scene, rng)
    return Question(str(rng.choice(forms)), answer, kind)


def quiz(n: int, seed: int = 0, split: str = "test", clutter: bool = False) -> list[tuple[Scene, Question]]:
    """`n` scenes of `split` with a question each, the kinds in turn; by default about combinations never trained on,
    and in pictures that captions tell rather than in `clutter`."""
    rng = np.random.default_rng((seed, 30))
    pairs: list[tuple[Scene, Question]] = []
    while len(pairs) < n:
        kind = KINDS[len(pairs) % len(KINDS)]
        category, drawn = {"text": "text", "relation": "relation"}.get(kind), int(rng.integers(2**62))
        scene = make_clutter(drawn, split) if clutter else make_scene(drawn, split, category)
        if kind in kinds_of(scene):
            pairs.append((scene, ask(scene, rng, kind)))
    return pairs


# ---------------------------------------------------------------------------------------- what can be said of a scene


def _alone(groups: tuple[Group, ...], attribute: str) -> list[Group]:
    """Groups that nothing else shares this attribute with."""
    values = [getattr(group, attribute) for group in groups]
    return [group for group, value in zip(groups, values, strict=True) if values.count(value) == 1]


def sides(first: Sequence[SceneObject], second: Sequence[SceneObject]) -> dict[str, tuple[str, str]]:
    """Axis to what the first objects are to the second and the second to the first, such as
    ``{"x": ("left of", "right of")}``, where all of them are clearly on that side."""
    found = {}
    for axis, (low, high) in SIDES.items():
        at, other = ([getattr(o, axis) for o in objects] for objects in (first, second))
        if max(at) + MARGIN <= min(other):
            found[axis] = (low, high)
        elif max(other) + MARGIN <= min(at):
            found[axis] = (high, low)
    return found


def members(scene: Scene) -> list[tuple[SceneObject, ...]]:
    """The objects of each of the scene's groups."""
    ends = np.cumsum([group.count for group in scene.spec.groups], dtype=int)
    return [scene.objects[end - group.count : end] for end, group in zip(ends, scene.spec.groups, strict=True)]


def _apart(scene: Scene) -> Iterator[tuple[Group, Group, dict[str, tuple[str, str]]]]:
    """Pairs of groups, and their `sides`, where there are any."""
    drawn = zip(scene.spec.groups, members(scene), strict=True)
    for (first, a), (second, b) in combinations(drawn, 2):
        if found := sides(a, b):
            yield first, second, found


def _pair(scene: Scene, rng: np.random.Generator) -> tuple[Group, Group, str, str]:
    """Two kinds of object in either order, the axis along which they are apart, and what the first is to the second."""
    pairs = list(_apart(scene))
    first, second, found = pairs[rng.integers(len(pairs))]
    axis = str(rng.choice(list(found)))
    side, back = found[axis]
    return (second, first, axis, back) if rng.random() < 0.5 else (first, second, axis, side)


def _noun(count: int, color: str = "", shape: str = "") -> str:
    """``red circle``, ``red circles``, ``circle``, ``red objects`` …"""
    noun = shape or "object"
    return f"{color} {noun if count == 1 else PLURALS.get(shape, 'objects')}".strip()


def _of_the_sign(scene: Scene, rng: np.random.Generator) -> bool:
    """Whether the sign is asked about, where it may be alone or one thing among many."""
    return scene.spec.text is not None and (not scene.spec.groups or rng.random() < 0.2)


def _another(rng: np.random.Generator, options: tuple, taken: set) -> str:
    return str(rng.choice([option for option in options if option not in taken]))


def _absent(groups: tuple[Group, ...], rng: np.random.Generator) -> tuple[str, str]:
    """A colour and shape that no object has together, one of them taken from an object."""
    group = groups[rng.integers(len(groups))]
    if rng.random() < 0.5:
        return _another(rng, COLORS, {g.color for g in groups if g.shape == group.shape}), group.shape
    return group.color, _another(rng, SHAPES, {g.shape for g in groups if g.color == group.color})


# ------------------------------------------------------------------------------------------------- kinds of question


def _count(scene: Scene, rng: np.random.Generator) -> Draft:
    groups = scene.spec.groups
    if _of_the_sign(scene, rng):
        forms = ("how many letters are on the sign?", "how many letters does the sign have?")
        return forms, NUMBERS[len(scene.spec.text) - 1]
    total = MAX_COUNT + 1
    while total > MAX_COUNT:  # in clutter
        color, shape = _absent(groups, rng)
        if rng.random() < 0.85:
            group = groups[rng.integers(len(groups))]
            color, shape = [("", ""), (group.color, ""), ("", group.shape), (group.color, group.shape)][rng.integers(4)]
        total = sum(g.count for g in groups if color in ("", g.color) and shape in ("", g.shape))
    noun = _noun(2, color, shape)
    forms = (f"how many {noun} are there?", f"how many {noun} do you see?", f"what is the number of {noun}?")
    return forms, ("zero", *NUMBERS)[total]


def _color(scene: Scene, rng: np.random.Generator) -> Draft:
    alone = _alone(scene.spec.groups, "shape")
    if not alone or _of_the_sign(scene, rng):
        noun, count, answer = "sign", 1, scene.spec.sign_color
    else:
        group = alone[rng.integers(len(alone))]
        shape = "" if len(scene.spec.groups) == 1 and rng.random() < 0.5 else group.shape
        noun, count, answer = _noun(group.count, shape=shape), group.count, group.color
    return _attribute("color", noun, count), answer


def _shape(scene: Scene, rng: np.random.Generator) -> Draft:
    alone = _alone(scene.spec.groups, "color")
    group = alone[rng.integers(len(alone))]
    color = "" if len(scene.spec.groups) == 1 and rng.random() < 0.5 else group.color
    return _attribute("shape", _noun(group.count, color), group.count), group.shape


def _attribute(attribute: str, noun: str, count: int) -> tuple[str, ...]:
    verb, has = ("is", "does") if count == 1 else ("are", "do")
    return (
        f"what {attribute} {verb} the {noun}?",
        f"what is the {attribute} of the {noun}?",
        f"which {attribute} {has} the {noun} have?",
    )


def _relation(scene: Scene, rng: np.random.Generator) -> Draft:
    first, second, axis, side = _pair(scene, rng)
    a, b = (_noun(g.count, g.color, g.shape) for g in (first, second))
    if len(scene.spec.groups) == 2 and rng.random() < 0.5:  # of more, more than one may be on that side
        attribute = str(rng.choice(("color", "shape")))
        verb, object_ = ("is", "object") if first.count == 1 else ("are", "objects")
        forms = tuple(f"{which} {attribute} {verb} the {object_} {side} the {b}?" for which in ("what", "which"))
        return forms, getattr(first, attribute)
    verb = "is" if first.count == 1 else "are"
    if axis == "x":
        forms = (f"{verb} the {a} left or right of the {b}?", f"{verb} the {a} to the left or right of the {b}?")
    else:
        forms = (f"{verb} the {a} above or below the {b}?",)
    return forms, side.removesuffix(" of")


def _text(scene: Scene, rng: np.random.Generator) -> Draft:
    word = scene.spec.text.lower()
    if rng.random() < 0.6:
        what = ("what does the sign say?", "what word is on the sign?", "which word is written on the sign?")
        return (*what, "what is the text on the sign?"), word
    where, letter = [("first", word[0]), ("last", word[-1])][rng.integers(2)]
    forms = (f"what is the {where} letter on the sign?", f"which letter is {where} on the sign?")
    return forms, letter


def _yes_no(scene: Scene, rng: np.random.Generator) -> Draft:
    # The answer is drawn first and the question made to fit, so that no form of question gives it away.
    true = bool(rng.random() < 0.5)
    claims: list[Callable[[Scene, np.random.Generator, bool], tuple[str, ...]]] = []
    claims += [_claim_sign_color, _claim_word, _claim_letter] if scene.spec.text is not None else []
    claims += [_claim_existence, _claim_count] if scene.spec.groups else []
    claims += [_claim_color] if _alone(scene.spec.groups, "shape") else []
    claims += [_claim_side] if any(_apart(scene)) else []
    return claims[rng.integers(len(claims))](scene, rng, true), "yes" if true else "no"


def _claim_sign_color(scene: Scene, rng: np.random.Generator, true: bool) -> tuple[str, ...]:
    color = scene.spec.sign_color if true else _another(rng, COLORS, {scene.spec.sign_color})
    return (f"is the sign {color}?", f"is the color of the sign {color}?")


def _claim_word(scene: Scene, rng: np.random.Generator, true: bool) -> tuple[str, ...]:
    word = scene.spec.text
    if not true:  # one letter is wrong
        i = int(rng.integers(len(word)))
        word = word[:i] + _another(rng, tuple(LETTERS), {word[i]}) + word[i + 1 :]
    return (f"does the sign say {word.lower()}?", f"is {word.lower()} written on the sign?")


def _claim_letter(scene: Scene, rng: np.random.Generator, true: bool) -> tuple[str, ...]:
    word = scene.spec.text
    letter = str(rng.choice(list(word))) if true else _another(rng, tuple(LETTERS), set(word))
    return (f"is the letter {letter.lower()} on the sign?", f"does the sign have the letter {letter.lower()}?")


def _claim_existence(scene: Scene, rng: np.random.Generator, true: bool) -> tuple[str, ...]:
    group = scene.spec.groups[rng.integers(len(scene.spec.groups))]
    color, shape = (group.color, group.shape) if true else _absent(scene.spec.groups, rng)
    article = "an" if color == "orange" else "a"
    many = _noun(2, color, shape)
    return (f"is there {article} {color} {shape}?", f"are there any {many}?", f"do you see any {many}?")


def _claim_count(scene: Scene, rng: np.random.Generator, true: bool) -> tuple[str, ...]:
    group = scene.spec.groups[rng.integers(len(scene.spec.groups))]
    # Wrong numbers are drawn about as often as they are right elsewhere, or "exactly one" alone would say yes.
    odds = np.array([0.45, 0.25, 0.15, 0.08, 0.07])
    odds[group.count - 1] = 0
    count = group.count if true else 1 + int(rng.choice(MAX_COUNT, p=odds / odds.sum()))
    verb, noun = "is" if count == 1 else "are", _noun(count, group.color, group.shape)
    return (f"{verb} there exactly {NUMBERS[count - 1]} {noun}?", f"do you see exactly {NUMBERS[count - 1]} {noun}?")


def _claim_color(scene: Scene, rng: np.random.Generator, true: bool) -> tuple[str, ...]:
    alone = _alone(scene.spec.groups, "shape")
    group = alone[rng.integers(len(alone))]
    color = group.color if true else _another(rng, COLORS, {group.color})
    noun, verb = _noun(group.count, shape=group.shape), "is" if group.count == 1 else "are"
    return (f"{verb} the {noun} {color}?", f"is the color of the {noun} {color}?")


def _claim_side(scene: Scene, rng: np.random.Generator, true: bool) -> tuple[str, ...]:
    first, second, axis, side = _pair(scene, rng)
    side = side if true else next(other for other in SIDES[axis] if other != side)
    a, b = (_noun(g.count, g.color, g.shape) for g in (first, second))
    forms = (f"{'is' if first.count == 1 else 'are'} the {a} {side} the {b}?",)
    return (*forms, forms[0].replace(f" {side} ", f" to the {side} ")) if axis == "x" else forms


_DRAFTS: dict[str, Callable[[Scene, np.random.Generator], Draft]] = {
    "count": _count,
    "color": _color,
    "shape": _shape,
    "relation": _relation,
    "text": _text,
    "yes_no": _yes_no,
}
