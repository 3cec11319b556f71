"""What a tinyworld scene says: the grammar of captions, the parser that inverts it, and the held-out split.

A caption is one of (``background`` is optional everywhere)::

    <n> <color> <shape>                              one kind         binding (n = 1), count (n > 1)
    <n> <color> <shape> and <n> <color> <shape>      two kinds        two_kind
    <n> <color> <shape> above <n> <color> <shape>    with a relation  relation
    a <color> sign saying "CAB"                      a drawn word     text
"""

import re
import zlib
from dataclasses import dataclass

import numpy as np

COLORS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "star", "ring", "heart")
RELATIONS = ("left of", "right of", "above", "below")
BACKGROUNDS = ("light", "dark", "striped", "checkered")
LETTERS = "ABCEHLNOPTUX"
NUMBERS = ("one", "two", "three", "four", "five")
CATEGORIES = ("binding", "count", "two_kind", "relation", "text")
MAX_COUNT = 5
MAX_WORD = 3  # letters


@dataclass(frozen=True)
class Group:
    """``count`` (1–5) objects of one ``color`` and one ``shape``."""

    count: int
    color: str
    shape: str


@dataclass(frozen=True)
class SceneSpec:
    """What must be true of a picture.

    ``groups`` holds one or two kinds of object (none for a sign), ``relation`` places the first kind with respect to
    the second, ``text`` is the word on a sign of ``sign_color``, ``background`` is free when ``None``. Clutter, which
    no caption says, has many kinds and a sign.
    """

    groups: tuple[Group, ...] = ()
    relation: str | None = None
    text: str | None = None
    sign_color: str | None = None
    background: str | None = None

    @property
    def category(self) -> str:
        """One of `CATEGORIES`."""
        if self.text is not None:
            return "text"
        if len(self.groups) == 2:
            return "relation" if self.relation else "two_kind"
        return "binding" if self.groups[0].count == 1 else "count"


def _bucket(*parts: object, of: int) -> int:
    # crc32 and not hash(): the split must be the same in every process and on every machine.
    return zlib.crc32("|".join(map(str, parts)).encode()) % of


def group_is_held_out(group: Group) -> bool:
    """Eight (color, shape) pairs are never trained on at any count, and one in eight (count, color, shape) triples."""
    diagonal = (3 * SHAPES.index(group.shape) + 1) % len(COLORS) == COLORS.index(group.color)
    return diagonal or _bucket(group.count, group.color, group.shape, of=8) == 0


def is_held_out(spec: SceneSpec) -> bool:
    """Whether `spec` contains a combination (group or word) that training never sees."""
    word = spec.text is not None and _bucket("word", spec.text, of=5) == 0
    return word or any(group_is_held_out(group) for group in spec.groups)


def sample_spec(
    rng: np.random.Generator, split: str = "train", category: str | None = None, background: bool = True
) -> SceneSpec:
    """Draws a spec of `category` (default: any) that is in the ``"train"`` or ``"test"`` split, or from ``"all"``.

    With `background=False` the caption leaves the background free.
    """
    if split not in ("train", "test", "all"):
        raise ValueError(f"`split` must be 'train', 'test' or 'all', got {split!r}.")
    if category is not None and category not in CATEGORIES:
        raise ValueError(f"`category` must be one of {CATEGORIES}, got {category!r}.")
    while True:
        spec = _draw(rng, category or rng.choice(CATEGORIES, p=(0.15, 0.3, 0.15, 0.2, 0.2)), background)
        if split == "all" or is_held_out(spec) == (split == "test"):
            return spec


def _draw(rng: np.random.Generator, category: str, background: bool) -> SceneSpec:
    ground = str(rng.choice(BACKGROUNDS)) if background and rng.random() < 0.4 else None

    def group(low: int, high: int) -> Group:
        return Group(int(rng.integers(low, high + 1)), str(rng.choice(COLORS)), str(rng.choice(SHAPES)))

    if category == "text":
        word = "".join(rng.choice(list(LETTERS), size=rng.integers(2, MAX_WORD + 1)))
        return SceneSpec(text=word, sign_color=str(rng.choice(COLORS)), background=ground)
    if category in ("binding", "count"):
        return SceneSpec((group(1, 1) if category == "binding" else group(2, MAX_COUNT),), background=ground)
    relation = str(rng.choice(RELATIONS)) if category == "relation" else None
    first, second = group(1, 3), group(1, 2)
    while (first.color, first.shape) == (second.color, second.shape):
        second = group(1, 2)
    return SceneSpec((first, second), relation=relation, background=ground)


