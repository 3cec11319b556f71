"""Many evaluators, one score: standardise, weight, sum."""

from collections.abc import Mapping

import torch

from .base import Evaluator


def combine(
    scores: Mapping[str, torch.Tensor],
    evaluators: Mapping[str, Evaluator],
    weights: Mapping[str, float],
    noise_level: Mapping[str, float],
) -> tuple[torch.Tensor, dict[str, float]]:
    """Sums the evaluators' scores after bringing them to one scale.

    A calibrated evaluator is divided by its typical spread over candidates at this noise level, so that where it cannot
    tell this sample's candidates apart it has little say, and weighted by how far its reliability there is above
    chance: ``weight · max(0, 2 · reliability - 1)``. One without calibration is divided by its own spread over these
    candidates and weighted by `weights` alone.

    A candidate whose score is not finite, from an evaluator with a weight, comes out as NaN; the others as if it were
    not there.

    Args:
        scores: name to ``(batch, candidates)``.
        evaluators: the same names.
        weights: factor of each evaluator, 1 where absent.
        noise_level: of the candidates that each evaluator saw, in [0, 1].

    Returns:
        The combined scores ``(batch, candidates)`` and the weight that each evaluator had.
    """
    total, used = torch.zeros_like(next(iter(scores.values()))), {}
    for name, values in scores.items():
        calibration = evaluators[name].calibration
        values = values.masked_fill(~values.isfinite(), torch.nan)
        centred = values - values.nanmean(1, keepdim=True)
        if calibration is None:
            spread, trust = centred.square().nanmean(1, keepdim=True).sqrt(), 1.0
        else:
            spread, reliability = calibration.at(noise_level[name])
            trust = max(0.0, 2 * reliability - 1)
        used[name] = weights.get(name, 1.0) * trust
        if used[name] > 0:
            total = total + used[name] * centred / (spread + 1e-8)
    return total, used
