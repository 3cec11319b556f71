"""The lessons of the vision encoder are what is drawn."""

import numpy as np
import pytest

from tinyworld.captions import LETTERS
from tinyworld.questions import sides
from tinyworld.scenes import SIZE, make_scene
from training.patches import IGNORE, VIEW, letter_boxes, patch_targets
from training.processor import PATCH


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
        shown, where = words(scene), sides(scene)
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
        for letter, left, top, right, bottom in letter_boxes(scene):
            assert letter.lower() in word and np.ptp(scene.image[top:bottom, left:right].astype(int).mean(2)) > 60
