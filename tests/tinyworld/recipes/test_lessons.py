"""What the vision-language model is taught beside the answers is what is drawn."""

import numpy as np
import pytest
import torch

from tinyworld.captions import LETTERS, Group, SceneSpec
from tinyworld.clutter import make_clutter
from tinyworld.questions import members, sides
from tinyworld.recipes.lessons import IGNORE, VIEW, Lens, patch_targets, word_targets
from tinyworld.recipes.processor import PATCH, build_tokenizer
from tinyworld.scenes import SIZE, Scene, SceneObject, letter_boxes, make_scene


def words(scene):
    """Name to what each patch shows, ``(16, 16)`` of words, "" for none and "?" at a rim."""
    side = SIZE // PATCH
    shown = patch_targets(scene).view(side, side, len(VIEW)).numpy()
    return {
        name: np.array([["?" if c == IGNORE else ("", *VIEW[name])[c] for c in row] for row in shown[..., i]])
        for i, name in enumerate(VIEW)
    }


@pytest.mark.parametrize("category", ["count", "two_kind", "relation"])
def test_objects(category):
    placed = 0
    for seed in range(20):
        scene = make_scene(seed, category=category)
        shown, kinds = words(scene), members(scene)
        where = sides(*kinds) if len(kinds) == 2 else {}
        assert (shown["centre"] == "object").sum() == len(scene.objects)
        assert set(shown["letter"].flat) | set(shown["place"].flat) <= {"", "?"}
        for o in scene.objects:
            at = int(o.y) // PATCH, int(o.x) // PATCH
            mine = next(group for group in scene.spec.groups if (group.color, group.shape) == (o.color, o.shape))
            assert (shown["color"][at], shown["shape"][at]) == (o.color, o.shape)
            assert shown["number"][at] == ("one", "two", "three", "four", "five")[mine.count - 1]
            first = mine is scene.spec.groups[0]
            for name, axis in (("across", "x"), ("along", "y")):
                expected = where[axis][not first].removesuffix(" of") if axis in where else ""
                assert shown[name][at] == expected
                placed += bool(expected)
    assert placed > 20 or category == "count"


def test_signs():
    for seed in range(20):
        scene = make_scene(seed, category="text")
        shown, word = words(scene), scene.spec.text.lower()
        assert {letter.upper() for letter in shown["letter"].flat if letter} == set(scene.spec.text) <= set(LETTERS)
        plate = shown["shape"] == "sign"
        assert (shown["color"][plate] == scene.spec.sign_color).all()
        assert (shown["number"][plate] == ("one", "two", "three")[len(word) - 1]).all()
        assert (shown["letter"][shown["place"] == "first"] == word[0]).all()
        assert (shown["letter"][shown["place"] == "last"] == word[-1]).all()
        # The ink of each letter is darker or lighter than the plate around it.
        for top, bottom, left, right in letter_boxes(scene.spec.text, scene.objects[0]):
            assert np.ptp(scene.image[top:bottom, left:right].astype(int).mean(2)) > 60


def test_clutter():
    for seed in range(20):
        scene = make_clutter(seed)
        shown, (*objects, sign), word = words(scene), scene.objects, scene.spec.text.lower()
        assert (shown["centre"] == "object").sum() == len(scene.objects)
        covered = 0
        for o in objects:
            at = int(o.y) // PATCH, int(o.x) // PATCH
            assert (shown["color"][at], shown["shape"][at], shown["number"][at]) == (o.color, o.shape, "?")
            assert shown["letter"][at] == shown["across"][at] == ""
        covered = np.isin(shown["shape"], [o.shape for o in objects]).sum()
        assert len(objects) <= covered <= 4 * len(objects), "an object is one to four patches"
        assert (shown["color"][shown["shape"] == "sign"] == sign.color).all()
        assert {letter for letter in shown["letter"].flat if letter not in ("", "?")} == set(word)
        assert (shown["letter"][shown["place"] == "first"] == word[0]).all()
        assert (shown["place"] == "first").any() and (shown["place"] == "last").any()