# ---------------------------------------------------------------------------------------------- spec -> caption


def _noun_phrase(group: Group, rng: np.random.Generator) -> str:
    if group.count == 1:
        return f"{rng.choice(['a', 'a', 'one', 'a single'])} {group.color} {group.shape}"
    plural = group.shape + ("es" if group.shape == "cross" else "s")
    number = NUMBERS[group.count - 1] if rng.random() < 0.75 else str(group.count)
    return f"{number} {group.color} {plural}"


def caption(spec: SceneSpec, rng: np.random.Generator | None = None) -> str:
    """Writes `spec` in words: a random paraphrase with `rng`, the plainest form without."""
    plain = rng is None
    rng = np.random.default_rng(0) if rng is None else rng

    def pick(*options: str) -> str:
        return options[0] if plain else str(rng.choice(options))

    if plain:
        phrases = [
            f"{'a' if g.count == 1 else NUMBERS[g.count - 1]} {g.color} {g.shape}"
            + ("" if g.count == 1 else "es" if g.shape == "cross" else "s")
            for g in spec.groups
        ]
    else:
        phrases = [_noun_phrase(group, rng) for group in spec.groups]

    if spec.text is not None:
        article = "an" if spec.sign_color == "orange" else "a"
        body = f'{article} {spec.sign_color} sign {pick("saying", "that says", "with the word")} "{spec.text}"'
    elif spec.relation:
        aside = spec.relation in ("left of", "right of") and pick("", "to the ")
        body = f"{phrases[0]} {aside or ''}{spec.relation} {phrases[1]}"
    else:
        body = f" {pick('and', 'and', 'with')} ".join(phrases)
    if spec.background:
        body += f" {pick('on', 'over')} a {spec.background} background"
    return pick("", "", "a picture of ", "an image of ") + re.sub(r"\ba (orange)", r"an \1", body)


# ---------------------------------------------------------------------------------------------- caption -> spec

_NUMBER = r"(?P<n{i}>an?|one|two|three|four|five|[1-5])(?: single)?"
_GROUP = _NUMBER + rf" (?P<color{{i}}>{'|'.join(COLORS)}) (?P<shape{{i}}>{'|'.join(SHAPES)})(?:es|s)?"
_CAPTION = re.compile(
    r"^(?:(?:a picture|an image|a photo) of )?(?:"
    rf"an? (?P<sign>{'|'.join(COLORS)}) sign (?:saying|that says|with the word) \"(?P<text>[a-z]+)\""
    rf"|{_GROUP.format(i=0)}(?: (?P<relation>and|with|(?:to the )?(?:left|right) of|above|below) {_GROUP.format(i=1)})?"
    rf")(?: (?:on|over) an? (?P<background>{'|'.join(BACKGROUNDS)}) background)?\.?$"
)


def parse_caption(text: str) -> SceneSpec:
    """Reads a caption back into a `SceneSpec`. Case and repeated white space do not matter.

    Raises:
        ValueError: the caption is not in the grammar.
    """
    match = _CAPTION.match(" ".join(text.lower().split()))
    if match is None:
        raise ValueError(
            f"`caption` {text!r} is not in the tinyworld grammar; examples: 'two red circles above a blue square', "
            "'a green sign saying \"CAB\"'."
        )
    if match["text"]:
        return SceneSpec(text=match["text"].upper(), sign_color=match["sign"], background=match["background"])

    def group(i: int) -> Group:
        n = match[f"n{i}"]
        count = int(n) if n.isdigit() else NUMBERS.index(n) + 1 if n in NUMBERS else 1
        return Group(count, match[f"color{i}"], match[f"shape{i}"])

    groups = (group(0),) if match["relation"] is None else (group(0), group(1))
    relation = (match["relation"] or "and").replace("to the ", "")
    return SceneSpec(groups, relation if relation in RELATIONS else None, background=match["background"])
