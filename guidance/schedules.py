"""Fixed guidance schedules: the baselines. Each gives one scale for a step, whatever the sample looks like."""

import math
from dataclasses import dataclass

from .step import Decision, DenoisingStep


def check_scale(name: str, value: float) -> float:
    """Raises ValueError unless `value` is a finite number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise ValueError(f"`{name}` must be a finite number of at least 0, got {value!r}.")
    return float(value)


def check_window(start: float, stop: float) -> None:
    """Raises ValueError unless ``0 <= start < stop <= 1``."""
    if not 0 <= start < stop <= 1:
        raise ValueError(f"`start` and `stop` must satisfy 0 <= start < stop <= 1, got {start!r} and {stop!r}.")


@dataclass(frozen=True)
class Schedule:
    """A function of progress alone. `guidance_scale` is finite and at least 0; ValueError otherwise."""

    guidance_scale: float

    def __post_init__(self) -> None:
        check_scale("guidance_scale", self.guidance_scale)

    def at(self, progress: float) -> float:
        """The scale at `progress` in [0, 1]."""
        raise NotImplementedError

    def decide(self, step: DenoisingStep) -> Decision:
        """The scale of every row, ``(batch,)``; the unconditional pass is left out where that is not guided."""
        following = self.scale_at(min(1.0, (step.index + 1) / max(1, step.num_steps - 1)), step)
        skip = step.full(1.0).bool() if following == step.formula.unguided else None
        return Decision(step.full(self.scale_at(step.progress, step)), {}, skip=skip)

    def scale_at(self, progress: float, step: DenoisingStep) -> float:
        """The scale at `progress`, as the host of `step` counts."""
        return self.at(progress)


class Static(Schedule):
    """One constant: classifier-free guidance (arXiv 2207.12598)."""

    def at(self, progress: float) -> float:
        return self.guidance_scale


@dataclass(frozen=True)
class Interval(Schedule):
    """`guidance_scale` between `start` and `stop` of the steps, no guidance (1) elsewhere (arXiv 2404.07724), which
    saves the unconditional pass there but for the first step."""

    start: float = 0.15
    stop: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_window(self.start, self.stop)

    def at(self, progress: float) -> float:
        return self.guidance_scale if self.start <= progress <= self.stop else 1.0

    def scale_at(self, progress: float, step: DenoisingStep) -> float:
        return self.at(progress) if self.start <= progress <= self.stop else step.formula.unguided


class Linear(Schedule):
    """Rises linearly; `guidance_scale` is the mean over the steps (arXiv 2404.13040)."""

    def at(self, progress: float) -> float:
        return 2 * self.guidance_scale * progress


class Cosine(Schedule):
    """Rises as ``1 - cos(π · progress)``; `guidance_scale` is the mean over the steps (arXiv 2404.13040)."""

    def at(self, progress: float) -> float:
        return self.guidance_scale * (1 - math.cos(math.pi * progress))


@dataclass(frozen=True)
class Exponential(Schedule):
    """C²FG (arXiv 2603.08155): ``ω exp(rate · (1 - t))`` with t from 1 (noise) to 0, so rises while sampling.

    `guidance_scale` is the mean over t, as of the other schedules, and not the paper's ω, the scale at noise, which is
    ``guidance_scale · rate / (exp(rate) - 1)``. `rate` is finite and above 0, ValueError otherwise; the paper has ln 2
    for DiT, 1 for SiT and 0.2 for Stable Diffusion 1.5.
    """

    rate: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if check_scale("rate", self.rate) == 0:
            raise ValueError("`rate` must be above 0: at 0 the scale is constant, which is `Static`.")

    def at(self, progress: float) -> float:
        mean = -math.expm1(-self.rate) / self.rate
        return self.guidance_scale * math.exp(-self.rate * (1 - progress)) / mean
