"""The greedy search: at each step, for each sample, the scale whose candidate the evaluators like best."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch

from evaluators.base import Context, Evaluator, as_evaluator, score
from evaluators.combine import combine

from .schedules import check_window
from .step import DenoisingStep

SCALES = (1.0, 2.0, 3.0, 4.5, 6.0, 8.0, 10.0, 13.0)


class GreedySearch:
    r"""Dynamic classifier-free guidance via online feedback (arXiv 2509.16131).

    .. math:: s_t = \arg\max_{s \in S} \sum_e w_e(t) \, z_e(x_{t-1}(s)), \quad x_{t-1}(s) = \mathrm{step}(u + s(c - u))

    The denoiser runs as it does without the search; per candidate only the evaluators run.

    Args:
        evaluators: evaluators or plain functions (`evaluators.base`), with distinct names.
        scales: candidate guidance scales, finite, at least 0, distinct. A single one is static guidance.
        weights: factor of an evaluator by name; 1 where absent. See `evaluators.combine`.
        start, stop: the stretch of the steps that is searched, ``0 <= start < stop <= 1``; outside it the pipeline's
            own `guidance_scale` is used.
        every: search at every n-th step and hold the scale in between.

    Raises:
        ValueError: an argument outside what is said here. TypeError: an evaluator that is none, or no list.
    """

    def __init__(
        self,
        evaluators: Sequence[Evaluator | Callable],
        scales: Sequence[float] = SCALES,
        weights: Mapping[str, float] | None = None,
        start: float = 0.0,
        stop: float = 1.0,
        every: int = 1,
    ) -> None:
        for name, value in (("evaluators", evaluators), ("scales", scales)):
            if not isinstance(value, Iterable):
                raise TypeError(f"`{name}` must be a list, got {type(value).__name__}.")
        panel = [as_evaluator(e) for e in evaluators]
        self.evaluators = {e.name: e for e in panel}
        self.scales = tuple(float(s) for s in scales)
        self.weights = dict(weights or {})
        self.start, self.stop, self.every = start, stop, every
        if len(self.evaluators) != len(panel):
            raise ValueError(f"`evaluators` must have distinct names, got {[e.name for e in panel]}.")
        if not self.scales or len(set(self.scales)) != len(self.scales):
            raise ValueError(f"`scales` must be distinct and at least one, got {list(scales)}.")
        if not all(math.isfinite(s) and s >= 0 for s in self.scales):
            raise ValueError(f"`scales` must be finite and at least 0, got {list(scales)}.")
        if not panel and len(self.scales) > 1:
            raise ValueError("`evaluators` is empty: choosing among several `scales` takes at least one evaluator.")
        if unknown := set(self.weights) - set(self.evaluators):
            raise ValueError(f"`weights` names no evaluator: {sorted(unknown)}; there are {sorted(self.evaluators)}.")
        if bad := {k: v for k, v in self.weights.items() if not (math.isfinite(v) and v >= 0)}:
            raise ValueError(f"`weights` must be finite and at least 0, got {bad}.")
        check_window(start, stop)
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"`every` must be an integer of at least 1, got {every!r}.")

    def check(self, sample: torch.Tensor, prompt: Sequence[str] | None) -> None:
        """Tries every evaluator once on noise shaped as `sample` ``(batch, C, H, W)``, before any denoising.

        Raises:
            ValueError: an evaluator wants a prompt and there is none, takes another number of latent channels, or
                returns a wrong shape or values that are not finite.
        """
        for name, evaluator in self.evaluators.items():
            if evaluator.needs_prompt and prompt is None:
                raise ValueError(f"evaluator {name!r} reads the prompt, and the pipeline was given only embeddings.")
            if evaluator.in_channels not in (None, sample.shape[1]):
                raise ValueError(
                    f"evaluator {name!r} takes latents of {evaluator.in_channels} channels, this pipeline's have "
                    f"{sample.shape[1]}: it belongs to another VAE."
                )
            noise = torch.randn(sample.shape, generator=torch.Generator().manual_seed(0)).to(sample.device)
            scores = score(evaluator, torch.stack([noise, -noise], 1), Context(prompt, 0.0, 1.0))
            if not scores.isfinite().all():
                raise ValueError(f"evaluator {name!r} must return finite scores, got {scores.tolist()}.")

    def decide(self, step: DenoisingStep) -> tuple[torch.Tensor | None, dict]:
        """The scale of every row ``(batch,)``, `None` to leave the pipeline's own, and its reasons, for the trace.

        A candidate whose score is not finite is never chosen. The pipeline's own scale stays where nothing can be told:
        no evaluator has a weight at this noise level, or a row has no finite score.
        """
        if not self.start <= step.progress <= self.stop:
            return None, {}
        if len(self.scales) == 1:
            return step.full(self.scales[0]), {}
        offset = step.index - math.ceil(self.start * max(1, step.num_steps - 1))
        if offset % self.every and step.previous is not None:
            return step.previous, {}
        spaces: dict[str, torch.Tensor] = {}
        scores, levels = {}, {}
        for name, evaluator in self.evaluators.items():
            space = evaluator.space
            if space not in spaces:
                spaces[space] = step.candidates(self.scales, space)
            levels[name] = step.noise_level(space)
            scores[name] = score(evaluator, spaces[space], Context(step.prompt, step.timestep, levels[name]))
        total, weights = combine(scores, self.evaluators, self.weights, levels)
        record = {"scores": scores, "noise_levels": levels, "weights": weights, "total": total}
        if not any(weights.values()):
            return None, record
        best = total.nan_to_num(nan=-torch.inf).argmax(dim=1)
        chosen = torch.tensor(self.scales, device=best.device)[best]
        return torch.where(total.isnan().all(dim=1), step.own_scale, chosen), record
