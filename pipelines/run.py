"""One guided call of a pipeline: from its first line to its last, and of nobody else's.

While it runs, taps hand it what the pipeline asks its denoisers and its scheduler. It keeps the two predictions of a
step, works out at the first how the pipeline makes one of them, and lets `GuidedSampling` take the step. Where guidance
can do without the unconditional pass of a row, the denoiser runs on the other rows only.
"""

import inspect
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput

from evaluators.pixel.preview import Preview, make_preview
from guidance import Guidance, GuidanceTrace
from guidance.formula import Formula, Rescaled
from guidance.sampling import GuidedSampling, evaluators_of
from guidance.schedulers import check_supported

from . import tap
from .caller import calling_frame, known_to, outside
from .formulas import WithReference
from .hosts import Known, denoisers, host_of
from .patch import indivisible, named, row_shape, take_rows
from .reading import FOREIGN, Reading, read, split, stated_scales, tensor_of

OFF = (
    "classifier-free guidance is off, so there is no scale to choose: pass `guidance_scale` > 1 "
    "(FLUX: `true_cfg_scale` > 1 and a `negative_prompt`)."
)
UNSEEN = "`pipe` does not take its steps by `pipe.scheduler` (it copies it, or steps by itself), so nothing was guided."
# What a pipeline's call knows of its guidance before it denoises: True where both passes will be made.
SWITCHES = ("do_true_cfg", "do_classifier_free_guidance")
# What tells of further passes before they are made: skip-layer guidance sets in after some steps.
FURTHER = (
    *("skip_guidance_layers", "do_perturbed_attention_guidance", "do_spatio_temporal_guidance"),
    *("do_modality_isolation_guidance", "is_cfg_zero_star", "do_self_attention_guidance", "enable_edit_guidance"),
)
# Frames from `calling_frame` to whoever called the model, or the scheduler.
TO_MODEL, TO_SCHEDULER = 3, 2


