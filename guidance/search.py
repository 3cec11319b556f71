"""The greedy search: at each step, for each sample, the scale whose candidate the evaluators like best."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch

from evaluators.base import Evaluator
from evaluators.combine import Scale, by_gain, mean_of, relative_gain

from .panel import Panel, level, preferred
from .schedules import check_window
from .step import Decision, DenoisingStep

SCALES = (1.0, 2.0, 3.0, 4.5, 6.0, 8.0, 10.0, 13.0)
WEIGHTINGS = ("calibrated", "adaptive", "adaptive_abs")


class GreedySearch(Panel):
    r"""Dynamic classifier-free guidance via online feedback (arXiv 2509.16131).

    .. math:: s_t = \arg\max_{s \in S} \sum_e w_e(t) \, z_e(x_{t-1}(s)), \quad x_{t-1}(s) = \mathrm{step}(u + s(c - u))

    The denoiser runs as it does without the search; per candidate only the evaluators run.

    Args:
        evaluators: evaluators or plain functions (`evaluators.base`), with distinct names.
        scales: candidate guidance scales, finite, at least 0, distinct. A single one is static guidance.
        weights: factor of an evaluator by name; 1 where absent. See `evaluators.combine`.
        start, stop: the stretch of the steps that is searched, ``0 <= start < stop <= 1``; outside it the pipeline's
            own `guidance_scale` is used.
        every: search at every n-th step and hold the scale in between. An evaluator may have an `every`, `start` and
            `stop` of its own, and is asked at those of these steps that are its own.
        weighting: ``"calibrated"``, each evaluator as loud as its calibration says (`evaluators.combine.by_spread`), or
            the paper's own ``"adaptive"``, by the relative gain of its scores since they were last asked for, and
            ``"adaptive_abs"``, by the size of that gain (`evaluators.combine.relative_gain`); at the first step all are
            equal.
        pull: how much a scale must be better, in units of the evaluators' calibrated spread, to be worth a change of
            ``log(1 + scale)`` by 1 from that of the step before (from the pipeline's own at the first). 0 lets a search
            jump from one end of its scales to the other where its evaluators hardly see a difference.

    Raises:
        ValueError: an argument outside what is said here. TypeError: an evaluator that is none, or no list.
    """

    noises = 1  # draws of the sampler's noise at each step: its own

    def __init__(
        self,
        evaluators: Sequence[Evaluator | Callable],
        scales: Sequence[float] = SCALES,
        weights: Mapping[str, float] | None = None,
        start: float = 0.0,
        stop: float = 1.0,
        every: int = 1,
        weighting: str = "calibrated",
        pull: float = 0.0,
    ) -> None:
        super().__init__(evaluators, weights)
        if not isinstance(scales, Iterable):
            raise TypeError(f"`scales` must be a list, got {type(scales).__name__}.")
        self.scales = tuple(float(s) for s in scales)
        self.start, self.stop, self.every = start, stop, every
        if not self.scales or len(set(self.scales)) != len(self.scales):
            raise ValueError(f"`scales` must be distinct and at least one, got {list(scales)}.")
        if not all(math.isfinite(s) and s >= 0 for s in self.scales):
            raise ValueError(f"`scales` must be finite and at least 0, got {list(scales)}.")
        if not self.evaluators and len(self.scales) > 1:
            raise ValueError("`evaluators` is empty: choosing takes at least one evaluator.")
        check_window(start, stop)
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"`every` must be an integer of at least 1, got {every!r}.")
        if weighting not in WEIGHTINGS:
            raise ValueError(f"`weighting` must be one of {', '.join(WEIGHTINGS)}, got {weighting!r}.")
        if not (math.isfinite(pull) and pull >= 0):
            raise ValueError(f"`pull` must be finite and at least 0, got {pull!r}.")
        self.weighting, self.pull = weighting, pull
        self._before: dict[str, torch.Tensor] = {}  # each evaluator's mean score (batch, 1) when it was last asked

    def decide(self, step: DenoisingStep) -> Decision | tuple[torch.Tensor | None, dict]:
        """The scale of every row ``(batch,)``, `None` outside the window, and its reasons, for the trace.

        A candidate whose score is not finite is never chosen. The pipeline's own scale stays where nothing can be told:
        no evaluator has a weight at this noise level, or a row has no finite score or the same for every candidate.
        """
        if step.index == step.start_index:
            self._before = {}
        if (unsearched := self.unsearched(step)) is not None:
            return unsearched
        if len(self.scales) == 1:
            return step.full(self.scales[0]), {}
        about = step.noise_level, step.prompt, step.timestep, step.due, step.alive
        total, record = self.ask(lambda space: step.candidates(self.scales, space, rows=step.alive), *about)
        if self.weighting != "calibrated":
            record["gain"] = {name: gain[:, 0] for name, gain in self._gain.items()}
        if not any(record["weights"].values()):
            return step.full(step.own_scale), record
        return self.scale_of(total, step), record

    def scale(self, scores: Mapping[str, torch.Tensor], levels: Mapping[str, float]) -> Scale:
        """As of `Panel`, or adaptive."""
        if self.weighting == "calibrated":
            return super().scale(scores, levels)
        absolute = self.weighting == "adaptive_abs"
        self._gain = {
            name: relative_gain(values, self._before[name], absolute)
            if name in self._before
            else torch.ones_like(values[:, :1])
            for name, values in scores.items()
        }
        self._before = self._before | {name: mean_of(values) for name, values in scores.items()}
        return by_gain(self._gain)

    def scale_of(self, total: torch.Tensor, step: DenoisingStep) -> torch.Tensor:
        """The best scale of every row ``(batch,)`` by `total` ``(batch, candidates)`` less what the pull takes off, the
        pipeline's own where `total` tells no candidates of a row apart."""
        told = total.isfinite().any(dim=1) & ~level(total)
        scales = torch.tensor(self.scales, device=total.device)
        if self.pull:
            before = step.full(step.own_scale) if step.previous is None else step.previous
            total = total - self.pull * (scales.log1p() - before.to(total)[:, None].log1p()).abs()
        return torch.where(told, scales[preferred(total)], step.own_scale)

    def unsearched(self, step: DenoisingStep) -> tuple[torch.Tensor | None, dict] | None:
        """The decision at a step outside the window or between two searches, `None` where it is to be searched."""
        if not self.start <= step.progress <= self.stop:
            return None, {}
        nobody = bool(self.evaluators) and not any(map(step.due, self.evaluators.values()))
        if nobody or (step.since(self.start) % self.every and (step.previous is not None or not self.scales)):
            return step.previous, {}
        return None
