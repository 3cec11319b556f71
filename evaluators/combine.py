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
        scale: `by_spread` or `by_share`.

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
        values = values.masked_fill(~values.isfinite(), torch.nan)
        centred = values - values.nanmean(1, keepdim=True)
        if calibration is None:
            return centred / (centred.square().nanmean(1, keepdim=True).sqrt() + 1e-8), 1.0
        spread, reliability = calibration.at(noise_level[name])
        return centred / (spread + 1e-8), max(0.0, 2 * reliability - 1)

    return scale


def by_share(valid: torch.Tensor) -> Scale:
    """Scores of tokens are brought to sum 1 over a row, as TransPrune does with its two (arXiv 2507.20630).

    Scores below zero are first lifted so that the row's least is zero. A row whose scores are all zero stays zero: that
    evaluator has no say there. So has no token where `valid` ``(batch, tokens)`` is False.
    """

    def scale(name: str, values: torch.Tensor) -> tuple[torch.Tensor, float]:
        values = values.masked_fill(~valid, 0.0)
        values = (values - values.amin(1, keepdim=True).clamp(max=0)).masked_fill(~valid, 0.0)
        return values / values.sum(1, keepdim=True).clamp(min=1e-12), 1.0

    return scale
