"""The particulars of hosts: where a pipeline departs from ``denoiser -> u + s (c - u) -> scheduler.step``.

A host is one row of `HOSTS`, found by the beginning of its class's name, the longest that fits. A pipeline without a
row is taken to be plain; what is not plain about it is found out at the first step, or it is refused.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from guidance.formula import Formula, Rescaled, times

Known = dict[str, Any]  # the local variables of the pipeline's call
DENOISERS = ("unet", "transformer", "transformer_2")


class TokenRenormalised(Formula):
    """``u + s (c - u)``, each token brought to the norm of its conditional prediction (Qwen-Image)."""

    affine = False

    def __init__(self, least: float | None = None) -> None:
        self.least = least  # of the norm that is divided by

    def __call__(self, pred_uncond: torch.Tensor, pred_cond: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        guided = super().__call__(pred_uncond, pred_cond, scale)
        cond_norm = torch.norm(pred_cond, dim=-1, keepdim=True)
        norm = torch.norm(guided, dim=-1, keepdim=True)
        return guided * (cond_norm / (norm if self.least is None else norm.clamp_min(self.least)))


class FromConditional(Formula):
    """``c + s (c - u)``: here a scale of 0 is no guidance (Z-Image, Cosmos)."""

    unguided = 0.0

    def __call__(self, pred_uncond: torch.Tensor, pred_cond: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return pred_cond + times(scale, pred_cond - pred_uncond)


class NormLimited(FromConditional):
    """The same, at no more than `most` times the norm of the conditional prediction (Z-Image's cfg_normalization)."""

    affine = False

    def __init__(self, most: float) -> None:
        self.most = most

    def __call__(self, pred_uncond: torch.Tensor, pred_cond: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        guided = super().__call__(pred_uncond, pred_cond, scale)
        axes = tuple(range(1, guided.ndim))
        norm = torch.linalg.vector_norm(guided, dim=axes, keepdim=True)
        most = torch.linalg.vector_norm(pred_cond, dim=axes, keepdim=True) * self.most
        return torch.where(norm > most, guided * (most / norm), guided)


def plain(pipe: Any, known: Known) -> Formula:
    """`Formula`, rescaled where the pipeline is told to."""
    rescale = getattr(pipe, "guidance_rescale", None)
    rescale = known.get("guidance_rescale") if rescale is None else rescale
    return Rescaled(float(rescale)) if rescale else Formula()


def as_is(pipe: Any, known: Known, latents: torch.Tensor) -> torch.Tensor:
    """Latents that are ``(batch, C, H, W)`` or ``(batch, C, F, H, W)`` already."""
    return latents


def tokens(pipe: Any, known: Known, latents: torch.Tensor) -> torch.Tensor:
    """``(batch, tokens, 4 C)`` by the pipeline's own unpacker, which takes the height and width of the picture."""
    if latents.ndim != 3 or "height" not in known:
        return latents
    unpacked = pipe._unpack_latents(latents, known["height"], known["width"], pipe.vae_scale_factor)
    return unpacked.squeeze(2) if unpacked.ndim == 5 else unpacked


def frames_first(pipe: Any, known: Known, latents: torch.Tensor) -> torch.Tensor:
    """``(batch, F, C, H, W)`` to ``(batch, C, F, H, W)``."""
    return latents.transpose(1, 2)


@dataclass(frozen=True)
class Host:
    """What is particular about a pipeline.

    Attributes:
        formula: ``(pipe, known) -> Formula``, how it makes one prediction of two.
        unpack: ``(pipe, known, latents)`` to what evaluators read, ``(batch, C, H, W)`` or ``(batch, C, F, H, W)``.
        denoisers: the attributes that hold the models whose passes sampling consists of.
        refused: why it cannot be guided, "" where it can.
    """

    formula: Callable[[Any, Known], Formula] = plain
    unpack: Callable[[Any, Known, torch.Tensor], torch.Tensor] = as_is
    denoisers: tuple[str, ...] = DENOISERS
    refused: str = ""


def z_image(pipe: Any, known: Known) -> Formula:
    """`FromConditional`, limited where the pipeline is told to."""
    most = float(getattr(pipe, "_cfg_normalization", 0.0) or 0.0)
    return NormLimited(most) if most > 0 else FromConditional()


HOSTS = {
    "CogVideoX": Host(unpack=frames_first),
    "Flux": Host(unpack=tokens),
    "QwenImage": Host(formula=lambda pipe, known: TokenRenormalised(), unpack=tokens),
    "ZImage": Host(formula=z_image),
}


def host_of(pipe: Any) -> Host:
    """The row of a pipeline's class or of the nearest base class that has one."""
    for cls in type(pipe).__mro__:
        rows = [name for name in HOSTS if cls.__name__.startswith(name)]
        if rows:
            return HOSTS[max(rows, key=len)]
    return Host()


def denoisers(pipe: Any) -> list[torch.nn.Module]:
    """The models whose forward passes sampling consists of."""
    found = (getattr(pipe, name, None) for name in host_of(pipe).denoisers)
    return [module for module in found if module is not None]
