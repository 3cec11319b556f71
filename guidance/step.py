"""One denoising step as guidance sees it: two predictions, the latents, and the candidates they span."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch

from evaluators.base import Evaluator

from .formula import Formula
from .schedulers import Scheduler, denoised, is_affine, probe, probe_draws


class Decision(NamedTuple):
    """What guidance wants of a step. A plain ``(scale, record)`` stands for one.

    Attributes:
        scale: guidance scale of every row ``(batch,)``, `None` to leave the pipeline's own prediction.
        record: its reasons, for the trace.
        prediction: what takes the place of the guided prediction, shaped as it; `scale` is then only recorded.
        rows: ``(batch,)`` integers: after the step, row i goes on from row ``rows[i]``. `None`: from itself.
        skip: ``(batch,)`` bool: rows whose unconditional pass the next step leaves out. `None`: none.
        generator: one for each row, from which the scheduler draws this step's noise. `None`: from the pipeline's own.
    """

    scale: torch.Tensor | None
    record: dict[str, Any]
    prediction: torch.Tensor | None = None
    rows: torch.Tensor | None = None
    skip: torch.Tensor | None = None
    generator: list[torch.Generator] | None = None


class Guidance(Protocol):
    """Whatever decides on steps. A method ``check(sample, prompt)``, if it has one, is called before each sampling."""

    def decide(self, step: "DenoisingStep") -> Decision | tuple[torch.Tensor | None, dict]: ...


def pictures(latents: torch.Tensor, preview: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Candidates ``(batch, K, C, H, W)`` as `preview` shows them, ``(batch, K, 3, h, w)``; with the frames of a video
    after the channels of both."""
    if latents.ndim == 6:
        shown = preview(latents.movedim(3, 2).flatten(0, 2)).to(latents.device)
        return shown.unflatten(0, (*latents.shape[:2], latents.shape[3])).movedim(2, 3)
    return preview(latents.flatten(0, 1)).to(latents.device).unflatten(0, latents.shape[:2])


