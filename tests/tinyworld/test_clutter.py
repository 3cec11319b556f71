"""Clutter is what its objects and its sign say, and keeps to its split."""

import numpy as np
import pytest

from tinyworld.captions import SceneSpec, group_is_held_out, is_held_out
from tinyworld.clutter import OBJECTS, make_clutter
from tinyworld.scenes import LETTERS_AMONG, PALETTE, SIZE, letter_boxes


@pytest.fixture(scope="module")
def pictures():
    return [make_clutter(seed) for seed in range(30)]


def test_the_same_seed_is_the_same_picture(pictures):
    again = make_clutter(3)
    assert np.array_equal(again.image, pictures[3].image) and again.spec == pictures[3].spec
    assert again.image.shape == (SIZE, SIZE, 3) and again.image.dtype == np.uint8
    assert len({scene.image.tobytes() for scene in pictures}) == len(pictures)


def test_objects_are_where_they_are_said_to_be(pictures):
    for scene in pictures:
        *objects, sign = scene.objects
        assert OBJECTS[0] <= len(objects) <= OBJECTS[1] and sign.shape == "sign"
        assert [(o.color, o.shape) for o in objects] == [
            (group.color, group.shape) for group in scene.spec.groups for _ in range(group.count)
        ]
        for i, o in enumerate(objects):
            assert o.radius < min(o.x, o.y) and max(o.x, o.y) < SIZE - o.radius
            assert all(np.hypot(o.x - p.x, o.y - p.y) > o.radius + p.radius + 1 for p in objects[:i])
            around = scene.image[int(o.y - 3) : int(o.y + 4), int(o.x - 3) : int(o.x + 4)].reshape(-1, 3).astype(float)
            distances = [np.abs(around - color).sum(-1).min() for color in PALETTE.values()]
            assert list(PALETTE)[int(np.argmin(distances))] == o.color


def test_the_sign_has_small_letters_and_a_colour_of_its_own(pictures):
    for scene in pictures:
        *objects, sign = scene.objects
        assert sign.color == scene.spec.sign_color not in {o.color for o in objects}
        boxes = letter_boxes(scene.spec.text, sign, LETTERS_AMONG)
        assert len(boxes) == len(scene.spec.text) and (boxes[:, 1] - boxes[:, 0] <= 9).all()
        for top, bottom, left, right in boxes:
            assert abs((left + right) / 2 - sign.x) < sign.radius and top > 0 and bottom < SIZE
            assert np.ptp(scene.image[top:bottom, left:right].astype(int).mean(2)) > 60
            assert all(
                o.x + o.radius < left or o.x - o.radius > right or o.y + o.radius < top or o.y - o.radius > bottom
                for o in objects
            )


def test_where_no_kind_is_left_it_begins_anew():
    """Of the kinds that are held out all are there, and one object is still wanted: this would go on for ever."""
    scene = make_clutter(2157396493805640351, "test")
    assert OBJECTS[0] <= sum(group.count for group in scene.spec.groups) <= OBJECTS[1]
    assert all(group_is_held_out(group) for group in scene.spec.groups)


def test_splits(pictures):
    assert not any(is_held_out(scene.spec) for scene in pictures)
    for seed in range(10):
        spec = make_clutter(seed, "test").spec
        assert all(group_is_held_out(group) for group in spec.groups) and is_held_out(SceneSpec(text=spec.text))
    with pytest.raises(ValueError, match="`split` must be"):
        make_clutter(0, "all")
