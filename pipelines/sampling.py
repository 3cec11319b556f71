"""One call of a pipeline: guidance decides on each step, the scheduler takes it, and a trace keeps what happened."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from guidance import Decision, DenoisingStep, Guidance, GuidanceTrace
from guidance.schedulers import Scheduler, noise_schedule, reorder


class Sampling:
    """What holds for the whole call, read at its first step.

    Args:
        guidance: what decides.
        scheduler: after ``set_timesteps``.
        timestep: of the first step.
        prompt: one per row, `None` where unknown.
        own_scale, guidance_rescale: the pipeline's own guidance.
        unpack: the host's layout of latents to ``(batch, C, H, W)``.

    Attributes:
        trace: what happened so far.
        skip: ``(batch,)`` bool, on the CPU: the rows whose unconditional pass the next step can do without. `None`
            where every row needs it.
        direction: ``cond - uncond`` of every row, of the last step that had both; `None` before the first.
    """

    def __init__(
        self,
        guidance: Guidance,
        scheduler: Scheduler,
        timestep: Any,
        prompt: Sequence[str] | None,
        own_scale: float,
        guidance_rescale: float,
        unpack: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        self.guidance, self.scheduler, self.prompt, self.unpack = guidance, scheduler, prompt, unpack
        self.own_scale, self.guidance_rescale = own_scale, guidance_rescale
        # Read once: a later read would wait for the GPU.
        self.timesteps = torch.as_tensor(scheduler.timesteps).tolist()
        self.noise = noise_schedule(scheduler)
        first = getattr(scheduler, "begin_index", None)  # img2img starts in the middle
        if first is None:
            first = min(range(len(self.timesteps)), key=lambda i: abs(self.timesteps[i] - float(timestep)))
        self.start_index, self.index = first, first - 1
        self.previous: torch.Tensor | None = None
        self.direction: torch.Tensor | None = None
        self.skip: torch.Tensor | None = None
        self.trace = GuidanceTrace(getattr(guidance, "scales", ()), None if prompt is None else list(prompt))

    def step(
        self,
        stock: Callable,
        model_output: torch.Tensor,
        timestep: Any,
        sample: torch.Tensor,
        step_kwargs: dict[str, Any],
        predictions: tuple[torch.Tensor, torch.Tensor] | None,
        skipped: torch.Tensor | None = None,
    ) -> Any:
        """Takes one step.

        Args:
            stock: the scheduler's own ``step``.
            model_output: the pipeline's own prediction.
            step_kwargs: what the pipeline passes to ``step`` besides.
            predictions: ``(uncond, cond)``, `None` where the pipeline runs without guidance.
            skipped: ``(batch,)`` bool, rows of which `predictions` has no unconditional one; what stands there is
                replaced by ``cond - direction``.

        Returns:
            What ``step`` returned.
        """
        self.index = min(self.index + 1, len(self.timesteps) - 1)
        alpha, sigma = self.noise[self.index]
        passes = torch.full((sample.shape[0],), 1 if predictions is None else 2)
        own = torch.full((sample.shape[0],), 1.0 if predictions is None else self.own_scale)
        decision = Decision(None, {})
        if predictions is not None:  # a callback may switch guidance off midway, as diffusers' own recipe does
            step = self.denoising_step(timestep, sample, step_kwargs, predictions, skipped)
            decision = Decision(*self.guidance.decide(step))
            self.direction = step.pred_cond - step.pred_uncond
            if decision.prediction is not None:
                model_output = decision.prediction
            elif decision.scale is not None:
                model_output = step.guided(decision.scale)
            elif skipped is not None:  # the pipeline guided by what was not there
                model_output = step.guided(step.full(self.own_scale))
            self.previous = self.previous if decision.scale is None else decision.scale
        self.trace.steps.append(
            {
                "timestep": self.timesteps[self.index],
                "noise_level": sigma / (alpha**2 + sigma**2) ** 0.5,
                "scale": own if decision.scale is None else decision.scale,
                "nfe": passes if skipped is None else passes - skipped.long(),
            }
            | decision.record
        )
        if decision.generator is not None:
            step_kwargs = step_kwargs | {"generator": decision.generator}
        output = stock(model_output, timestep, sample, **step_kwargs)
        skip = decision.skip if self.index + 1 < len(self.timesteps) else None
        if decision.rows is not None:
            self.previous = None if self.previous is None else self.previous[decision.rows]
            self.direction, skip = (x if x is None else x[decision.rows] for x in (self.direction, skip))
            output = reorder(self.scheduler, output, decision.rows, sample.shape)
        self.skip = None if skip is None or not (skip := skip.cpu()).any() else skip
        return output

    def denoising_step(
        self,
        timestep: Any,
        sample: torch.Tensor,
        step_kwargs: dict[str, Any],
        predictions: tuple[torch.Tensor, torch.Tensor],
        skipped: torch.Tensor | None,
    ) -> DenoisingStep:
        """What `guidance` is shown."""
        pred_uncond, pred_cond = predictions
        if skipped is not None:
            assert self.direction is not None  # no row is skipped before a step that had both passes
            skipped_here = skipped.to(pred_cond.device).view(-1, *[1] * (pred_cond.ndim - 1))
            pred_uncond = torch.where(skipped_here, pred_cond - self.direction, pred_uncond)
        return DenoisingStep(
            scheduler=self.scheduler,
            pred_uncond=pred_uncond,
            pred_cond=pred_cond,
            sample=sample,
            timestep=timestep,
            index=self.index,
            num_steps=len(self.timesteps),
            level=self.noise[self.index],
            next_level=self.noise[self.index + 1],
            step_kwargs=step_kwargs,
            prompt=self.prompt,
            guidance_rescale=self.guidance_rescale,
            own_scale=self.own_scale,
            previous=self.previous,
            unpack=self.unpack,
            start_index=self.start_index,
            skipped=None if skipped is None else skipped.to(sample.device),
            direction=self.direction,
        )
