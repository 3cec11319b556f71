"""The one mechanism: how any diffusers pipeline with classifier-free guidance takes its scale from us.

A pipeline's loop is ``denoiser -> u + s (c - u) -> scheduler.step``. While `guide` is in force, a forward hook on the
denoiser keeps ``u`` and ``c``, and `scheduler.step`, which alone sees the latents too, replaces the pipeline's guided
prediction by the one that was decided on. No ``__call__`` is copied and nothing stays changed afterwards.

Where guidance can do without the unconditional pass of a row, the denoiser's forward is replaced for that one step: it
runs on the other rows only, and what it did not compute is filled in.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from guidance import Guidance, GuidanceTrace
from guidance.schedulers import check_supported

from .patch import patch, take_rows
from .sampling import Sampling
from .types import Pipeline

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
        guidance: a `GreedySearch`, a fixed `Schedule`, a `Guider`, `FeynmanKac`, `Budget`, or any object with their
            `decide`.
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


def unpack_latents(pipe: Pipeline, latents: torch.Tensor, size: tuple[int, int] | None) -> torch.Tensor:
    """FLUX works on ``(batch, tokens, 4 C)``, evaluators on ``(batch, C, H, W)``. `size` is height and width of the
    images, `None` where unknown."""
    if latents.ndim == 3 and hasattr(pipe, "_unpack_latents") and size is not None:
        return pipe._unpack_latents(latents, *size, pipe.vae_scale_factor)
    return latents


def step_kwargs(stock: Callable, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """What a pipeline passes to ``scheduler.step`` after the latents, by name."""
    names = list(inspect.signature(stock).parameters)[3:]
    return dict(zip(names, args, strict=False)) | kwargs


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
        self.undo: list[Callable[[], None]] = []
        self.undo_forward: list[Callable[[], None]] = []
        self.size: tuple[int, int] | None = None
        self.reset()

    # ------------------------------------------------------------------------------------------------- patches

    def attach(self) -> None:
        """Patches instances, never classes."""
        for denoiser in self.denoisers:
            self.undo.append(denoiser.register_forward_hook(self.on_denoised).remove)
            if hasattr(denoiser, "cache_context"):
                self.undo.append(patch(denoiser, "cache_context", self.on_cache_context))
        self.undo.append(patch(self.scheduler, "step", self.on_step))
        self.undo.append(patch(self.pipe, "encode_prompt", self.on_encode_prompt))
        for name in ("check_inputs", "prepare_latents"):
            if hasattr(self.pipe, name):
                self.undo.append(patch(self.pipe, name, getattr(self, f"on_{name}")))

    def detach(self) -> None:
        self.run_whole()
        for undo in reversed(self.undo):
            undo()
        self.undo.clear()
        for trace in self.traces:
            trace.warn_if_not_finite()

    def run_whole(self) -> None:
        """The denoiser's own forward again."""
        for undo in self.undo_forward:
            undo()
        self.undo_forward.clear()

    # ----------------------------------------------------------------------------------------------- one call

    def reset(self) -> None:
        """A new call of the pipeline begins."""
        self.run_whole()
        self.sampling: Sampling | None = None
        self.encoded = 0
        self.prompt: list[str] | None = None
        self.checked = False
        self.pass_name: str | None = None
        self.outputs: list[tuple[str | None, torch.Tensor]] = []
        self.swapped = False
        self.skipped: torch.Tensor | None = None

    def on_check_inputs(self, stock: Any, *args: Any, **kwargs: Any) -> Any:
        self.reset()
        if self.pipe.scheduler is not self.scheduler:
            raise ValueError("`pipe.scheduler` was replaced inside `guide`: replace it before.")
        # Skip-layer guidance sets in after some steps, and only the pipeline's own argument tells of it before.
        caller = inspect.currentframe().f_back  # type: ignore[union-attr]
        if caller is not None and caller.f_locals.get("skip_guidance_layers") is not None:
            raise ValueError(f"`skip_guidance_layers` must be None: {FOREIGN}")
        return stock(*args, **kwargs)

    def on_encode_prompt(self, stock: Any, *args: Any, **kwargs: Any) -> Any:
        if self.sampling is not None:  # a pipeline without check_inputs
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
        if getattr(self.pipe, "do_perturbed_attention_guidance", False):
            raise ValueError(FOREIGN)
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

    def on_forward(self, stock: Any, *args: Any, **kwargs: Any) -> Any:
        """The denoiser on the rows that this step needs, zeros for the others."""
        call = inspect.signature(stock).bind(*args, **kwargs)
        rows = next(iter(call.arguments.values())).shape[0]
        sampling = self.sampling
        assert sampling is not None and sampling.skip is not None and sampling.direction is not None
        needed = self.needed(rows, sampling.skip)
        if needed is None:
            return stock(*args, **kwargs)
        self.skipped, like = sampling.skip, sampling.direction
        output = like.new_zeros(rows, *like.shape[1:])
        if needed.any():
            keep = needed.nonzero()[:, 0]
            call.arguments.update(take_rows(call.arguments, rows, keep))
            output[keep.to(output.device)] = stock(*call.args, **call.kwargs)[0]
        return (output,) if call.arguments.get("return_dict") is False else Transformer2DModelOutput(sample=output)

    def needed(self, rows: int, skip: torch.Tensor) -> torch.Tensor | None:
        """Which of the rows of a pass must run ``(rows,)`` bool, `None` where all must."""
        if rows == 2 * len(skip):
            return torch.cat([~skip, torch.ones_like(skip)])
        nameless = len(self.outputs) == (0 if self.swapped else 1)
        is_uncond = nameless if self.pass_name is None else self.pass_name == "uncond"
        return ~skip if rows == len(skip) and is_uncond else None

    def predictions(self, batch: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """``(uncond, cond)`` of this step, `None` where the pipeline ran without guidance."""
        outputs, self.outputs = self.outputs, []
        named = dict(outputs)
        if "uncond" in named and "cond" in named:
            return named["uncond"], named["cond"]
        rows = [output.shape[0] for _, output in outputs]
        if rows == [2 * batch]:
            uncond, cond = outputs[0][1].chunk(2)
            return uncond, cond
        if rows == [batch, batch]:  # two calls that nobody named: the first step finds out which is which
            first, second = outputs[0][1], outputs[1][1]
            return (first, second) if self.swapped else (second, first)
        if rows != [batch] or self.skipped is not None:
            raise ValueError(FOREIGN)
        return None

    def on_step(
        self, stock: Any, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        predictions = self.predictions(sample.shape[0])
        if self.sampling is None:
            if predictions is None:
                raise ValueError(OFF)
            if not self.checked:
                self.check(sample)
            rescale = float(getattr(self.pipe, "guidance_rescale", 0.0) or 0.0)
            own_scale, self.swapped = self.own_guidance(model_output, *predictions, rescale)
            predictions = predictions[::-1] if self.swapped else predictions
            self.sampling = Sampling(
                self.guidance, self.scheduler, timestep, self.prompt, own_scale, rescale, self.unpack
            )
            self.traces.append(self.sampling.trace)
        skipped, self.skipped = self.skipped, None
        self.run_whole()
        output = self.sampling.step(
            stock, model_output, timestep, sample, step_kwargs(stock, args, kwargs), predictions, skipped
        )
        if self.sampling.skip is not None:
            self.undo_forward = [patch(denoiser, "forward", self.on_forward) for denoiser in self.denoisers]
        return output

    def own_guidance(
        self, guided: torch.Tensor, u: torch.Tensor, c: torch.Tensor, rescale: float
    ) -> tuple[float, bool]:
        """The scale that the pipeline guides by, and whether `u` and `c` are the wrong way round.

        Raises:
            ValueError: its `guided` prediction is no ``u + s (c - u)``, so that we cannot replace it.
        """
        if rescale > 0:
            return float(self.pipe.guidance_scale), False
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
        own_scale = round(1 - scale if scale < 0 else scale, 3 if eps < 1e-4 else 2)
        stated = getattr(self.pipe, "guidance_scale", None)
        if hasattr(getattr(getattr(self.pipe, "transformer", None), "config", None), "guidance_embeds"):
            stated = None  # FLUX: that is an input of its transformer
        if stated is not None and abs(stated - own_scale) < 0.02 * stated:  # half precision only comes close
            own_scale = float(stated)
        return own_scale, scale < 0
