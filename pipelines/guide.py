"""The one mechanism: how any diffusers pipeline with classifier-free guidance takes its scale from us.

A pipeline's loop is ``denoiser -> u + s (c - u) -> scheduler.step``. While `guide` is in force, a forward hook on the
denoiser keeps ``u`` and ``c``, and `scheduler.step`, which alone sees the latents too, replaces the pipeline's guided
prediction by the one that was decided on. No ``__call__`` is copied and nothing stays changed afterwards.
"""

import functools
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import DiffusionPipeline

from guidance import Decision, DenoisingStep, Guidance, GuidanceTrace
from guidance.schedulers import check_supported, noise_schedule, reorder

OFF = (
    "classifier-free guidance is off, so there is no scale to choose: pass `guidance_scale` > 1 "
    "(FLUX: `true_cfg_scale` > 1 and a `negative_prompt`)."
)
FOREIGN = (
    "`pipe` does not guide by u + s (c - u) with these arguments (skip-layer or another guidance is on), so its scale "
    "cannot be replaced."
)


@contextmanager
def guide(
    pipe: DiffusionPipeline, guidance: Guidance, prompt: Sequence[str] | None = None
) -> Iterator[list[GuidanceTrace]]:
    """While in force, every call of `pipe` takes its guidance scale from `guidance`.

    Example::

        with guide(pipe, GreedySearch([clip, discriminator])) as traces:
            image = pipe("two red circles").images[0]
        traces[-1].plot("schedule.png")

    Args:
        pipe: a diffusers pipeline that denoises ``[uncond, cond]`` in one batch (SD, SDXL, SD3, …) or in two calls
            (FLUX with true CFG, Qwen-Image, …).
        guidance: a `GreedySearch`, a fixed `Schedule`, a `Guider`, `FeynmanKac`, or any object with their `decide`.
        prompt: what the evaluators read, one for each row of ``prompt_embeds``, where `pipe` is called with these only.

    Yields:
        A list that receives one `GuidanceTrace` per call.

    Raises:
        ValueError: `pipe` has no denoiser, no ``encode_prompt`` or an unsupported scheduler, or its scheduler is
            already guided; and from the call of `pipe`, before any denoising: guidance is off, or an evaluator does
            not fit.
    """
    host = _Host(pipe, guidance, prompt)
    try:
        host.attach()
        yield host.traces
    finally:
        host.detach()


def denoisers(pipe: DiffusionPipeline) -> list[torch.nn.Module]:
    """The models whose forward passes sampling consists of."""
    return [m for n in ("unet", "transformer", "transformer_2") if (m := getattr(pipe, n, None))]


def unpack_latents(pipe: DiffusionPipeline, latents: torch.Tensor, size: tuple[int, int] | None) -> torch.Tensor:
    """FLUX works on ``(batch, tokens, 4 C)``, evaluators on ``(batch, C, H, W)``. `size` is height and width of the
    images, `None` where unknown."""
    if latents.ndim == 3 and hasattr(pipe, "_unpack_latents") and size is not None:
        return pipe._unpack_latents(latents, *size, pipe.vae_scale_factor)
    return latents


