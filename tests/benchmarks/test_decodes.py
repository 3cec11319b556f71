"""Three scores that stand for eight: what is read off the quadratic, and how choices are compared."""

import numpy as np

from benchmarks.decodes import KEPT, by_three, compare
from guidance import SCALES

X = np.array(SCALES)


def test_a_quadratic_is_found_again():
    scores = np.stack([-((X - 6.5) ** 2), 3 * X + 1, 0.5 * X**2 - X])
    np.testing.assert_allclose(by_three(scores), scores, atol=1e-9)
    assert compare(scores) == {
        "choices": 3,
        "agreement": 1.0,
        "within_a_neighbour": 1.0,
        "regret": 0.0,
        "best_is_an_end": round(2 / 3, 3),
    }


def test_what_lies_between_is_missed():
    """A peak between the decoded ones, two places from what the three like best; rows all alike do not count."""
    peak = np.zeros((2, 8))
    peak[0, 2], peak[0, KEPT[1]] = 4.0, 1.0
    found = compare(peak)
    assert (found["choices"], found["agreement"], found["within_a_neighbour"]) == (1, 0.0, 0.0)
    assert found["regret"] == 0.75
    assert compare(peak[1:]) == {"choices": 0}