@dataclass
class DenoisingStep:
    """Everything known at one step.

    Attributes:
        pred_cond, pred_uncond: the denoiser's outputs, shaped as the latents.
        sample: the latents ``(batch, ...)`` before the step, in the host's layout.
        index, num_steps: place in ``scheduler.timesteps`` and its length.
        level, next_level: ``(alpha, sigma)`` before and after the step.
        step_kwargs: what the pipeline passes to ``scheduler.step`` besides (eta, generator).
        prompt: one per row, `None` where unknown.
        formula: how the host makes one prediction of two.
        own_scale: the host's own guidance scale.
        previous: scales ``(batch,)`` of the step before, `None` at the first.
        unpack: the host's layout to ``(batch, C, H, W)``, or ``(batch, C, F, H, W)`` of a video.
        to_model_output: what the scheduler takes, from a prediction shaped as the latents.
        preview: clean latents ``(n, C, H, W)`` to pictures ``(n, 3, h, w)`` in [0, 1], where an evaluator reads these.
        start_index: `index` of the first step of this call, above 0 where it starts from an image.
        skipped: ``(batch,)`` bool, rows without an unconditional pass at this step: their `pred_uncond` is `pred_cond`
            less the direction ``c - u`` of the last step that had one. `None`: every row had it.
        direction: ``c - u`` of that last step, for every row; `None` at the first step.
        alive: ``(batch,)`` bool, on the CPU: rows that are still wanted, see `sampling.ALIVE`. `None`: all are.
    """

    scheduler: Scheduler
    pred_cond: torch.Tensor
    pred_uncond: torch.Tensor
    sample: torch.Tensor
    timestep: torch.Tensor
    index: int
    num_steps: int
    level: tuple[float, float]
    next_level: tuple[float, float]
    step_kwargs: dict[str, Any]
    prompt: Sequence[str] | None
    own_scale: float
    previous: torch.Tensor | None
    unpack: Callable[[torch.Tensor], torch.Tensor]
    formula: Formula = field(default_factory=Formula)
    to_model_output: Callable[[torch.Tensor], torch.Tensor] = lambda prediction: prediction
    preview: Callable[[torch.Tensor], torch.Tensor] | None = None
    start_index: int = 0
    skipped: torch.Tensor | None = None
    direction: torch.Tensor | None = None
    alive: torch.Tensor | None = None

    @property
    def progress(self) -> float:
        """0 at the first step, 1 at the last."""
        return self.index / max(1, self.num_steps - 1)

    def since(self, start: float) -> int:
        """Steps since the first one of this call at a `progress` of at least `start`; 0 there, below 0 before."""
        first = math.ceil(start * max(1, self.num_steps - 1) - 1e-9)  # 0.7 · 10 is a little more than 7
        return self.index - max(self.start_index, first)

    def full(self, scale: float) -> torch.Tensor:
        """One scale for every row, ``(batch,)``."""
        return torch.full((self.sample.shape[0],), scale, device=self.sample.device)

    def guided(self, scale: torch.Tensor) -> torch.Tensor:
        """The prediction for one scale per row ``(batch,)``, as the pipeline itself would have formed it."""
        return self.formula(self.pred_uncond, self.pred_cond, scale)

    def denoised(self, prediction: torch.Tensor) -> torch.Tensor:
        """The clean latents (x0) that `prediction` implies, in the host's layout."""
        return denoised(self.scheduler, prediction, self.sample, self.level)

    def due(self, evaluator: Evaluator) -> bool:
        """Whether `evaluator` is to be asked at this step, by its `every`, `start` and `stop`."""
        start, stop = getattr(evaluator, "start", 0.0), getattr(evaluator, "stop", 1.0)
        return start <= self.progress <= stop and self.since(start) % getattr(evaluator, "every", 1) == 0

    def noise_level(self, space: str) -> float:
        """Noise share of the candidates in `space`; x0 predictions count as of the step they are made at."""
        alpha, sigma = self.next_level if space == "noisy" else self.level
        return sigma / (alpha**2 + sigma**2) ** 0.5

    def candidates(
        self,
        scales: Sequence[float],
        space: str,
        generators: Sequence[list[torch.Generator]] | None = None,
        rows: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The latents that each of K scales would lead to: ``(batch, K, C, H, W)`` in `space`, float32, with the frames
        of a video ``(batch, K, C, F, H, W)``.

        With `generators`, one for each row in each of N lists, ``(batch, N · K, C, H, W)``: all scales with the noise
        of the first list, then with that of the second. Clean latents (x0) are the same for all N.

        In the space ``pixels``, pictures ``(batch, K, 3, h, w)``: the preview of the clean latents. With `rows`
        ``(batch,)`` bool, only those.
        """
        if space == "pixels":
            if self.preview is None:  # `GuidedSampling` sees to it for all that `evaluators_of` finds
                raise ValueError("`guidance` asks a judge of pictures that it does not name in `evaluators`.")
            return pictures(self.candidates(scales, "denoised", rows=rows), self.preview)
        if self.formula.affine and is_affine(self.scheduler):
            plain = type(self.formula) is Formula  # whose predictions at 0 and 1 are known
            at_0 = self.pred_uncond if plain else self.guided(self.full(0.0))
            at_1 = self.pred_cond if plain else self.guided(self.full(1.0))
            starts = self._outcomes(at_0, space, generators)
            direction = self._outcomes(at_1, space, generators and generators[:1])[:, 0] - starts[:, 0]
            s = torch.tensor(scales, device=direction.device).view(-1, *[1] * (direction.ndim - 1))
            found = (starts[:, :, None] + (s * direction[:, None])[:, None]).flatten(1, 2)
        else:
            guided = [self.guided(self.full(s)) for s in scales]
            found = torch.stack([self._outcomes(p, space, generators) for p in guided], dim=2).flatten(1, 2)
        return found if rows is None else found[rows.to(found.device)]

    def _outcomes(
        self, prediction: torch.Tensor, space: str, generators: Sequence[list[torch.Generator]] | None
    ) -> torch.Tensor:
        """What one `prediction` leads to with the noise of each list of `generators`, ``(batch, N, C, H, W)``."""
        if space == "denoised":
            found = self.unpack(self.denoised(prediction)).float()
            return torch.stack([found] * len(generators or [None]), 1)
        about = self.scheduler, self.to_model_output(prediction), self.timestep, self.sample, self.step_kwargs
        latents = probe(*about)[None] if generators is None else probe_draws(*about, generators)
        alpha, sigma = self.next_level
        return torch.stack([self.unpack(each) for each in latents], 1).float() / (alpha**2 + sigma**2) ** 0.5
