"""Many evaluators, one score: bring to one scale, weight, sum. The same for scales of guidance and for tokens, which
differ in the scale that scores are brought to."""

from collections.abc import Callable, Mapping

import torch

from .base import Evaluator

# (name, scores) to the scores on the common scale and how far they are to be trusted, from 0.
Scale = Callable[[str, torch.Tensor], tuple[torch.Tensor, float]]


def combine(
    scores: Mapping[str, torch.Tensor], weights: Mapping[str, float], scale: Scale
) -> tuple[torch.Tensor, dict[str, float]]:
    """Sums the evaluators' scores after bringing them to one scale.

    Args:
        scores: name to ``(batch, candidates)``.
        weights: factor of each evaluator, 1 where absent.
        scale: `by_spread`, `by_gain` or `by_share`.

    Returns:
        The combined scores ``(batch, candidates)`` and the weight that each evaluator had.
    """
    total, used = torch.zeros_like(next(iter(scores.values()))), {}
    for name, values in scores.items():
        values, trust = scale(name, values)
        used[name] = weights.get(name, 1.0) * trust
        if used[name] > 0:
            total = total + used[name] * values
    return total, used


def by_spread(evaluators: Mapping[str, Evaluator], noise_level: Mapping[str, float]) -> Scale:
    """Scores of candidates are compared by how far they are from the mean.

    A calibrated evaluator is divided by its typical spread over candidates at this noise level, so that where it cannot
    tell this sample's candidates apart it has little say, and trusted as far as its reliability there is above chance:
    ``max(0, 2 · reliability - 1)``. One without calibration is divided by its own spread over these candidates.

    A candidate whose score is not finite, from an evaluator with a weight, comes out as NaN; the others as if it were
    not there.

    Args:
        evaluators: by name.
        noise_level: of the candidates that each evaluator saw, in [0, 1].
    """

    def scale(name: str, values: torch.Tensor) -> tuple[torch.Tensor, float]:
        calibration = evaluators[name].calibration
        if calibration is None:
            return standardised(values), 1.0
        spread, reliability = calibration.at(noise_level[name])
        return centred(values) / (spread + 1e-8), max(0.0, 2 * reliability - 1)

    return scale


def by_gain(gain: Mapping[str, torch.Tensor]) -> Scale:
    """Scores of candidates are divided by their own spread and multiplied by the `gain` ``(batch, 1)`` of the
    evaluator, see `relative_gain`; its calibration is not asked."""
    return lambda name, values: (gain[name] * standardised(values), 1.0)


def relative_gain(now: torch.Tensor, before: torch.Tensor, absolute: bool) -> torch.Tensor:
    r"""How much better an evaluator finds a row's candidates ``(batch, candidates)`` than `before`, ``(batch, 1)``:

    .. math:: \alpha_{e,t} = (e_t - e_{t+1}) / e_{t+1}

    the adaptive weight of Dynamic CFG (arXiv 2509.16131), where steps count down. Of which candidate the scores are is
    left open there; here ``e_t`` is the mean over the candidates of a step. The weight turns negative where a score
    falls, or rises below zero: the worse candidates are then preferred, unless `absolute`. 0 where `before` is 0.
    """
    gain = ((mean_of(now) - before) / before).nan_to_num(0.0, 0.0, 0.0)
    return gain.abs() if absolute else gain


def mean_of(values: torch.Tensor) -> torch.Tensor:
    """Of the finite scores of each row, ``(batch, 1)``."""
    return values.masked_fill(~values.isfinite(), torch.nan).nanmean(1, keepdim=True)


def centred(values: torch.Tensor) -> torch.Tensor:
    """Scores less their row's mean; NaN where not finite."""
    return values.masked_fill(~values.isfinite(), torch.nan) - mean_of(values)


def standardised(values: torch.Tensor) -> torch.Tensor:
    """Scores less their row's mean, divided by their spread."""
    values = centred(values)
    return values / (values.square().nanmean(1, keepdim=True).sqrt() + 1e-8)


def by_share(valid: torch.Tensor) -> Scale:
    """Scores of tokens are brought to sum 1 over a row, as TransPrune does with its two (arXiv 2507.20630).

    Scores below zero are first lifted so that the row's least is zero. A row whose scores are all zero stays zero: that
    evaluator has no say there. So has no token where `valid` ``(batch, tokens)`` is False.
    """

    absent = ~valid

    def scale(name: str, values: torch.Tensor) -> tuple[torch.Tensor, float]:
        values = values.masked_fill(absent, 0.0)
        values = (values - values.amin(1, keepdim=True).clamp(max=0)).masked_fill(absent, 0.0)
        return values / values.sum(1, keepdim=True).clamp(min=1e-12), 1.0

    return scale
