"""The evaluators that a method asks: checked once, then called on whatever candidates the method has."""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from evaluators.base import Context, Evaluator, as_evaluator, score
from evaluators.combine import Scale, by_spread, combine

PROBE = 64  # the side of the pictures that a judge is tried on


class Silent(UserWarning):
    """An evaluator has nothing to say of any prompt of a call."""


class Panel:
    """Evaluators and the weight of each.

    Args:
        evaluators: evaluators or plain functions (`evaluators.base`), with distinct names.
        weights: factor of an evaluator by name, finite and at least 0; 1 where absent. See `evaluators.combine`.

    Raises:
        ValueError: an argument outside what is said here. TypeError: an evaluator that is none, or no list.
    """

    def __init__(self, evaluators: Sequence[Evaluator | Callable], weights: Mapping[str, float] | None = None) -> None:
        if not isinstance(evaluators, Iterable):
            raise TypeError(f"`evaluators` must be a list, got {type(evaluators).__name__}.")
        panel = [as_evaluator(e) for e in evaluators]
        self.evaluators = {e.name: e for e in panel}
        self.weights = dict(weights or {})
        if len(self.evaluators) != len(panel):
            raise ValueError(f"`evaluators` must have distinct names, got {[e.name for e in panel]}.")
        if unknown := set(self.weights) - set(self.evaluators):
            raise ValueError(f"`weights` names no evaluator: {sorted(unknown)}; there are {sorted(self.evaluators)}.")
        if bad := {k: v for k, v in self.weights.items() if not (math.isfinite(v) and v >= 0)}:
            raise ValueError(f"`weights` must be finite and at least 0, got {bad}.")

    def check(self, sample: torch.Tensor, prompt: Sequence[str] | None) -> None:
        """Tries every evaluator once on noise shaped as `sample` ``(batch, C, H, W)``, before any denoising. Warns of
        one that has nothing to say of any prompt.

        Raises:
            ValueError: an evaluator wants a prompt and there is none, takes another number of latent channels, or
                returns a wrong shape or values that are not finite.
        """
        generator = torch.Generator(sample.device).manual_seed(0)
        noise = torch.randn(sample.shape, generator=generator, device=sample.device)
        for name, evaluator in self.evaluators.items():
            if evaluator.needs_prompt and prompt is None:
                raise ValueError(f"evaluator {name!r} reads the prompt, and the pipeline was given only embeddings.")
            if prompt is not None and silent(evaluator, prompt):
                warnings.warn(f"evaluator {name!r} finds nothing to judge in the prompt and is silent", Silent, 2)
            if evaluator.in_channels not in (None, sample.shape[1]):
                raise ValueError(
                    f"evaluator {name!r} takes latents of {evaluator.in_channels} channels, this pipeline's have "
                    f"{sample.shape[1]}: it belongs to another VAE."
                )
            if evaluator.space == "pixels":  # of one row, for a judge may be large
                pictures = torch.rand(1, 2, 3, PROBE, PROBE, generator=generator, device=sample.device)
                scores = score(evaluator, pictures, Context(prompt and prompt[:1], 0.0, 1.0))
            else:
                scores = score(evaluator, torch.stack([noise, -noise], 1), Context(prompt, 0.0, 1.0))
            if not scores.isfinite().all():
                raise ValueError(f"evaluator {name!r} must return finite scores, got {scores.tolist()}.")

    def ask(
        self,
        candidates: Callable[[str], torch.Tensor],
        noise_level: Callable[[str], float],
        prompt: Sequence[str] | None,
        timestep: torch.Tensor | float,
        due: Callable[[Evaluator], bool] = lambda evaluator: True,
        alive: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """The combined score of every candidate ``(batch, candidates)``, and how it came about, for the trace.

        Args:
            candidates: space to ``(batch, candidates, C, H, W)``; called once for each space that is read.
            noise_level: space to the noise share of those candidates, in [0, 1].
            prompt: one for each row.
            due: which evaluators to ask, at least one.
            alive: ``(batch,)`` bool, on the CPU: the rows that `candidates` returns; the others' scores are 0, which
                tell no candidates apart. `None`: all of them.
        """
        if alive is not None and prompt is not None:
            prompt = [text for text, wanted in zip(prompt, alive.tolist(), strict=True) if wanted]
        spaces: dict[str, torch.Tensor] = {}
        scores, levels = {}, {}
        for name, evaluator in self.evaluators.items():
            if not due(evaluator):
                continue
            space = evaluator.space
            if space not in spaces:
                spaces[space] = self.shrink(candidates(space)) if space == "pixels" else candidates(space)
            levels[name] = noise_level(space)
            found = score(evaluator, spaces[space], Context(prompt, timestep, levels[name]))
            scores[name] = found if alive is None else in_their_places(found, alive)
        total, weights = combine(scores, self.weights, self.scale(scores, levels))
        favourites = {name: preferred(values).masked_fill(level(values), -1) for name, values in scores.items()}
        told = {"scores": scores, "favourites": favourites, "noise_levels": levels, "weights": weights, "total": total}
        return total, told

    def scale(self, scores: Mapping[str, torch.Tensor], levels: Mapping[str, float]) -> Scale:
        """What brings `scores`, of candidates at the noise `levels`, to one scale."""
        return by_spread(self.evaluators, levels)

    def shrink(self, pictures: torch.Tensor) -> torch.Tensor:
        """Pictures ``(batch, candidates, 3, ..., H, W)`` no larger than the evaluator that wants the largest needs."""
        wanted = max(getattr(e, "resolution", 0) or 2**30 for e in self.evaluators.values() if e.space == "pixels")
        shorter = min(pictures.shape[-2:])
        if shorter <= wanted:
            return pictures
        size = [round(side * wanted / shorter) for side in pictures.shape[-2:]]
        flat = pictures.movedim(2, -3).flatten(0, -4)
        small = torch.nn.functional.interpolate(flat, size=size, mode="bicubic", antialias=True).clamp(0, 1)
        return small.unflatten(0, pictures.movedim(2, -3).shape[:-3]).movedim(-3, 2)


def silent(evaluator: Evaluator, prompts: Sequence[str]) -> bool:
    """Whether `evaluator` says of itself that it has nothing to say of any of the prompts."""
    speaks_of = getattr(evaluator, "speaks_of", None)
    return speaks_of is not None and not any(map(speaks_of, prompts))


def in_their_places(values: torch.Tensor, alive: torch.Tensor) -> torch.Tensor:
    """What there is of the rows that are `alive` ``(batch,)`` bool, among zeros for the others."""
    places = values.new_zeros(len(alive), *values.shape[1:])
    places[alive.to(values.device)] = values
    return places


def level(scores: torch.Tensor) -> torch.Tensor:
    """The rows that tell no candidates apart ``(batch,)``."""
    return (scores == scores[:, :1]).all(dim=1)


def preferred(total: torch.Tensor) -> torch.Tensor:
    """The place of the best score of each row ``(batch,)``; one that is not finite is never the best."""
    return total.nan_to_num(nan=-torch.inf).argmax(dim=1)
