"""The search as a diffusers guider, for Modular Diffusers."""

import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.guiders import ClassifierFreeGuidance
from diffusers.guiders.guider_utils import GuiderOutput

from guidance import Guidance, GuidanceTrace
from guidance.formula import Formula, Rescaled
from guidance.sampling import GuidedSampling
from guidance.schedulers import check_supported

from .formulas import FromConditional, TokenRenormalised
from .hosts import Known, host_of
from .patch import patch
from .reading import FOREIGN, Reading, read
from .run import named


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
    ``from_pretrained``. Without a guidance it is ``ClassifierFreeGuidance``.

    Args:
        guidance: what `guide` takes. A `Budget` saves nothing here: modular pipelines make both passes.
        scheduler: the one that the pipeline will use.
        prompt: what the evaluators read, one for each image; an attribute, to be set anew before a call with another
            prompt, for nobody tells a guider.
        guidance_scale, guidance_rescale, use_original_formulation: as of ``ClassifierFreeGuidance``, where `guidance`
            leaves the choice to it.

    Attributes:
        traces: one `GuidanceTrace` for each call of the pipeline.

    Raises:
        ValueError: an unsupported scheduler; and at the first step of a call: an evaluator or a prompt that does not
            fit, or a pipeline that makes of a guider's prediction what is not known here.
    """

    ignore_for_config = ["guidance", "scheduler", "prompt"]  # noqa: RUF012  # as ConfigMixin declares it

    @register_to_config
    def __init__(
        self,
        guidance: Guidance | None = None,
        scheduler: Any = None,
        prompt: Sequence[str] | None = None,
        guidance_scale: float = 7.5,
        guidance_rescale: float = 0.0,
        use_original_formulation: bool = False,
    ) -> None:
        super().__init__(guidance_scale, guidance_rescale, use_original_formulation)
        if guidance is not None and not hasattr(guidance, "decide"):
            raise ValueError(f"`guidance` must be a GreedySearch or a Schedule, got {type(guidance).__name__}.")
        if guidance is not None or scheduler is not None:
            check_supported(scheduler)
        self.guidance, self.scheduler, self.prompt = guidance, scheduler, prompt
        self.traces: list[GuidanceTrace] = []
        self.sampling: GuidedSampling | None = None
        self.reading: Reading | None = None

    @property
    def num_conditions(self) -> int:
        """Both passes, even where `guidance_scale` is 1."""
        return super().num_conditions if self.guidance is None else 2

    def formula(self) -> Formula:
        """How it makes one prediction of two, but for the scale."""
        if self.use_original_formulation:
            return FromConditional()
        return Rescaled(self.guidance_rescale) if self.guidance_rescale > 0 else Formula()

    def forward(self, pred_cond: torch.Tensor, pred_uncond: torch.Tensor | None = None) -> GuiderOutput:
        """The prediction for `guidance_scale`; the scheduler is about to see another."""
        output = super().forward(pred_cond, pred_uncond)
        if self.guidance is None:
            return output
        assert pred_uncond is not None  # `num_conditions`
        raw, thread = (pred_uncond, pred_cond), threading.get_ident()

        def on_step(stock: Any, *args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != thread:
                return stock(*args, **kwargs)
            undo()
            return self.on_step(stock, named(stock, args, kwargs), raw)

        undo = patch(self.scheduler, "step", on_step)
        return output

    def on_step(self, stock: Any, arguments: dict[str, Any], raw: tuple[torch.Tensor, torch.Tensor]) -> Any:
        """The pipeline steps with what it made of our prediction."""
        assert self.guidance is not None  # `forward`
        pipe, known = asked_by()
        guided, sample = arguments["model_output"], arguments["sample"]
        host = host_of(pipe)
        if self._step == 0 or self.sampling is None:
            self.sampling = GuidedSampling(self.guidance, self.scheduler, self.prompt)
            self.reading = None
            self.traces.append(self.sampling.trace)
        self.sampling.unpack = lambda latents: host.unpack(pipe, known, latents)
        if not self.sampling.checked:
            self.sampling.check(sample)
        u, c = (host.read(pipe, known, prediction, sample) for prediction in raw)
        if u.shape != guided.shape:
            raise ValueError(FOREIGN)
        if self.reading is None:
            said: Known = {"guidance_scale": self.guidance_scale}
            self.reading = read(None, said, guided, (u, c), self.formula(), [TokenRenormalised()])
        self.sampling.formula = self.reading.formula
        self.sampling.to_model_output = lambda prediction: prediction.to(guided.dtype)
        return self.sampling.take(stock, arguments, self.reading.order((u, c)), self.guidance_scale)


def asked_by() -> tuple[Any, Known]:
    """The modular pipeline whose block called the scheduler, and what that knows; elsewhere `None` and nothing."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if "components" in frame.f_locals and "block_state" in frame.f_locals:
            return frame.f_locals["components"], frame.f_locals["block_state"].as_dict()
        frame = frame.f_back
    return None, {}