def told(scene, text):
    """Token to what `word_targets` says of it, "" for none; tokens of which it says nothing are left out."""
    tokenizer = build_tokenizer()
    tokens = tokenizer.tokenize(text)
    rows = {}
    for token, row in zip(tokens, word_targets(scene, tokens).tolist(), strict=True):
        said = {name: ("", *VIEW[name])[c] for name, c in zip(VIEW, row, strict=True) if c != IGNORE}
        if said:
            rows[token.removeprefix("▁")] = said
    return rows


def test_nouns_are_told_what_they_refer_to():
    groups = (Group(2, "red", "circle"), Group(1, "blue", "circle"))
    at = ("red", 10, 10), ("red", 12, 50), ("blue", 50, 30)
    objects = tuple(SceneObject(color, "circle", x, y, 8) for color, x, y in at)
    scene = Scene(np.zeros((SIZE, SIZE, 3), np.uint8), "", SceneSpec(groups), objects)
    assert told(scene, "are the red circles left of the blue circle?") == {
        "circles": {"color": "red", "shape": "circle", "number": "two", "across": "left", "along": ""},
        "circle": {"color": "blue", "shape": "circle", "number": "one", "across": "right", "along": ""},
    }
    nothing = dict.fromkeys(("color", "shape", "number", "across", "along"), "")
    assert told(scene, "is there a red star?") == {"star": nothing}
    assert told(scene, "how many objects are there?") == {"objects": {"shape": "circle", "number": "three"}}
    assert told(scene, "how many do you see?") == {}


def test_in_clutter_a_side_is_that_of_the_noun_before():
    groups = (Group(1, "red", "circle"), Group(2, "blue", "star"), Group(1, "blue", "circle"))
    at = ("red", "circle", 10, 10), ("blue", "star", 30, 30), ("blue", "star", 40, 50), ("blue", "circle", 55, 8)
    objects = (*(SceneObject(*o, 4) for o in at), SceneObject("pink", "sign", 10, 40, 8))
    spec = SceneSpec(groups, text="CAB", sign_color="pink")
    scene = Scene(np.zeros((SIZE, SIZE, 3), np.uint8), "", spec, objects)
    assert told(scene, "is the red circle left of the blue stars?") == {
        "circle": {"color": "red", "shape": "circle", "number": "one"},
        "stars": {"color": "blue", "shape": "star", "number": "two", "across": "right", "along": "below"},
    }
    assert told(scene, "what color is the sign?") == {"sign": {"color": "pink", "shape": "sign", "number": "three"}}
    assert told(scene, "how many blue objects are there?") == {"objects": {"color": "blue", "number": "three"}}


def test_letters_are_told_whether_they_are_there():
    spec = SceneSpec(text="CAB", sign_color="pink")
    scene = Scene(np.zeros((SIZE, SIZE, 3), np.uint8), "", spec, ())
    sign = {"color": "pink", "shape": "sign", "number": "three"}
    letters = {"c": {"letter": "c"}, "o": {"letter": "a"}, "b": {"letter": "b"}}
    assert told(scene, "does the sign say cob?") == {"sign": sign, **letters}
    assert told(scene, "is the letter b on the sign?") == {"b": {"letter": "b"}, "sign": sign}
    assert told(scene, "is the letter x on the sign?") == {"x": {"letter": ""}, "sign": sign}


def test_the_lens_wants_states_that_look_like_their_words():
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    lens, embeddings = Lens(tokenizer), torch.randn(len(tokenizer), 512)
    names = [[word.removeprefix("▁") for word in tokenizer.convert_ids_to_tokens(ids)] for ids in lens.words]
    assert names == [list(words) for words in VIEW.values()]
    wanted = torch.cat([patch_targets(make_scene(seed)) for seed in range(4)])
    states = torch.full((len(wanted), 512), 1e-6)
    for i, ids in enumerate(lens.words):  # each state is the sum of the words that it should be
        states += torch.cat([torch.zeros(1, 512), embeddings[ids]])[wanted[:, i].clamp(min=0)]
    assert lens(states, embeddings, wanted) < 0.5 * lens(states.flip(0), embeddings, wanted)
    assert lens(states[:5], embeddings, torch.full((5, len(VIEW)), IGNORE)) == 0
