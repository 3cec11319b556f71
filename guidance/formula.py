"""How two predictions become one: the formula of classifier-free guidance, and what some hosts do besides."""

import torch


def guided_prediction(pred_uncond: torch.Tensor, pred_cond: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """``u + s (c - u)`` with a `scale` ``(batch,)`` of its own for every row.

    Bit for bit what ``u + float * (c - u)`` gives each row, in half precision too: there PyTorch multiplies by a
    number in float32, so this does as well.
    """
    difference = pred_cond - pred_uncond
    return pred_uncond + times(scale, difference)


def times(scale: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """Every row of `tensor` ``(batch, ...)`` times its `scale` ``(batch,)``, as ``float * tensor`` would round it."""
    wide = torch.promote_types(tensor.dtype, torch.float32)
    scale = scale.to(device=tensor.device, dtype=wide).view(-1, *[1] * (tensor.ndim - 1))
    return (tensor.to(wide) * scale).to(tensor.dtype)


class Formula:
    """``u + s (c - u)`` (arXiv 2207.12598). A host that guides otherwise has a subclass.

    Attributes:
        affine: whether the prediction is affine in the scale, so that two of them give every candidate.
        unguided: the scale at which the prediction is the conditional one, which needs no unconditional pass.
    """

    affine = True
    unguided = 1.0

    def __call__(self, pred_uncond: torch.Tensor, pred_cond: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """The prediction for one scale per row ``(batch,)``, shaped as the two."""
        return guided_prediction(pred_uncond, pred_cond, scale)


class Rescaled(Formula):
    """Brought back to the conditional prediction's spread by a share `guidance_rescale` in (0, 1] (arXiv 2305.08891,
    Sec. 3.4)."""

    affine = False

    def __init__(self, guidance_rescale: float) -> None:
        self.guidance_rescale = guidance_rescale

    def __call__(self, pred_uncond: torch.Tensor, pred_cond: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

        guided = super().__call__(pred_uncond, pred_cond, scale)
        return rescale_noise_cfg(guided, pred_cond, guidance_rescale=self.guidance_rescale)
