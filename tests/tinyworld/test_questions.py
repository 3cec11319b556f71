"""Answers are true: an answerer of its own reads each question and looks at the objects drawn."""

import re
from collections import Counter

import numpy as np
import pytest

from tinyworld.captions import COLORS, SHAPES, is_held_out
from tinyworld.clutter import make_clutter
from tinyworld.questions import KINDS, WORDS, ask, kinds_of, quiz
from tinyworld.scenes import make_scene

NUMBERS = ("zero", "one", "two", "three", "four", "five")
COLOR = "|".join(COLORS)
NOUN = rf"(?:(?:{COLOR}) )?(?:objects?|sign|(?:{'|'.join(SHAPES)})(?:e?s)?)"
SIDE = "left of|right of|above|below"


def named(scene, noun):
    """The objects that a noun is about."""
    *color, kind = noun.split()
    shape = kind if kind == "cross" else re.sub("(?<=cross)es$|s$", "", kind)
    found = [o for o in scene.objects if shape in ("object", o.shape)]
    return [o for o in found if not color or o.color == color[0]]


def is_side(first, side, second):
    axis, sign = {"left of": ("x", 1), "right of": ("x", -1), "above": ("y", 1), "below": ("y", -1)}[side]
    return all(sign * (getattr(b, axis) - getattr(a, axis)) >= 8 for a in first for b in second)


def the_one(values):
    """The value that all agree on: a question is unambiguous only where they do."""
    (value,) = set(values)
    return value


def answers(scene, text):
    """All answers that the forms of question give, each by looking."""
    yes = {True: "yes", False: "no"}
    word = (scene.spec.text or "").lower()

    def match(pattern):
        return re.fullmatch(rf"(?:{pattern})\?", text)

    if m := match(rf"(?:how many|what is the number of) ({NOUN})(?: are there| do you see)?"):
        yield NUMBERS[len(named(scene, m[1]))]
    if match("how many letters (?:are on the sign|does the sign have)"):
        yield NUMBERS[len(word)]
    if m := match(rf"(?:what|which) (color|shape) (?:is|are|does|do) the ({NOUN})(?: have)?"):
        yield the_one(getattr(o, m[1]) for o in named(scene, m[2]))
    if m := match(rf"what is the (color|shape) of the ({NOUN})"):
        yield the_one(getattr(o, m[1]) for o in named(scene, m[2]))
    if m := match(rf"(?:what|which) (color|shape) (?:is|are) the objects? ({SIDE}) the ({NOUN})"):
        reference = named(scene, m[3])
        there = [o for o in scene.objects if is_side([o], m[2], reference)]
        assert reference
        yield the_one(getattr(o, m[1]) for o in there)
    if m := match(rf"(?:is|are) the ({NOUN}) (?:to the )?(left|above) or (?:the )?(right|below)(?: of)? the ({NOUN})"):
        first, second = named(scene, m[1]), named(scene, m[4])
        sides = [s for s in SIDE.split("|") if s.split()[0] in (m[2], m[3]) and is_side(first, s, second)]
        assert first and second
        yield the_one(sides).split()[0]
    if match("what does the sign say|what word is on the sign|which word is written on the sign") or match(
        "what is the text on the sign"
    ):
        yield word
    if m := match("what is the (first|last) letter on the sign") or match("which letter is (first|last) on the sign"):
        yield word[0] if m[1] == "first" else word[-1]
    if m := match(rf"is there an? ({NOUN})") or match(rf"(?:are there|do you see) any ({NOUN})"):
        yield yes[bool(named(scene, m[1]))]
    if m := match(rf"(?:(?:is|are) there|do you see) exactly ({'|'.join(NUMBERS)}) ({NOUN})"):
        yield yes[len(named(scene, m[2])) == NUMBERS.index(m[1])]
    if m := match(rf"(?:is|are) the ({NOUN}) ({COLOR})") or match(rf"is the color of the ({NOUN}) ({COLOR})"):
        yield yes[the_one(o.color for o in named(scene, m[1])) == m[2]]
    if m := match(rf"(?:is|are) the ({NOUN}) (?:to the )?({SIDE}) the ({NOUN})"):
        first, second = named(scene, m[1]), named(scene, m[3])
        sides = [is_side(first, m[2], second), is_side(second, m[2], first)]
        assert first and second and sum(sides) == 1
        yield yes[sides[0]]
    if m := match("does the sign say ([a-z]+)") or match("is ([a-z]+) written on the sign"):
        yield yes[m[1] == word]
    if m := match("is the letter ([a-z]) on the sign") or match("does the sign have the letter ([a-z])"):
        yield yes[m[1] in word]


