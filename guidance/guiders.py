"""Guiders of diffusers as guidance: rules that change the direction, not only the scale."""

from typing import Any

import torch
from diffusers.guiders import (
    AdaptiveProjectedGuidance,
    BaseGuidance,
    ClassifierFreeZeroStarGuidance,
    FrequencyDecoupledGuidance,
    MagnitudeAwareGuidance,
    TangentialClassifierFreeGuidance,
)

from .step import Decision, DenoisingStep

GUIDERS: dict[str, type[Any]] = {  # subclasses of BaseGuidance, each with arguments of its own
    "apg": AdaptiveProjectedGuidance,  # arXiv 2410.02416
    "cfg_zero_star": ClassifierFreeZeroStarGuidance,  # arXiv 2503.18886
    "fdg": FrequencyDecoupledGuidance,  # arXiv 2506.19713; needs kornia (extra `fdg`) and latents (batch, C, H, W)
    "mambo_g": MagnitudeAwareGuidance,  # arXiv 2508.03442
    "tcfg": TangentialClassifierFreeGuidance,  # arXiv 2503.18137
}


class Guider:
    """A diffusers guider in any pipeline, not only a modular one.

    It is called as modular pipelines call it: on the denoiser's raw outputs, in the host's layout, with the number of
    the step within this call; what it keeps from step to step (APG's momentum) starts anew with each. Its prediction
    takes the place of the pipeline's, whose own ``guidance_rescale`` is not applied to it: guiders have theirs.

    The scale in the trace is that of the nearest ``u + s (c - u)``, ``s = <p - u, c - u> / |c - u|²``.

    Example::

        with guide(pipe, Guider(GUIDERS["apg"](guidance_scale=6.0))):
            image = pipe("two red circles").images[0]

    Args:
        guider: one that combines the conditional and the unconditional prediction and leaves the denoiser alone.

    Raises:
        TypeError: `guider` is no diffusers guider. ValueError: it needs further passes, or changes the denoiser.
    """

    def __init__(self, guider: BaseGuidance) -> None:
        if not isinstance(guider, BaseGuidance):
            raise TypeError(f"`guider` must be a diffusers guider, got {type(guider).__name__}.")
        foreign: set[str] = set(guider._input_predictions or ()) - {"pred_cond", "pred_uncond"}
        if foreign or type(guider).prepare_models is not BaseGuidance.prepare_models:
            raise ValueError(
                f"`guider` {type(guider).__name__} needs passes that the pipeline does not make; there are "
                f"{', '.join(cls.__name__ for cls in GUIDERS.values())}."
            )
        self.guider = guider

    def decide(self, step: DenoisingStep) -> Decision:
        """The guider's prediction, and the scale ``(batch,)`` that comes nearest to it."""
        self.guider.set_state(
            step=step.index - step.start_index,
            num_inference_steps=step.num_steps - step.start_index,
            timestep=step.timestep,  # type: ignore[arg-type]  # any number; diffusers says LongTensor
        )
        # Which passes it wants now: outside its `start` and `stop` the conditional one alone. APG renews its momentum.
        passes = self.guider.prepare_inputs({})  # type: ignore[arg-type]  # every subclass takes a dict
        # Its norm is over whole rows, and torch takes one over at most two dimensions besides the batch.
        flat = isinstance(self.guider, MagnitudeAwareGuidance)
        for item in passes:
            prediction = getattr(step, getattr(item, self.guider._identifier_key))
            item["noise_pred"] = prediction.flatten(2) if flat else prediction
        prediction = self.guider(passes).pred.view_as(step.pred_cond)
        direction, moved = (
            (p - step.pred_uncond).flatten(1).to(torch.promote_types(p.dtype, torch.float32))
            for p in (step.pred_cond, prediction)
        )
        scale = (moved * direction).sum(1) / direction.square().sum(1).clamp_min(1e-30)
        return Decision(scale, {}, prediction)
