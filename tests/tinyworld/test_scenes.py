"""Scenes are what their spec says and nothing but a function of the seed."""

from itertools import combinations

import numpy as np
import pytest

from tinyworld.captions import CATEGORIES
from tinyworld.scenes import SIZE, make_scene


@pytest.mark.parametrize("category", CATEGORIES)
def test_same_seed_same_pixels(category):
    first, second = make_scene(11, "all", category), make_scene(11, "all", category)
    assert first.caption == second.caption and np.array_equal(first.image, second.image)
    assert not np.array_equal(first.image, make_scene(12, "all", category).image)
    assert first.image.shape == (SIZE, SIZE, 3) and first.image.dtype == np.uint8


@pytest.mark.parametrize("category", ["count", "two_kind", "relation"])
def test_objects_are_those_of_the_spec_inside_the_picture_and_apart(category):
    for seed in range(40):
        scene = make_scene(seed, "all", category)
        asked = sorted((g.color, g.shape) for g in scene.spec.groups for _ in range(g.count))
        assert sorted((o.color, o.shape) for o in scene.objects) == asked
        for o in scene.objects:
            assert o.radius < o.x < SIZE - o.radius and o.radius < o.y < SIZE - o.radius
        for a, b in combinations(scene.objects, 2):
            assert np.hypot(a.x - b.x, a.y - b.y) > a.radius + b.radius


def test_relations_hold():
    for seed in range(60):
        scene = make_scene(seed, "all", "relation")
        n = scene.spec.groups[0].count
        axis = "x" if scene.spec.relation in ("left of", "right of") else "y"
        first, second = ([getattr(o, axis) for o in part] for part in (scene.objects[:n], scene.objects[n:]))
        if scene.spec.relation in ("left of", "above"):
            assert max(first) < min(second)
        else:
            assert min(first) > max(second)
