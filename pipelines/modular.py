"""The search as a diffusers guider, for Modular Diffusers."""

import copy
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, NamedTuple

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.guiders import ClassifierFreeGuidance
from diffusers.guiders.guider_utils import GuiderOutput
from diffusers.modular_pipelines import PipelineState

from evaluators.pixel.preview import Preview, make_preview
from guidance import Guidance, GuidanceTrace
from guidance.formula import Formula, Rescaled
from guidance.sampling import GuidedSampling, as_is, evaluators_of
from guidance.schedulers import check_supported

from .formulas import FromConditional, OfCleanLatents, TokenRenormalised
from .hosts import Known, host_of
from .patch import named, patch
from .reading import Reading
from .run import UNSEEN

Pair = tuple[torch.Tensor, torch.Tensor]
FOREIGN = "{} makes of its guider's prediction what is not known here, so it cannot be replaced."
CUT = "`guidance_rescale` must be 0: it would be measured on tokens that {} leaves out afterwards."
OTHER_SCHEDULER = (
    "`scheduler` is not that of the pipeline: set `guider.scheduler = pipe.scheduler` after this was replaced."
)


class OnlineGuider(ClassifierFreeGuidance):
    """Takes the scale of every image and step from a `GreedySearch`, in any modular pipeline with a guider.

    Modular pipelines hand a guider the two predictions and nothing else. So it decides one call later: between its own
    call and the end of ``scheduler.step``, which has the latents, that one method of the one scheduler is replaced.
    What the pipeline does to a guider's prediction in between is done to ours as well (Qwen-Image's norm).

    Example::

        guider = OnlineGuider(GreedySearch([clip]), pipe.scheduler, prompt=["two red circles"])
        pipe.update_components(guider=guider)
        image = pipe(prompt="two red circles").images[0]
        guider.traces[-1].plot("schedule.png")

    It is saved and loaded as guiders are, without its guidance and its scheduler: set these two attributes after
    ``from_pretrained``. Without a guidance, or disabled, it is ``ClassifierFreeGuidance``. Where a pipeline has two
    guiders (Wan 2.2), give it the same one twice, or it decides on the steps of one of them only. A pipeline without
    one (FLUX.1) takes none.

    Args:
        guidance: what `guide` takes. A `Budget` saves nothing here: modular pipelines make both passes.
        scheduler: the one that the pipeline will use.
        prompt: what the evaluators read, one for each image; an attribute, to be set anew before a call with another
            prompt, for nobody tells a guider.
        guidance_scale, guidance_rescale, use_original_formulation: as of ``ClassifierFreeGuidance``, where `guidance`
            leaves the choice to it.
        preview: what judges of pictures see, as of `guide`.

    Attributes:
        traces: one `GuidanceTrace` for each call of the pipeline.

    Raises:
        ValueError: an unsupported scheduler; and at the first step of a call: an evaluator or a prompt that does not
            fit, another scheduler than the pipeline's, or a pipeline that makes of a guider's prediction what is not
            known here.
    """

    ignore_for_config = ["guidance", "scheduler", "prompt", "preview"]  # noqa: RUF012  # as ConfigMixin declares it
    spatio_temporal_guidance_blocks = None  # LTX-2 asks its guiders for them: none

    @register_to_config
    def __init__(
        self,
        guidance: Guidance | None = None,
        scheduler: Any = None,
        prompt: Sequence[str] | None = None,
        guidance_scale: float = 7.5,
        guidance_rescale: float = 0.0,
        use_original_formulation: bool = False,
        preview: str | Preview = "auto",
    ) -> None:
        super().__init__(guidance_scale, guidance_rescale, use_original_formulation)
        if guidance is not None and not hasattr(guidance, "decide"):
            raise ValueError(f"`guidance` must be a GreedySearch or a Schedule, got {type(guidance).__name__}.")
        if guidance is not None or scheduler is not None:
            check_supported(scheduler)
        self.guidance, self.scheduler, self.prompt, self.preview = guidance, scheduler, prompt, preview
        self.traces: list[GuidanceTrace] = []
        self.sampling: GuidedSampling | None = None
        self.found: Formula | None = None  # how the pipeline's own prediction came about
        self.state: Any = None  # a weak reference to that of the call that `sampling` belongs to
        self.undo: Callable[[], None] | None = None

    @property
    def active(self) -> bool:
        """Whether it decides."""
        return self.guidance is not None and self._enabled

    @property
    def num_conditions(self) -> int:
        """Both passes, even where `guidance_scale` is 1."""
        return 2 if self.active else super().num_conditions

    def active_predictions(self) -> list[str]:
        """The passes by name, for which LTX-2 asks its guiders."""
        return self._input_predictions[: self.num_conditions]

    def forward(self, pred_cond: torch.Tensor, pred_uncond: torch.Tensor | None = None) -> GuiderOutput:
        """The prediction for `guidance_scale`; the scheduler is about to see another."""
        output = super().forward(pred_cond, pred_uncond)
        if not self.active:
            return output
        assert pred_uncond is not None  # `num_conditions`
        raw, thread, call = (pred_uncond, pred_cond), threading.get_ident(), asked_by()
        if getattr(call.pipe, "scheduler", self.scheduler) is not self.scheduler:
            raise ValueError(OTHER_SCHEDULER)
        begins = self.sampling is None or not self.belongs(call) or (call.state is None and self._step == 0)
        if self.undo is not None:
            self.undo()
            self.undo = None
            if not begins:  # else it is of a call that ended before its step
                raise ValueError(UNSEEN)
        if begins:
            self.begin(call)

        def on_step(stock: Any, *args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != thread:
                return stock(*args, **kwargs)
            undo()
            self.undo, call = None, asked_by()
            if not self.belongs(call):
                return stock(*args, **kwargs)
            return self.on_step(stock, named(self.scheduler, args, kwargs), raw, call)

        undo = self.undo = patch(self.scheduler, "step", on_step)
        return output

    def belongs(self, call: "Call") -> bool:
        """Whether `sampling` is of this call."""
        return call.state is (None if self.state is None else self.state())

    def begin(self, call: "Call") -> None:
        """The first step of a call."""
        assert self.guidance is not None  # `active`
        check_supported(self.scheduler)
        preview = None
        if any(evaluator.space == "pixels" for evaluator in evaluators_of(self.guidance)):
            preview = make_preview(getattr(call.pipe, "vae", None), self.preview)
        self.sampling = GuidedSampling(self.guidance, self.scheduler, self.prompt, preview=preview)
        self.state = None if call.state is None else weakref.ref(call.state)
        self.found = None

    def on_step(self, stock: Callable, arguments: dict[str, Any], raw: Pair, call: "Call") -> Any:
        """The pipeline steps with what it made of our prediction."""
        assert self.sampling is not None  # `begin`
        sampling, host = self.sampling, host_of(call.pipe)
        guided, sample = arguments["model_output"], arguments["sample"]
        dtype = guided.dtype
        sampling.unpack = lambda latents: host.unpack(call.pipe, call.known, latents)
        sampling.to_model_output = lambda prediction: prediction.to(dtype)
        try:
            if not sampling.checked:
                sampling.check(sample)
            if of_clean_latents(call):  # LTX-2 guides these
                sigma = self.scheduler.sigmas[self._step]
                raw = tuple((call.known["latents"] - x) / sigma for x in raw)
            if self.guidance_rescale > 0 and raw[0].numel() != sample.numel():
                raise ValueError(CUT.format(type(call.pipe).__name__))
            u, c = (host.read(call.pipe, call.known, x, sample) for x in raw)
            if self.found is None or of_clean_latents(call):
                self.found = self.formula(call, guided, (u, c), sample)
            sampling.formula = self.found
            if not sampling.trace.steps:
                self.traces.append(sampling.trace)
            return sampling.take(stock, arguments, (u, c), self.guidance_scale)
        finally:
            sampling.unpack = as_is  # the tensors of a call are not kept

    def formula(self, call: "Call", guided: torch.Tensor, predictions: Pair, sample: torch.Tensor) -> Formula:
        """How the pipeline came to `guided`.

        Raises:
            ValueError: not in a way that is known here.
        """
        formula: Formula = FromConditional() if self.use_original_formulation else Formula()
        if self.guidance_rescale > 0:
            kind = RescaledFromConditional if self.use_original_formulation else Rescaled
            formula = kind(self.guidance_rescale)
        forms = [formula, renormalised(formula)]
        name = type(call.pipe).__name__
        if name.startswith("QwenImage") and not name.startswith("QwenImage21"):  # at a scale of 1 both fit
            forms.reverse()
        if of_clean_latents(call):
            known, given = call.known, None
            if known.get("clean_latents") is not None:
                given = known["clean_latents"], known["conditioning_mask"]
            forms = [OfCleanLatents(sample, self.scheduler.sigmas[self._step], self.guidance_rescale, given)]
        for form in forms if guided.shape == predictions[0].shape else ():
            if not Reading(form).deviation(guided, predictions, self.guidance_scale):
                return form
        raise ValueError(FOREIGN.format(name))


class RescaledFromConditional(Rescaled, FromConditional):
    """``c + s (c - u)``, rescaled."""


def renormalised(formula: Formula) -> Formula:
    """`formula`, then `TokenRenormalised` (Qwen-Image)."""
    made = copy.copy(formula)
    made.__class__ = type("Renormalised", (TokenRenormalised, type(formula)), {})
    return made


class Call(NamedTuple):
    """Whose call it is.

    Attributes:
        pipe: the modular pipeline, `None` outside of one.
        known: what its blocks know, the nearest first.
        state: the state of this call.
    """

    pipe: Any
    known: Known
    state: PipelineState | None


def asked_by() -> Call:
    """The modular pipeline whose block called this, or the scheduler."""
    pipe: Any = None
    known: Known = {}
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        here = frame.f_locals
        if pipe is None and "components" in here and "block_state" in here:
            pipe, known = here["components"], here["block_state"].as_dict()
        if pipe is not None and isinstance(here.get("state"), PipelineState):
            return Call(pipe, here["state"].values | known, here["state"])
        frame = frame.f_back
    return Call(pipe, known, None)


def of_clean_latents(call: Call) -> bool:
    """Whether the guider's predictions are of the clean latents."""
    return type(call.pipe).__name__.startswith("LTX2")
