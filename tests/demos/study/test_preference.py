"""The statistics of votes, against independent computations."""

import math

import numpy as np
import pytest
from scipy import stats

from demos.study import preference


def test_sign_test_against_its_formulas():
    found = preference.sign_test(60, 40)
    z, n, p = 1.959963984540054, 100, 0.6
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert (found["low"], found["high"]) == pytest.approx((middle - half, middle + half))
    tail = sum(math.comb(100, k) for k in range(60, 101)) / 2**100
    assert found["p"] == pytest.approx(2 * tail)
    assert preference.sign_test(0, 0) == {"rate": None, "low": None, "high": None, "p": None}
    assert preference.sign_test(5, 5)["p"] == 1


def test_an_interval_for_whoever_looks_after_every_vote():
    """Under one half: how many of 2,000 studies of 1,000 votes ever seem to find a preference."""
    wins = (np.random.default_rng(0).random((2000, 1000)) < 0.5).cumsum(1)
    votes = np.arange(1, 1001)
    critical = [preference.anytime(n - loss, loss)["p"] for n in (10, 100, 1000) for loss in (n // 4,)]
    assert critical[0] > 0.05 > critical[1] > critical[2]
    most = np.zeros(1000, int)  # losses at which the interval leaves one half out
    loss = 0
    for place, n in enumerate(votes):
        while loss <= n // 2 and preference.anytime(n - loss, loss)["p"] < 0.05:
            loss += 1
        most[place] = loss
    losses = np.minimum(wins, votes - wins)
    once_too_often = (losses < stats.binom.ppf(0.025, votes, 0.5)).any(1).mean()
    assert once_too_often > 0.3  # what looking again and again does to the exact test
    assert 0.01 < (losses < most).any(1).mean() < 0.05


@pytest.mark.parametrize("wins, losses", [(60, 40), (0, 7), (3, 0), (342, 258)])
def test_the_anytime_interval_holds_what_the_mixture_does_not_refute(wins, losses):
    found = preference.anytime(wins, losses)
    grid = np.linspace(0, 1, 200_001)[1:-1]
    mixture = stats.betabinom.logpmf(wins, wins + losses, 1, 1)  # of the same votes in any order
    kept = grid[mixture - stats.binom.logpmf(wins, wins + losses, grid) < math.log(20)]
    assert (found["low"], found["high"]) == pytest.approx((kept.min(), kept.max()), abs=2e-5)
    assert found["p"] == pytest.approx(min(1, stats.binom.pmf(wins, wins + losses, 0.5) / math.exp(mixture)))
    test = preference.sign_test(wins, losses)
    assert found["low"] < test["low"] + 1e-9 and test["high"] - 1e-9 < found["high"]
    assert preference.anytime(0, 0) == {"low": None, "high": None, "p": None}


def test_holm_by_hand():
    """Holm 1979: the smallest times their number, the next times one less, and never below one before."""
    assert preference.holm([0.01, 0.04, None, 0.03, 0.005]) == pytest.approx([0.03, 0.06, None, 0.06, 0.02])
    assert preference.holm([0.5, 0.9]) == [1, 1] and preference.holm([None]) == [None] and preference.holm([]) == []


def test_clustered_interval_is_wide_where_votes_on_a_prompt_are_alike():
    rng = np.random.default_rng(0)
    prompts = np.repeat(np.arange(40), 25)
    alike = np.repeat(rng.integers(0, 2, 40), 25).astype(float)
    apart = rng.integers(0, 2, 1000).astype(float)
    low, high = preference.clustered_interval(alike, prompts)
    assert low < alike.mean() < high
    spread = 2 * 1.96 * alike[::25].std() / math.sqrt(40)  # as of 40 votes, not 1,000
    assert high - low == pytest.approx(spread, rel=0.1)
    low, high = preference.clustered_interval(apart, prompts)
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / math.sqrt(1000), rel=0.25)
    assert preference.clustered_interval(apart, np.zeros(1000)) is None


def test_agreement():
    assert preference.agreement(np.array([[3, 0, 0], [0, 0, 3], [0, 2, 0]])) == pytest.approx(1)
    assert abs(preference.agreement(np.random.default_rng(0).multinomial(8, [1 / 3] * 3, 400))) < 0.03
    # By hand: of six votes in three pairs of raters, two pairs agree.
    expected = 1 - (2 / 6) / (2 * 3 * 3 / (6 * 5))
    assert preference.agreement(np.array([[2, 0], [0, 2], [1, 1], [1, 0]])) == pytest.approx(expected)
    assert preference.agreement(np.array([[1, 0], [0, 1]])) is None
    assert preference.agreement(np.array([[2, 0], [2, 0]])) is None


def test_strengths_recover_a_known_order():
    rng, truth = np.random.default_rng(0), np.array([150.0, 0.0, -150.0])
    rate = 1 / (1 + 10 ** ((truth - truth[:, None]) / 400))  # of the first against the second
    wins = np.zeros((60, 3, 3))
    for prompt in wins:
        for a, b in ((0, 1), (0, 2), (1, 2)):
            prompt[a, b] = rng.binomial(20, rate[a, b])
            prompt[b, a] = 20 - prompt[a, b]
    found = preference.strengths(wins)
    assert found["strength"] == pytest.approx(truth, abs=15)
    # 2,400 votes on each method: one standard deviation is 400 / ln 10 · sqrt(1 / (2400 · 0.22)), about 7.6, a bit less
    # for the middle one.
    for low, value, high in zip(found["low"], found["strength"], found["high"], strict=True):
        assert low < value < high and 15 < high - low < 40
    assert sum(found["strength"]) == pytest.approx(0, abs=1e-6)
    one_sided = preference.strengths(np.array([[[0.0, 5.0], [0.0, 0.0]]]))
    assert np.isfinite(one_sided["strength"]).all() and one_sided["low"] is None


@pytest.mark.parametrize(("rate", "power"), [(0.8, 0.8), (0.2, 0.9), (0.95, 0.8)])
def test_votes_needed_by_the_definition_of_power(rate, power):
    def reached(n):
        rejects = [stats.binomtest(k, n).pvalue <= 0.05 for k in range(n + 1)]
        return stats.binom.pmf(np.arange(n + 1), n, rate)[rejects].sum()

    found = preference.votes_needed(rate, power)
    assert reached(found - 1) < power
    assert all(reached(n) >= power for n in range(found, found + 4))


def test_votes_needed_for_a_small_preference():
    z = stats.norm.isf(0.025) / 2 + stats.norm.ppf(0.8) * math.sqrt(0.538 * 0.462)
    assert preference.votes_needed(0.538) == pytest.approx((z / 0.038) ** 2, rel=0.04)
    for bad in (0.5, 0.0, 1.2, math.nan):
        with pytest.raises(ValueError, match="rate"):
            preference.votes_needed(bad)
    with pytest.raises(ValueError, match="power"):
        preference.votes_needed(0.6, 1.0)