class _Host:
    """The patches on one pipeline and the state of the call in progress."""

    def __init__(self, pipe: Any, guidance: Guidance, prompt: Sequence[str] | None) -> None:
        self.denoisers = denoisers(pipe)
        if not self.denoisers or not hasattr(pipe, "encode_prompt"):
            raise ValueError(f"`pipe` must be a text-conditioned diffusers pipeline, got {type(pipe).__name__}.")
        check_supported(pipe.scheduler)
        if "step" in pipe.scheduler.__dict__:
            raise ValueError("`pipe.scheduler` is already guided: `guide` cannot be nested on one scheduler.")
        if not hasattr(guidance, "decide"):
            raise ValueError(f"`guidance` must be a GreedySearch or a Schedule, got {type(guidance).__name__}.")
        self.pipe, self.guidance, self.given_prompt = pipe, guidance, prompt
        self.scheduler = pipe.scheduler
        self.traces: list[GuidanceTrace] = []
        self.undo: list[Any] = []
        self.size: tuple[int, int] | None = None
        self.reset()

    # ------------------------------------------------------------------------------------------------- patches

    def attach(self) -> None:
        """Patches instances, never classes. `functools.wraps` keeps the signatures, which pipelines inspect."""
        for denoiser in self.denoisers:
            handle = denoiser.register_forward_hook(self.on_denoised)
            self.undo.append(handle.remove)
            if hasattr(denoiser, "cache_context"):
                self.patch(denoiser, "cache_context", self.on_cache_context)
        self.patch(self.scheduler, "step", self.on_step)
        self.patch(self.pipe, "encode_prompt", self.on_encode_prompt)
        for name in ("check_inputs", "prepare_latents"):
            if hasattr(self.pipe, name):
                self.patch(self.pipe, name, getattr(self, f"on_{name}"))

    def patch(self, owner: Any, name: str, replacement: Any) -> None:
        stock = getattr(owner, name)
        owner.__dict__[name] = functools.wraps(stock)(functools.partial(replacement, stock))
        self.undo.append(lambda: owner.__dict__.pop(name, None))

    def detach(self) -> None:
        for undo in reversed(self.undo):
            undo()
        self.undo.clear()
        for trace in self.traces:
            trace.warn_if_not_finite()

    # ----------------------------------------------------------------------------------------------- one call

    def reset(self) -> None:
        """A new call of the pipeline begins."""
        self.trace: GuidanceTrace | None = None
        self.encoded = 0
        self.prompt: list[str] | None = None
        self.checked = False
        self.noise: list[tuple[float, float]] = []
        self.own_scale = float("nan")
        self.pass_name: str | None = None
        self.outputs: list[tuple[str | None, torch.Tensor]] = []
        self.swapped = False

    def on_check_inputs(self, stock: Any, *args: Any, **kwargs: Any) -> Any:
        self.reset()
        if self.pipe.scheduler is not self.scheduler:
            raise ValueError("`pipe.scheduler` was replaced inside `guide`: replace it before.")
        return stock(*args, **kwargs)

    def on_encode_prompt(self, stock: Any, *args: Any, **kwargs: Any) -> Any:
        if self.trace is not None:  # a pipeline without check_inputs
            self.reset()
        call = inspect.signature(stock).bind(*args, **kwargs)
        call.apply_defaults()
        if call.arguments.get("do_classifier_free_guidance") is False:
            raise ValueError(OFF)
        prompt = call.arguments.get("prompt") if self.given_prompt is None else self.given_prompt
        if self.encoded == 0 and prompt is not None:  # the first of two calls is the positive one
            prompt = [prompt] if isinstance(prompt, str) else list(prompt)
            if not prompt or not all(isinstance(p, str) for p in prompt):
                raise ValueError(f"`prompt` must be a string or a list of at least one string, got {prompt!r}.")
            self.prompt = [p for p in prompt for _ in range(call.arguments.get("num_images_per_prompt") or 1)]
        self.encoded += 1 + ("do_classifier_free_guidance" in call.arguments)
        return stock(*args, **kwargs)

    def on_prepare_latents(self, stock: Any, *args: Any, **kwargs: Any) -> Any:
        if self.encoded < 2:  # a pipeline that encodes the negative prompt by a second call, and did not
            raise ValueError(OFF)
        call = inspect.signature(stock).bind(*args, **kwargs).arguments
        if "height" in call:
            self.size = call["height"], call["width"]
        prepared = stock(*args, **kwargs)
        self.check(prepared[0] if isinstance(prepared, tuple) else prepared)
        return prepared

    def check(self, latents: torch.Tensor) -> None:
        """Everything that can be wrong, before the first denoising."""
        self.checked = True
        if self.prompt is not None and len(self.prompt) != latents.shape[0]:
            raise ValueError(f"`prompt` must give one for each of {latents.shape[0]} images, got {len(self.prompt)}.")
        if hasattr(self.guidance, "check"):
            self.guidance.check(self.unpack(latents), self.prompt)

    def unpack(self, latents: torch.Tensor) -> torch.Tensor:
        return unpack_latents(self.pipe, latents, self.size)

    @contextmanager
    def on_cache_context(self, stock: Any, name: str) -> Iterator[None]:
        self.pass_name = name
        try:
            with stock(name):
                yield
        finally:
            self.pass_name = None

    def on_denoised(self, module: torch.nn.Module, args: tuple, output: Any) -> None:
        self.outputs.append((self.pass_name, output[0] if isinstance(output, tuple) else output.sample))

    def predictions(self, batch: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """``(uncond, cond)`` of this step, `None` where the pipeline ran without guidance."""
        outputs, self.outputs = self.outputs, []
        named = dict(outputs)
        if "uncond" in named and "cond" in named:
            return named["uncond"], named["cond"]
        rows = [output.shape[0] for _, output in outputs]
        if rows == [2 * batch]:
            return outputs[0][1].chunk(2)
        if rows == [batch, batch]:  # two calls that nobody named: `begin` finds out which is which
            first, second = outputs[0][1], outputs[1][1]
            return (first, second) if self.swapped else (second, first)
        if rows != [batch]:
            raise ValueError(FOREIGN)
        return None

    def on_step(
        self, stock: Any, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        predictions = self.predictions(sample.shape[0])
        first = self.trace is None
        if first:
            if predictions is None:
                raise ValueError(OFF)
            if not self.checked:
                self.check(sample)
            if self.begin(model_output, timestep, *predictions):
                self.swapped, predictions = True, predictions[::-1]
        elif self.index + 1 < self.num_steps:
            self.index += 1
        decision = Decision(None, {})
        if predictions is not None:  # a callback may switch guidance off midway, as diffusers' own recipe does
            step = DenoisingStep(
                scheduler=self.scheduler,
                pred_uncond=predictions[0],
                pred_cond=predictions[1],
                sample=sample,
                timestep=timestep,
                index=self.index,
                num_steps=self.num_steps,
                level=self.noise[self.index],
                next_level=self.noise[self.index + 1],
                step_kwargs=self.step_kwargs(stock, args, kwargs),
                prompt=self.prompt,
                guidance_rescale=self.rescale,
                own_scale=self.own_scale,
                previous=self.previous,
                unpack=self.unpack,
                start_index=self.start_index,
            )
            decision = Decision(*self.guidance.decide(step))
            if decision.prediction is not None:
                model_output = decision.prediction
            elif decision.scale is not None:
                model_output = step.guided(decision.scale)
            self.previous = self.previous if decision.scale is None else decision.scale
        own = self.own_scale if predictions is not None else 1.0
        alpha, sigma = self.noise[self.index]
        self.trace.steps.append(
            {
                "timestep": self.timesteps[self.index],
                "noise_level": sigma / (alpha**2 + sigma**2) ** 0.5,
                "scale": torch.full((sample.shape[0],), own) if decision.scale is None else decision.scale,
            }
            | decision.record
        )
        output = stock(model_output, timestep, sample, *args, **kwargs)
        if decision.rows is None:
            return output
        self.previous = None if self.previous is None else self.previous[decision.rows]
        return reorder(self.scheduler, output, decision.rows, sample.shape)

    @staticmethod
    def step_kwargs(stock: Any, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
        names = list(inspect.signature(stock).parameters)[3:]
        return dict(zip(names, args, strict=False)) | kwargs

    def begin(self, guided: torch.Tensor, timestep: Any, u: torch.Tensor, c: torch.Tensor) -> bool:
        """Reads what holds for the whole call, and checks that the pipeline's own guidance is the one we replace.

        Returns whether `u` and `c` are the wrong way round.
        """
        # Read once: a later read would wait for the GPU.
        self.timesteps = torch.as_tensor(self.scheduler.timesteps).tolist()
        self.num_steps = len(self.timesteps)
        self.index = getattr(self.scheduler, "begin_index", None)  # img2img starts in the middle
        if self.index is None:
            self.index = min(range(self.num_steps), key=lambda i: abs(self.timesteps[i] - float(timestep)))
        self.start_index = self.index
        self.noise = noise_schedule(self.scheduler)
        self.previous: torch.Tensor | None = None
        self.rescale = float(getattr(self.pipe, "guidance_rescale", 0.0) or 0.0)
        self.trace = GuidanceTrace(getattr(self.guidance, "scales", ()), self.prompt)
        self.traces.append(self.trace)
        if self.rescale > 0:
            self.own_scale = float(self.pipe.guidance_scale)
            return False
        eps = torch.finfo(guided.dtype).eps
        # The scale that explains the pipeline's own prediction: some (FLUX) keep it in a local variable.
        u, c, guided = (x.cpu().double().flatten() for x in (u, c, guided))
        direction, moved = c - u, guided - u
        scale = float(moved @ direction / (direction @ direction)) if direction.any() else 1.0
        error = (moved - scale * direction).norm()
        rounding = 4 * eps * (u.norm() + (scale * direction).norm())
        if error > rounding + 1e-3 * (scale * direction).norm():
            raise ValueError(FOREIGN)
        # Seen from the wrong end a scale s > 1 is 1 - s.
        self.own_scale = round(1 - scale if scale < 0 else scale, 3 if eps < 1e-4 else 2)
        stated = getattr(self.pipe, "guidance_scale", None)
        if stated is not None and abs(stated - self.own_scale) < 0.02 * stated:  # half precision only comes close
            self.own_scale = float(stated)
        return scale < 0
