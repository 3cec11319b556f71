"""The grammar and its parser are inverse, and the split keeps its promise."""

import numpy as np
import pytest

from tinyworld.captions import CATEGORIES, caption, group_is_held_out, is_held_out, parse_caption, sample_spec


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_paraphrase_parses_back(category):
    rng = np.random.default_rng(0)
    for _ in range(200):
        spec = sample_spec(rng, "all", category)
        assert spec.category == category
        assert parse_caption(caption(spec)) == spec
        assert parse_caption(caption(spec, rng)) == spec


def test_the_splits_are_disjoint_and_complete():
    rng = np.random.default_rng(1)
    for _ in range(300):
        assert not is_held_out(sample_spec(rng, "train"))
        spec = sample_spec(rng, "test")
        assert is_held_out(spec)
        assert spec.text is not None or any(group_is_held_out(group) for group in spec.groups)


@pytest.mark.parametrize("text", ["", "a dog", "six red circles", "two red circles beside a blue square", 'a sign "A"'])
def test_what_is_not_in_the_grammar_is_named(text):
    with pytest.raises(ValueError, match=r"`caption` .* not in the tinyworld grammar"):
        parse_caption(text)


@pytest.mark.parametrize("argument", [{"split": "dev"}, {"category": "colour"}])
def test_bad_arguments_are_named(argument):
    with pytest.raises(ValueError, match=f"`{next(iter(argument))}` must be"):
        sample_spec(np.random.default_rng(0), **argument)
