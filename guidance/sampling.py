"""One sampling, without a pipeline: guidance decides on each step, the scheduler takes it, and a trace keeps what
happened. `pipelines.guide`, `pipelines.OnlineGuider` and loops of your own stand on it; it knows predictions, latents
and a scheduler, and no host."""

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

import torch

from evaluators.base import Evaluator

from .formula import Formula
from .schedulers import noise_schedule, reorder
from .step import Decision, DenoisingStep, Guidance
from .trace import GuidanceTrace

# The rows of the running call that are still wanted, (batch,) bool on the CPU, told by whoever drops some on the way to
# the guidance inside the pipeline, which need ask nobody about the others. `None`: all are.
ALIVE: ContextVar[torch.Tensor | None] = ContextVar("alive", default=None)


def as_is(tensor: torch.Tensor) -> torch.Tensor:
    """Latents that are ``(batch, C, H, W)`` already."""
    return tensor


def evaluators_of(guidance: Any) -> list[Evaluator]:
    """All that `guidance`, or the guidance inside it, asks."""
    inside = getattr(guidance, "guidance", None)
    return [*getattr(guidance, "evaluators", {}).values()] if inside is None else evaluators_of(inside)


class GuidedSampling:
    """Takes the steps of one sampling as `guidance` decides. Made after ``scheduler.set_timesteps``.

    Example::

        sampling = GuidedSampling(GreedySearch([clip]), scheduler, prompt=["two red circles"])
        for timestep in scheduler.timesteps:
            pred_cond, pred_uncond = denoiser(latents, timestep, prompt), denoiser(latents, timestep, "")
            latents = sampling.step(pred_cond, pred_uncond, latents, timestep, guidance_scale=5.0)
        sampling.trace.plot("schedule.png")

    Args:
        guidance: a `GreedySearch`, a `Schedule`, or anything else that decides.
        scheduler: a diffusers scheduler, or a `PlainScheduler`.
        prompt: what the evaluators read, one for each row; `None` where unknown.
        formula: how the two predictions become one.
        unpack: the layout of the latents to ``(batch, C, H, W)``, or ``(batch, C, F, H, W)`` of a video.
        to_model_output: what the scheduler takes, from a prediction shaped as the latents.
        preview: clean latents ``(n, C, H, W)`` to pictures ``(n, 3, h, w)`` in [0, 1], for evaluators that read pixels;
            see `evaluators.pixel.make_preview`.

    Attributes:
        trace: what happened so far.
        skip: ``(batch,)`` bool, on the CPU: the rows whose unconditional pass the next step can do without. `None`
            where every row needs it.
        direction: ``cond - uncond`` of every row, of the last step that had both; `None` before the first.
    """

    def __init__(
        self,
        guidance: Guidance,
        scheduler: Any,
        prompt: Sequence[str] | None = None,
        formula: Formula | None = None,
        unpack: Callable[[torch.Tensor], torch.Tensor] = as_is,
        to_model_output: Callable[[torch.Tensor], torch.Tensor] = as_is,
        preview: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        self.prompt = None if prompt is None else [prompt] if isinstance(prompt, str) else list(prompt)
        self.guidance, self.scheduler, self.unpack = guidance, scheduler, unpack
        self.formula, self.to_model_output, self.preview = formula or Formula(), to_model_output, preview
        self.read_timesteps: Any = None
        self.previous: torch.Tensor | None = None
        self.direction: torch.Tensor | None = None
        self.skip: torch.Tensor | None = None
        self.checked = False
        self.trace = GuidanceTrace(getattr(guidance, "scales", ()), self.prompt)

    def check(self, sample: torch.Tensor) -> None:
        """Everything that can be wrong, before the first denoising; `sample` is the latents as the host has them.

        Raises:
            ValueError: `prompt` is not one for each row, or what the guidance says does not fit.
        """
        self.checked = True
        if self.prompt is not None and len(self.prompt) != len(sample):
            raise ValueError(f"`prompt` must give one for each of {len(sample)} images, got {len(self.prompt)}.")
        if self.preview is None and (pixel := [e.name for e in evaluators_of(self.guidance) if e.space == "pixels"]):
            raise ValueError(f"evaluator {pixel[0]!r} reads pixels: pass a `preview` of the latents.")
        if hasattr(self.guidance, "check"):
            self.guidance.check(self.unpack(sample), self.prompt)

    def step(
        self,
        pred_cond: torch.Tensor,
        pred_uncond: torch.Tensor,
        sample: torch.Tensor,
        timestep: Any,
        guidance_scale: float,
        **step_kwargs: Any,
    ) -> torch.Tensor:
        """Takes one step; returns the next latents.

        Args:
            pred_cond, pred_uncond: what the denoiser predicted, shaped as the latents. Where `skip` is True the second
                is not read: ``cond - direction`` stands for it.
            sample: the latents ``(batch, ...)``.
            timestep: of ``scheduler.timesteps``.
            guidance_scale: the scale where `guidance` leaves the choice, as outside a search's window.
            step_kwargs: what else ``scheduler.step`` takes: eta, generator.

        Raises:
            ValueError: before the first step, what does not fit; see `check`.
        """
        arguments = self.host_arguments(pred_cond, pred_uncond, sample, timestep, guidance_scale, step_kwargs)
        return self.take(self.scheduler.step, arguments, (pred_uncond, pred_cond), guidance_scale, self.skip)[0]

    def combine(
        self,
        pred_cond: torch.Tensor,
        pred_uncond: torch.Tensor,
        sample: torch.Tensor,
        timestep: Any,
        guidance_scale: float,
        **step_kwargs: Any,
    ) -> torch.Tensor:
        """The prediction that `guidance` chooses, for an engine that then takes its step itself; once for each step.
        `scheduler` is only asked for noise levels and where candidates lead to.

        Args:
            pred_cond, pred_uncond, sample, timestep, guidance_scale, step_kwargs: as of `step`.

        Raises:
            ValueError: as `step`; and guidance that chooses more than a prediction: the noise of the step or which rows
                go on (`NoiseSearch`, `FeynmanKac`).
        """
        arguments = self.host_arguments(pred_cond, pred_uncond, sample, timestep, guidance_scale, step_kwargs)
        decision, arguments = self.decide(arguments, (pred_uncond, pred_cond), guidance_scale, self.skip)
        if decision.rows is not None or decision.generator is not None:
            raise ValueError(
                f"`guidance` {type(self.guidance).__name__} chooses noise or rows, not only a prediction: let `step` "
                "take the step."
            )
        return arguments["model_output"]

    def host_arguments(
        self,
        pred_cond: torch.Tensor,
        pred_uncond: torch.Tensor,
        sample: torch.Tensor,
        timestep: Any,
        guidance_scale: float,
        step_kwargs: dict[str, Any],
    ) -> dict[str, Any]:
        """What a host that guides at `guidance_scale` passes to its scheduler; the first `sample` is checked."""
        if not self.checked:
            self.check(sample)
        own = self.formula(pred_uncond, pred_cond, torch.full((len(sample),), float(guidance_scale)))
        own = self.to_model_output(own)
        return {"model_output": own, "timestep": timestep, "sample": sample, "return_dict": False} | step_kwargs

    def take(
        self,
        stock: Callable,
        arguments: dict[str, Any],
        predictions: tuple[torch.Tensor, torch.Tensor] | None,
        own_scale: float,
        skipped: torch.Tensor | None = None,
    ) -> Any:
        """Takes one step as a host calls it.

        Args:
            stock: the scheduler's own ``step``.
            arguments: what the host passes to it, by name, with the host's own prediction as ``model_output``.
            predictions: ``(uncond, cond)``, `None` where the host runs without guidance.
            own_scale: the scale of the host's own prediction.
            skipped: ``(batch,)`` bool, rows of which `predictions` has no unconditional one; what stands there is
                replaced by ``cond - direction``.

        Returns:
            What `stock` returned.
        """
        decision, arguments = self.decide(arguments, predictions, own_scale, skipped)
        if decision.generator is not None:
            arguments = arguments | {"generator": decision.generator}
        output = stock(**arguments)
        if decision.rows is not None:
            output = reorder(self.scheduler, output, decision.rows, arguments["sample"].shape)
        return output

    def decide(
        self,
        arguments: dict[str, Any],
        predictions: tuple[torch.Tensor, torch.Tensor] | None,
        own_scale: float,
        skipped: torch.Tensor | None,
    ) -> tuple[Decision, dict[str, Any]]:
        """What `guidance` wants of a step, and `arguments` with the prediction that it chose; the trace has it."""
        self.advance(arguments["timestep"])
        alpha, sigma = self.noise[self.index]
        rows = len(arguments["sample"])
        own = torch.full((rows,), self.formula.unguided if predictions is None else float(own_scale))
        passes = torch.full((rows,), 1 if predictions is None else 2)
        decision = Decision(None, {})
        if predictions is not None:  # a callback may switch guidance off midway, as diffusers' own recipe does
            step = self.denoising_step(arguments, predictions, own_scale, skipped)
            decision = Decision(*self.guidance.decide(step))
            self.direction = step.pred_cond - step.pred_uncond
            prediction = decision.prediction
            if prediction is None and decision.scale is not None:
                prediction = step.guided(decision.scale)
            elif prediction is None and skipped is not None:  # the host guided by what was not there
                prediction = step.guided(step.full(own_scale))
            if prediction is not None:
                arguments = arguments | {"model_output": self.to_model_output(prediction)}
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
        skip = decision.skip if self.index + 1 < len(self.timesteps) else None
        if decision.rows is not None:
            kept = (x if x is None else x[decision.rows] for x in (self.previous, self.direction, skip))
            self.previous, self.direction, skip = kept
        self.skip = None if skip is None or not (skip := skip.cpu()).any() else skip
        return decision, arguments

    def advance(self, timestep: Any) -> None:
        """Finds the place of a step in the scheduler's timesteps."""
        if self.scheduler.timesteps is not self.read_timesteps:  # the first step, or the host set them anew
            self.read_timesteps = self.scheduler.timesteps
            # Read once: a later read would wait for the GPU.
            self.timesteps = torch.as_tensor(self.read_timesteps).tolist()
            self.noise = noise_schedule(self.scheduler)
            first = getattr(self.scheduler, "begin_index", None)  # img2img starts in the middle
            if first is None:
                at = float(torch.as_tensor(timestep).flatten()[0])
                first = min(range(len(self.timesteps)), key=lambda i: abs(self.timesteps[i] - at))
            self.start_index, self.index = first, first - 1
        self.index = min(self.index + 1, len(self.timesteps) - 1)

    def denoising_step(
        self,
        arguments: dict[str, Any],
        predictions: tuple[torch.Tensor, torch.Tensor],
        own_scale: float,
        skipped: torch.Tensor | None,
    ) -> DenoisingStep:
        """What `guidance` is shown."""
        pred_uncond, pred_cond = predictions
        sample, alive = arguments["sample"], ALIVE.get()
        if alive is not None and (alive.all() or len(alive) != len(sample)):  # or of a call inside that call
            alive = None
        if self.direction is not None and self.direction.shape != pred_cond.shape:  # a host that cuts frames off
            self.direction = None
        if skipped is not None:
            assert self.direction is not None  # no row is skipped before a step that had both passes
            skipped_here = skipped.to(pred_cond.device).view(-1, *[1] * (pred_cond.ndim - 1))
            pred_uncond = torch.where(skipped_here, pred_cond - self.direction, pred_uncond)
        return DenoisingStep(
            scheduler=self.scheduler,
            pred_uncond=pred_uncond,
            pred_cond=pred_cond,
            sample=sample,
            timestep=arguments["timestep"],
            index=self.index,
            num_steps=len(self.timesteps),
            level=self.noise[self.index],
            next_level=self.noise[self.index + 1],
            step_kwargs={k: v for k, v in arguments.items() if k not in ("model_output", "timestep", "sample")},
            prompt=self.prompt,
            formula=self.formula,
            own_scale=own_scale,
            previous=self.previous,
            unpack=self.unpack,
            to_model_output=self.to_model_output,
            preview=self.preview,
            start_index=self.start_index,
            skipped=None if skipped is None else skipped.to(sample.device),
            direction=self.direction,
            alive=alive,
        )