def test_every_answer_is_true_and_the_only_one():
    rng = np.random.default_rng(0)
    forms, seen = set(), Counter()
    for seed in range(250):
        scene = make_scene(seed, "all")
        for kind in kinds_of(scene):
            for _ in range(3):
                question = ask(scene, rng, kind)
                assert list(answers(scene, question.text)) == [question.answer], (question, scene.caption)
                assert question.kind == kind and re.fullmatch("[a-z]+", question.answer)
                seen[kind] += 1
                forms.add(" ".join(question.text.split()[:3]))
    assert set(seen) == set(KINDS) and len(forms) > 25


def test_every_answer_in_clutter_is_true_and_the_only_one():
    rng = np.random.default_rng(0)
    seen, of_the_sign = Counter(), Counter()
    for seed in range(60):
        scene = make_clutter(seed, ("train", "test")[seed % 2])
        for kind in kinds_of(scene):
            for _ in range(5):
                question = ask(scene, rng, kind)
                assert list(answers(scene, question.text)) == [question.answer], (question, scene.spec)
                seen[kind] += 1
                of_the_sign[kind] += "sign" in question.text
    assert seen["count"] == seen["text"] == seen["yes_no"] == of_the_sign["text"] == 300
    assert min(seen["color"], seen["shape"], seen["relation"]) > 250
    assert 0.1 < of_the_sign["count"] / 300 < 0.3 and 0.1 < of_the_sign["color"] / seen["color"] < 0.3


def test_yes_and_no_are_balanced_whatever_the_form():
    rng = np.random.default_rng(1)
    answers_of: dict[str, list[bool]] = {}
    for seed in range(400):
        scene = make_scene(seed)
        for _ in range(5):
            question = ask(scene, rng, "yes_no")
            words = question.text.split()
            form = " ".join(words[:3] if "exactly" in words or "any" in words else words[:2])
            answers_of.setdefault(form, []).append(question.answer == "yes")
    assert abs(np.mean(np.concatenate(list(answers_of.values()))) - 0.5) < 0.04
    for form, truths in answers_of.items():
        assert abs(np.mean(truths) - 0.5) < 3 * 0.5 / len(truths) ** 0.5, form


def test_the_same_generator_asks_the_same():
    scene = make_scene(3)
    first, second = ([ask(scene, rng) for rng in [np.random.default_rng(5)] for _ in range(20)] for _ in range(2))
    assert first == second and len(set(first)) > 5


def test_the_words_are_those_listed():
    rng = np.random.default_rng(2)
    used = set()
    for seed in range(300):
        scene = make_scene(seed, "all")
        for _ in range(4):
            question = ask(scene, rng)
            if question.kind != "text" and not re.search("say|written|letter", question.text):
                used |= {*question.text.rstrip("?").split(), question.answer}
    assert used <= set(WORDS) and len(WORDS) == len(set(WORDS))


def test_the_quiz_is_held_out_fixed_and_of_all_kinds():
    pairs = quiz(24)
    assert all(is_held_out(scene.spec) for scene, _ in pairs)
    assert [question.kind for _, question in pairs] == list(KINDS) * 4
    assert [question for _, question in quiz(24)] == [question for _, question in pairs]
    assert [question for _, question in quiz(24, seed=1)] != [question for _, question in pairs]


def test_the_quiz_about_clutter_is_of_all_kinds():
    pairs = quiz(12, clutter=True)
    assert [question.kind for _, question in pairs] == list(KINDS) * 2
    assert all(len(scene.objects) > 8 and is_held_out(scene.spec) for scene, _ in pairs)


def test_what_cannot_be_asked_is_named():
    sign = make_scene(0, category="text")
    with pytest.raises(ValueError, match="`kind` 'relation' cannot be asked"):
        ask(sign, np.random.default_rng(0), "relation")
    with pytest.raises(ValueError, match="`kind` must be one of"):
        ask(sign, np.random.default_rng(0), "colour")