class Run:
    """A context manager around one call of `pipe`.

    Args:
        pipe: the pipeline whose call it is.
        guidance: what decides.
        prompt: what the evaluators read, one or several; `None` where there are only embeddings.
        traces: receives the trace at the first step.
        preview: what judges of pictures see, as of `evaluators.pixel.make_preview`.
        must: whether a call without classifier-free guidance is an error, else it is left alone, with a warning.
    """

    def __init__(
        self,
        pipe: Any,
        guidance: Guidance,
        prompt: str | Sequence[str] | None,
        traces: list[GuidanceTrace],
        must: bool = True,
        preview: str | Preview = "auto",
    ) -> None:
        self.pipe, self.guidance, self.traces, self.must = pipe, guidance, traces, must
        self.passive, self.preview = False, preview
        self.prompt, self.prompt_is_given = prompt, prompt is not None
        self.host = host_of(pipe)
        self.known: Known = {}
        self.sampling: GuidedSampling | None = None
        self.reading: Reading | None = None
        self.outputs: list[torch.Tensor] = []
        self.skipped: torch.Tensor | None = None
        # Of each pass of a step, the last that ran whole: the shape of a row of what it took, and what it returned.
        self.whole: dict[int, tuple[tuple[int, ...], Any]] = {}
        self.calls = 0  # of the denoiser, in which the last guided step made its passes
        self.begun = False
        self.three: WithReference | None = None
        self.suspect: list[torch.Tensor] = []  # of each step: whether the pipeline's prediction was not as read
        self.broken: list[torch.Tensor] = []  # whether the denoiser's was not finite
        self.undo: list[Callable[[], None]] = []

    def __enter__(self) -> "Run":
        scheduler = self.pipe.scheduler
        check_supported(scheduler)
        texts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        if texts is not None and not (texts and all(isinstance(text, str) for text in texts)):
            raise ValueError(f"`prompt` must be a string or a list of at least one string, got {texts!r}.")
        try:
            self.undo.append(tap.tap_scheduler(scheduler))
            self.undo += [tap.tap_module(module) for module in denoisers(self.pipe)]
        except BaseException:
            self.detach()
            raise
        tap.push(self)
        return self

    def __exit__(self, *error: Any) -> None:
        tap.pop()
        self.detach()
        if error[0] is None and self.outputs:
            raise ValueError(UNSEEN)
        if self.sampling is None or not self.sampling.trace.steps:
            return
        if error[0] is None and self.suspect and bool(torch.stack(self.suspect).any()):
            raise ValueError(FOREIGN)
        if self.broken and (bad := torch.stack(self.broken).nonzero().flatten().tolist()):
            names = " or ".join(type(module).__name__ for module in denoisers(self.pipe))
            message = f"the denoiser {names} returned values that are not finite, first at step {bad[0]}"
            warnings.warn(message, stacklevel=outside())
        else:
            self.sampling.trace.warn_if_not_finite()

    def detach(self) -> None:
        """The pipeline's models and scheduler as they were."""
        for undo in reversed(self.undo):
            undo()
        self.undo.clear()

    def on_forward(self, module: torch.nn.Module, stock: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        """A model was called in this thread."""
        frame = calling_frame(self.pipe, TO_MODEL)
        if frame is None or all(module is not ours for ours in denoisers(self.pipe)):
            return stock(*args, **kwargs)
        if not self.begun:
            self.begin(known_to(frame, self.pipe))
        if self.passive:
            return stock(*args, **kwargs)
        if self.sampling is not None and self.sampling.skip is not None:
            output = self.in_part(module, stock, args, kwargs, self.sampling.skip)
        else:
            output = stock(*args, **kwargs)
            taken = row_shape(args[0] if args else next(iter(kwargs.values())))
            self.whole[len(self.outputs)] = taken, output
        prediction = tensor_of(output)
        if prediction is not None:  # else it only filled a cache
            self.outputs.append(prediction)
        return output

    def begin(self, known: Known) -> None:
        """Everything that can be wrong, before the first denoising."""
        self.begun, self.known = True, known
        if self.switched_on() is False:
            self.off()
            return
        guider = known.get("guider")
        if guider is not None and not guider._enabled:
            self.off()
            return
        if guider is not None and type(guider).__name__ != "ClassifierFreeGuidance":
            raise ValueError(
                f"`guider` {type(guider).__name__} guides by another formula: give it ClassifierFreeGuidance."
            )
        for name in FURTHER:
            if known.get(name) or getattr(self.pipe, name, False):
                raise ValueError(f"`{name}` must be off: {FOREIGN}")
        latents = known.get("latents")
        if isinstance(latents, torch.Tensor):
            self.host.formula(self.pipe, known)  # may refuse
            self.sampler(latents).check(latents)

    def off(self) -> None:
        """The call does without classifier-free guidance."""
        if self.must:
            raise ValueError(OFF)
        self.passive = True
        warnings.warn(f"{OFF} This call is not guided.", stacklevel=outside())

    def switched_on(self) -> bool | None:
        """Whether the call says that it will guide; `None` where it does not say."""
        for name in SWITCHES:
            said = self.known.get(name)
            said = getattr(self.pipe, name, None) if said is None else said
            if isinstance(said, bool):
                return said
        return None

    def in_part(
        self, module: torch.nn.Module, stock: Callable, args: tuple, kwargs: dict[str, Any], skip: torch.Tensor
    ) -> Any:
        """The denoiser on the rows that this step needs, zeros for the others."""
        call = inspect.signature(getattr(module, "_orig_mod", module).forward).bind(*args, **kwargs)
        rows, place = len(first := args[0] if args else next(iter(kwargs.values()))), len(self.outputs)
        needed = self.needed(rows, skip) if place in self.whole else None
        if needed is None:
            return stock(*args, **kwargs)
        taken, returned = self.whole[place]
        # Zeros cannot stand for what comes besides (LTX-2's sound), nor where latents are no longer of their shape.
        alone = not isinstance(returned, (tuple, list)) or len(returned) == 1
        if not alone or row_shape(first) != taken or indivisible(module, call, needed):
            return stock(*args, **kwargs)
        self.skipped, keep = skip, needed.nonzero()[:, 0]
        like = tensor_of(returned)
        zeros = torch.zeros((rows, *like.shape[1:]), dtype=like.dtype, device=like.device)
        if len(keep):
            call.arguments.update(take_rows(call.arguments, rows, keep, isinstance(first, (tuple, list))))
            zeros[keep.to(zeros.device)] = tensor_of(stock(*call.args, **call.kwargs))
        output: Any = list(zeros) if isinstance(returned[0], (tuple, list)) else zeros
        return (output,) if call.arguments.get("return_dict") is False else Transformer2DModelOutput(sample=output)

    def needed(self, rows: int, skip: torch.Tensor) -> torch.Tensor | None:
        """Which of the rows of a pass must run ``(rows,)`` bool, `None` where all must."""
        assert self.reading is not None
        both = [~skip, torch.ones_like(skip)]
        if rows == 2 * len(skip):
            return torch.cat(both[::-1] if self.reading.swapped else both)
        is_uncond = self.calls == 2 and len(self.outputs) == (0 if self.reading.swapped else 1)
        return ~skip if rows == len(skip) and is_uncond else None

    # ------------------------------------------------------------------------------------------------ the scheduler

    def on_step(self, stock: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        """The scheduler was asked for a step in this thread."""
        frame = calling_frame(self.pipe, TO_SCHEDULER)
        if frame is None or self.passive:
            return stock(*args, **kwargs)
        arguments = named(self.pipe.scheduler, args, kwargs)
        self.known = known_to(frame, self.pipe)
        sample = arguments["sample"]
        outputs, self.outputs = self.outputs, []
        predictions = self.split(outputs, sample)
        if predictions is None and self.reading is None and not self.switched_on():
            self.off()
            return stock(*args, **kwargs)
        sampling = self.sampler(sample)
        if not sampling.checked:
            sampling.check(sample)
        if not sampling.trace.steps:
            self.traces.append(sampling.trace)
        own_scale = 1.0
        if predictions is not None:
            self.calls = len(outputs)
            own_scale, predictions = self.own_guidance(arguments["model_output"], predictions)
        skipped, self.skipped = self.skipped, None
        return sampling.take(stock, arguments, predictions, own_scale, skipped)

    def split(self, outputs: list[torch.Tensor], sample: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The two predictions of a step, shaped as the latents; `None` where there was one alone.

        Raises:
            ValueError: there were others than these, or others than latents.
        """
        raw = split(outputs, len(sample))
        if raw is None:
            return None
        parts = tuple(self.host.read(self.pipe, self.known, part, sample) for part in raw)
        three = self.host.three if len(parts) == 3 else None
        if any(part.shape != sample.shape for part in parts) or len(parts) != (2 if three is None else 3):
            raise ValueError(FOREIGN)
        if three is not None:
            self.three = three(self.pipe, self.known, parts)
            return self.three.two()
        self.three = None
        uncond, cond = parts
        return uncond, cond

    def sampler(self, latents: torch.Tensor) -> GuidedSampling:
        """What takes the steps of this call; `latents` as the pipeline has them."""
        if self.sampling is None:
            prompt = [self.prompt] if isinstance(self.prompt, str) else self.prompt
            if prompt and not self.prompt_is_given and len(latents) % len(prompt) == 0:  # some pictures of each
                prompt = [text for text in prompt for _ in range(len(latents) // len(prompt))]
            self.sampling = GuidedSampling(
                self.guidance,
                self.pipe.scheduler,
                prompt,
                unpack=lambda latents: self.host.unpack(self.pipe, self.known, latents),
                preview=self.make_preview(),
            )
        return self.sampling

    def make_preview(self) -> Preview | None:
        """What judges of pictures see, `None` where there is no such judge."""
        if all(evaluator.space != "pixels" for evaluator in evaluators_of(self.guidance)):
            return None
        return make_preview(getattr(self.pipe, "vae", None), self.preview)

    def own_guidance(
        self, model_output: torch.Tensor, predictions: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[float, tuple[torch.Tensor, torch.Tensor]]:
        """The pipeline's own scale at this step, and its predictions ``(uncond, cond)`` as it combines them.

        Raises:
            ValueError: it guides by no rule that is known here, or no longer by the one of its first step.
        """
        assert self.sampling is not None
        channels = predictions[0].shape[1]
        guided, rest = model_output[:, :channels], model_output[:, channels:]  # a variance that the scheduler reads
        if guided.shape != predictions[0].shape:
            raise ValueError(FOREIGN)
        formula = self.three or self.host.formula(self.pipe, self.known)
        if self.reading is None:
            self.reading = read(self.pipe, self.known, guided, predictions, formula)
        elif type(formula) is not Formula or isinstance(self.reading.formula, Rescaled):  # a callback may change it
            self.reading = replace(self.reading, formula=formula)
        scale = self.stated(guided, predictions)
        self.sampling.formula = self.reading.formula
        self.sampling.to_model_output = lambda prediction: torch.cat([prediction.to(guided.dtype), rest], 1)
        self.broken.append(~torch.stack([x.isfinite().all() for x in predictions]).all())
        self.suspect.append(self.reading.deviation(guided, predictions, scale))
        if free_to_read(guided) and bool(self.suspect[-1]):
            raise ValueError(FOREIGN)
        return scale, self.reading.order(predictions)

    def stated(self, guided: torch.Tensor, predictions: tuple[torch.Tensor, torch.Tensor]) -> float:
        """The scale where the pipeline keeps it, read anew: a callback or a schedule of its own may have changed it."""
        assert self.reading is not None
        said = stated_scales(self.pipe, self.known, self.reading.sources)
        if len(set(said.values())) > 1:  # what agreed so far does no more: the pipeline reads one of them
            fits = {s: v for s, v in said.items() if not self.reading.deviation(guided, predictions, v)}
            said = fits or said
            self.reading = replace(self.reading, sources=tuple(said))
        return next(iter(said.values()), self.reading.scale)


def free_to_read(tensor: torch.Tensor) -> bool:
    """Whether a value can be looked at without waiting for a device."""
    return tensor.device.type == "cpu"
