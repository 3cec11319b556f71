"""CFG++: the clean prediction is guided, the noise that is put back is not."""

import torch

from .schedulers import probe
from .step import Decision, DenoisingStep


class CFGPlusPlus:
    r"""Manifold-constrained guidance (arXiv 2406.08070), in any pipeline with an affine scheduler.

    .. math:: x_{t-1} = \alpha_{t-1} \, \hat x_0(u + \lambda (c - u)) + \sigma_{t-1} \, u

    A step of a first-order sampler leads along one line whatever the scale, so that this point on it is where
    classifier-free guidance leads, too, at another scale: with DDIM's ``k = σ / α`` at ``s = λ k_t / (k_t - k_{t-1})``,
    many times λ at first and λ itself in the last step. That scale is what this chooses, measured from the scheduler's
    own step, drawn noise included; with a multistep scheduler its history is left as it is.

    Example::

        with guide(pipe, CFGPlusPlus(0.6)):
            image = pipe("two red circles").images[0]

    Args:
        strength: λ, from 0, no guidance at all, to 1.

    Raises:
        ValueError: `strength` is outside [0, 1].
    """

    def __init__(self, strength: float = 0.6) -> None:
        if not 0 <= strength <= 1:
            raise ValueError(f"`strength` must be from 0 to 1, got {strength!r}.")
        self.strength = float(strength)

    def decide(self, step: DenoisingStep) -> Decision:
        """The prediction whose step is that of CFG++, and its scale ``(batch,)``."""
        return at_strength(step, step.full(self.strength))


def at_strength(step: DenoisingStep, strength: torch.Tensor) -> Decision:
    """What CFG++ wants of a step at a `strength` ``(batch,)`` of each row."""
    direction = step.pred_cond - step.pred_uncond
    uncond, cond = (
        probe(step.scheduler, step.to_model_output(p), step.timestep, step.sample, step.step_kwargs).flatten(1)
        for p in (step.pred_uncond, step.pred_cond)
    )
    clean = (step.denoised(step.pred_cond) - step.denoised(step.pred_uncond)).flatten(1).float()
    # How far along the clean direction a step moves for each unit of the scale, the noise that it puts back included.
    moved = ((cond - uncond).float() * clean).sum(1) / clean.square().sum(1)
    scale = strength * (step.next_level[0] / moved)
    scale = torch.where(scale.isfinite(), scale, strength)  # both predictions are the same
    wide = scale.view(-1, *[1] * (direction.ndim - 1))
    return Decision(scale, {}, (step.pred_uncond + wide * direction).to(direction.dtype))
