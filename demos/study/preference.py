"""What votes say: how often one method is preferred to another, how sure that is, and how many votes it takes.

A vote for one of two is 1 or 0 in a rate, and a tie half a vote for each.
"""

import math
from collections.abc import Sequence
from typing import Any

import choix
import krippendorff
import numpy as np
from scipy import optimize, special, stats

CONFIDENCE = 0.95
RESAMPLES = 2000
STRENGTH_RESAMPLES = 300
PRIOR = 0.1  # wins that every method starts with against every other: keeps strengths finite after few votes


def sign_test(wins: int, losses: int) -> dict[str, Any]:
    """The rate of `wins` among the votes that were no tie, its Wilson interval, and the p-value of the two-sided exact
    test of one half; each `None` without a vote. Takes votes to be independent."""
    if wins + losses == 0:
        return {"rate": None, "low": None, "high": None, "p": None}
    test = stats.binomtest(wins, wins + losses)
    interval = test.proportion_ci(CONFIDENCE, method="wilson")
    return {"rate": test.statistic, "low": interval.low, "high": interval.high, "p": test.pvalue}


def anytime(wins: int, losses: int) -> dict[str, Any]:
    """The interval of the rate of `wins`, and the p-value of one half, that hold for whoever looks after every vote and
    stops when they like; each `None` without a vote. Takes votes to be independent.

    With a uniform mixture over rates the likelihood ratio against a rate ``p`` is ``M = B(1 + wins, 1 + losses) /
    (p^wins (1 - p)^losses)``, ``B`` the beta function. Where ``p`` is the truth it is a martingale of mean 1, which
    ever reaches 20 with a probability of at most 1/20 (Ville's inequality); the interval has every rate with ``M < 20``
    (Robbins 1970, https://doi.org/10.1214/aoms/1177696786; as a confidence sequence in Howard, Ramdas, McAuliffe and
    Sekhon 2021, https://arxiv.org/abs/1810.08240). It is wider than that of one look.
    """
    if wins + losses == 0:
        return {"low": None, "high": None, "p": None}

    def evidence(rate: float) -> float:
        """The logarithm of M."""
        seen = special.xlogy(wins, rate) + special.xlogy(losses, 1 - rate)
        return float(special.betaln(1 + wins, 1 + losses) - seen)

    def edge(end: float) -> float:
        """Where on the way from the rate seen to `end` the evidence becomes enough."""
        return float(optimize.brentq(lambda rate: min(evidence(rate), 1e6) + math.log(1 - CONFIDENCE), seen, end))

    seen = wins / (wins + losses)
    return {
        "low": edge(0.0) if wins else 0.0,
        "high": edge(1.0) if losses else 1.0,
        "p": min(1.0, math.exp(-evidence(0.5))),
    }


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P-values adjusted by Holm's step-down method: to call all of those below 0.05 found errs, anywhere among them,
    with at most that probability, however they depend on each other. `None` stays and does not count."""
    order = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(order):
        adjusted[place] = largest = max(largest, min(1.0, (len(order) - rank) * p))
    return adjusted


def clustered_interval(scores: np.ndarray, clusters: np.ndarray, seed: int = 0) -> tuple[float, float] | None:
    """The bootstrap interval of the mean of `scores` when whole clusters are drawn: votes on one prompt are alike.

    Args:
        scores: ``(votes,)`` in [0, 1].
        clusters: ``(votes,)`` of anything that tells prompts apart.

    Returns:
        low and high, or `None` for fewer than two clusters.
    """
    _, index = np.unique(clusters, return_inverse=True)
    sums, counts = np.bincount(index, scores), np.bincount(index)
    if len(counts) < 2:
        return None
    found = stats.bootstrap(
        (sums, counts),
        lambda sums, counts, axis: sums.sum(axis) / counts.sum(axis),
        paired=True,
        vectorized=True,
        method="percentile",
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        batch=100,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def agreement(counts: np.ndarray) -> float | None:
    """Krippendorff's alpha, nominal: 1 where raters agree, 0 where they might as well guess.

    Args:
        counts: ``(pairs, choices)``, how many raters chose what.

    Returns:
        alpha, or `None` where no pair has two votes or all votes are for the same choice.
    """
    shared = counts[counts.sum(1) > 1]
    if len(shared) == 0 or (shared.sum(0) > 0).sum() < 2:
        return None
    return float(krippendorff.alpha(value_counts=shared, level_of_measurement="nominal"))


def strengths(wins: np.ndarray, seed: int = 0) -> dict[str, list[float] | None]:
    """Bradley–Terry strengths of many methods, in Elo points (400 for odds of 10 to 1) around 0.

    Args:
        wins: ``(prompts, methods, methods)``, how often the first was preferred to the second on a prompt.

    Returns:
        ``strength``, and the clustered bootstrap's ``low`` and ``high`` (`None` for one prompt), each ``(methods,)``.
    """

    def fit(matrix: np.ndarray) -> np.ndarray:
        prior = PRIOR * (1 - np.eye(len(matrix)))
        return choix.ilsr_pairwise_dense(matrix + prior, max_iter=10_000) * 400 / math.log(10)

    found: dict[str, list[float] | None] = {"strength": fit(wins.sum(0)).tolist(), "low": None, "high": None}
    if len(wins) > 1:
        rng = np.random.default_rng(seed)
        draws = rng.multinomial(len(wins), np.full(len(wins), 1 / len(wins)), STRENGTH_RESAMPLES)
        fits = [fit(np.tensordot(draw, wins, 1)) for draw in draws]
        tail = 100 * (1 - CONFIDENCE) / 2
        found["low"], found["high"] = np.percentile(fits, [tail, 100 - tail], axis=0).tolist()
    return found


def votes_needed(rate: float, power: float = 0.8, level: float = 0.05) -> int:
    """How many votes, ties left out, the two-sided exact test takes to find a preference of `rate` with probability
    `power`: the least number from which on its power never falls below that again.

    Raises:
        ValueError: `rate` is not between 0 and 1 or within 0.005 of one half, or `power` not between `level` and 1.
    """
    if not 0 < rate < 1 or abs(rate - 0.5) < 0.005:
        raise ValueError(f"`rate` must be between 0 and 1 and at least 0.005 away from one half, got {rate!r}.")
    if not 0 < level < power < 1:
        raise ValueError(f"`power` must be between `level` and 1, got {power!r} and {level!r}.")
    rate = max(rate, 1 - rate)
    spread = stats.norm.isf(level / 2) / 2 + stats.norm.ppf(power) * math.sqrt(rate * (1 - rate))
    about = (spread / (rate - 0.5)) ** 2
    # The exact test's power rises and falls by a little from each number to the next, around a rising line.
    numbers = np.arange(1, int(1.3 * about) + 50)
    critical = stats.binom.ppf(level / 2, numbers, 0.5)  # the test rejects below this many losses
    reached = stats.binom.cdf(critical - 1, numbers, 1 - rate) + stats.binom.sf(numbers - critical, numbers, 1 - rate)
    return int(numbers[reached < power].max()) + 1
