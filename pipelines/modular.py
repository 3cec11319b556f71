"""The search as a diffusers guider, for Modular Diffusers."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.guiders import ClassifierFreeGuidance
from diffusers.guiders.guider_utils import GuiderOutput

from guidance import Guidance, GuidanceTrace
from guidance.schedulers import check_supported

from .guide import step_kwargs
from .patch import patch
from .sampling import Sampling


class OnlineGuider(ClassifierFreeGuidance):
    """Takes the scale of every image and step from a `GreedySearch`, in any modular pipeline with a guider.

    Modular pipelines hand a guider the two predictions and nothing else. So it decides one call later: between its own
    call and the end of ``scheduler.step``, which has the latents, that one method of the one scheduler is replaced.

    Example::

        guider = OnlineGuider(GreedySearch([clip]), pipe.scheduler, prompt=["two red circles"])
        pipe.update_components(guider=guider)
        image = pipe(prompt="two red circles").images[0]
        guider.traces[-1].plot("schedule.png")

    Args:
        guidance: what `guide` takes. A `Budget` saves nothing here: modular pipelines make both passes.
        scheduler: the one that the pipeline will use.
        prompt: what the evaluators read, one for each image; an attribute, to be set anew before a call with another
            prompt, for nobody tells a guider.
        guidance_scale, guidance_rescale: as of ``ClassifierFreeGuidance``, where `guidance` leaves the choice to it.

    Attributes:
        traces: one `GuidanceTrace` for each call of the pipeline.

    Raises:
        ValueError: an unsupported scheduler; and at the first step of a call: an evaluator or a prompt that does not
            fit, or latents that are not ``(batch, C, H, W)``.
    """

    def __init__(
        self,
        guidance: Guidance,
        scheduler: Any,
        prompt: Sequence[str] | None = None,
        guidance_scale: float = 7.5,
        guidance_rescale: float = 0.0,
    ) -> None:
        super().__init__(guidance_scale=guidance_scale, guidance_rescale=guidance_rescale)
        check_supported(scheduler)
        if not hasattr(guidance, "decide"):
            raise ValueError(f"`guidance` must be a GreedySearch or a Schedule, got {type(guidance).__name__}.")
        self.guidance, self.scheduler, self.prompt = guidance, scheduler, prompt
        self.traces: list[GuidanceTrace] = []
        self.sampling: Sampling | None = None

    @property
    def num_conditions(self) -> int:
        """Both passes, even where `guidance_scale` is 1."""
        return 2

    def forward(self, pred_cond: torch.Tensor, pred_uncond: torch.Tensor | None = None) -> GuiderOutput:
        """The prediction for `guidance_scale`; the scheduler is about to see another."""
        assert pred_uncond is not None  # `num_conditions`
        predictions = (pred_uncond, pred_cond)

        def on_step(
            stock: Any, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, *args, **kwargs
        ) -> Any:
            undo()
            if self._step == 0 or self.sampling is None:
                self.sampling = self.begin(sample, timestep)
            return self.sampling.step(
                stock, model_output, timestep, sample, step_kwargs(stock, args, kwargs), predictions
            )

        undo = patch(self.scheduler, "step", on_step)
        return super().forward(pred_cond, pred_uncond)

    def begin(self, sample: torch.Tensor, timestep: Any) -> Sampling:
        """A new call of the pipeline."""
        if sample.ndim != 4:
            raise ValueError(f"latents must be (batch, C, H, W), and this pipeline's are {tuple(sample.shape)}.")
        if self.prompt is not None and len(self.prompt) != len(sample):
            raise ValueError(f"`prompt` must give one for each of {len(sample)} images, got {len(self.prompt)}.")
        if hasattr(self.guidance, "check"):
            self.guidance.check(sample, self.prompt)
        sampling = Sampling(
            self.guidance,
            self.scheduler,
            timestep,
            self.prompt,
            self.guidance_scale,
            self.guidance_rescale,
            unpack=lambda latents: latents,
        )
        self.traces.append(sampling.trace)
        return sampling
