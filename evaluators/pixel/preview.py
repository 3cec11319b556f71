"""Previews: what latents look like, quickly. Judges of pictures see predictions of the clean latents through one.

=========  ===========================================================  ==============================================
preview    how                                                          for
=========  ===========================================================  ==============================================
``tiny``   ``AutoencoderTiny`` of the VAE's family                      Stable Diffusion 1, 2, XL, 3; FLUX.1
``half``   the tiny one of latents of half the size: a quarter of the   the same, of large pictures
           cost, a little blurred
``linear`` a linear map of each latent to a colour, fitted to the VAE   every VAE; a small, blurred picture
``vae``    the VAE itself                                               every VAE; slow
=========  ===========================================================  ==============================================

``auto`` takes the tiny one where there is one, the VAE where that is no larger than a tiny one, else the linear one.
"""

import contextlib
import logging
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F

from .checkpoint import asked_once, is_offline

PREVIEWS = ("auto", "tiny", "half", "linear", "vae")
# (latent channels, scaling, shift) of a VAE -> the tiny one of its family, as they stand in its config.
TINY = {
    (4, 0.18215, 0.0): "madebyollin/taesd",
    (4, 0.13025, 0.0): "madebyollin/taesdxl",
    (16, 1.5305, 0.0609): "madebyollin/taesd3",
    (16, 0.3611, 0.1159): "madebyollin/taef1",
}
SMALL = 3_000_000  # parameters of a tiny VAE
AREA = 128 * 128  # of the latents that a VAE decodes at once: one picture of 1024 pixels
TINY_AREA = 4 * AREA
PICTURES, SIDE = 24, 96  # that the linear map is fitted to
_MADE: "weakref.WeakKeyDictionary[Any, dict[str, Callable]]" = weakref.WeakKeyDictionary()  # by VAE, then by kind
logger = logging.getLogger(__name__)

Preview = Callable[[torch.Tensor], torch.Tensor]
"""Latents of unit variance, ``(n, C, H, W)``, to pictures ``(n, 3, h, w)`` in [0, 1]."""


def make_preview(vae: Any, kind: str | Preview = "auto") -> Preview:
    """The preview of a pipeline's `vae`, made once a VAE.

    Raises:
        ValueError: `kind` is not one of `PREVIEWS` and no function, there is no VAE, or no tiny one of its family.
        OSError: the tiny one cannot be loaded.
    """
    if callable(kind):
        return kind
    if kind not in PREVIEWS:
        raise ValueError(f"`preview` must be one of {', '.join(PREVIEWS)}, or a function, got {kind!r}.")
    if vae is None:
        raise ValueError("`preview` needs a VAE, and the pipeline has none: pass a function of latents.")
    family = TINY.get(family_of(vae))
    small = family is None and sum(p.numel() for p in vae.parameters()) <= SMALL
    if kind == "vae" or (kind == "auto" and small):
        return lambda latents: decode(vae, latents)
    if kind in ("tiny", "half") and family is None:
        raise ValueError(f"`preview` has no tiny decoder for {type(vae).__name__}: take 'linear' or 'vae'.")
    if kind == "half":
        whole = make_preview(vae, "tiny")
        return lambda latents: whole(F.avg_pool2d(latents, 2))
    made = _MADE.setdefault(vae, {})
    if kind not in made:
        try:
            made[kind] = linear(vae) if family is None or kind == "linear" else tiny(vae, family)
        except OSError as error:
            if kind == "tiny":
                raise
            logger.warning("%s A linear preview is fitted instead.", error)
            made[kind] = linear(vae)
    return made[kind]


def family_of(vae: Any) -> tuple[int, float, float]:
    """What tells the families of VAEs apart."""
    config = vae.config
    return (
        int(config.get("latent_channels") or config.get("z_dim") or 0),
        round(float(config.get("scaling_factor") or 1.0), 5),
        round(float(config.get("shift_factor") or 0.0), 4),
    )


def tiny(vae: Any, family: str) -> Preview:
    """The decoder of that hub id, in the VAE's dtype, on the device of the latents.

    Raises:
        OSError: it cannot be loaded, in a line.
    """
    from diffusers import AutoencoderTiny

    try:
        with asked_once():
            model: Any = AutoencoderTiny.from_pretrained(family, dtype=vae.dtype).eval()
    except Exception as error:  # a broken file raises whatever its reader does
        why = "cannot be loaded"
        if is_offline(error):
            why = "is not in the cache and there is no network"
        raise OSError(f"The preview decoder {family!r} {why}.") from error

    @torch.no_grad()
    def preview(latents: torch.Tensor) -> torch.Tensor:
        model.to(latents.device)
        parts = (model.decode(part.to(model.dtype)).sample for part in split(latents, TINY_AREA))
        return torch.cat([((part.float() + 1) / 2).clamp(0, 1) for part in parts])

    return preview


def split(latents: torch.Tensor, area: int) -> tuple[torch.Tensor, ...]:
    """Latents in parts of at most `area` places, or one at a time: candidates of large pictures do not fit at once."""
    return latents.split(max(1, area // latents[0, 0].numel()))


def unscaled(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Latents of unit variance as the VAE itself has them."""
    if vae.config.get("latents_mean") is not None:  # of each channel: Qwen-Image, Wan
        shape = (-1, *[1] * (latents.ndim - 2))
        mean, std = (torch.tensor(vae.config[f"latents_{x}"]).to(latents).view(shape) for x in ("mean", "std"))
        return latents * std + mean
    if (bn := getattr(vae, "bn", None)) is not None:  # of each channel at each place of a square of four: FLUX.2
        mean, variance = (x.to(latents).view(-1, 1, 1) for x in (bn.running_mean, bn.running_var))
        squares = F.pixel_unshuffle(latents, 2) * (variance + vae.config["batch_norm_eps"]).sqrt() + mean
        return F.pixel_shuffle(squares, 2)
    return latents / (vae.config.get("scaling_factor") or 1.0) + (vae.config.get("shift_factor") or 0.0)


def scaled(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """The other way round."""
    one, zero = (unscaled(vae, torch.full_like(latents[:1], value)) for value in (1.0, 0.0))
    return (latents - zero) / (one - zero)


def is_video(vae: Any) -> bool:
    """Whether it takes pictures as videos of one frame."""
    return any(isinstance(module, torch.nn.Conv3d) for module in vae.modules())


def device_of(vae: Any) -> torch.device:
    """Where it runs, which with offloading is not where its weights lie."""
    hooks = (getattr(module, "_hf_hook", None) for module in vae.modules())
    devices = (getattr(hook, "execution_device", None) for hook in hooks)
    return torch.device(next((device for device in devices if device is not None), vae.device))


@contextlib.contextmanager
def in_range(vae: Any) -> Iterator[None]:
    """SDXL's VAE overflows in half precision and is, as in its pipeline, in full precision for a while."""
    overflows = vae.dtype == torch.float16 and vae.config.get("force_upcast", False)
    if overflows:
        vae.to(torch.float32)
    try:
        yield
    finally:
        if overflows:
            vae.to(torch.float16)


@torch.no_grad()
def decode(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """The VAE's own pictures of latents of unit variance."""
    with in_range(vae):
        latents = unscaled(vae, latents.to(device_of(vae), vae.dtype))
        video = is_video(vae)
        parts = (x.unsqueeze(2) if video else x for x in split(latents, AREA))
        pictures = torch.cat([vae.decode(part, return_dict=False)[0].float() for part in parts])
    return (((pictures[:, :, 0] if video else pictures) + 1) / 2).clamp(0, 1)


@torch.no_grad()
def encode(vae: Any, pictures: torch.Tensor) -> torch.Tensor:
    """Pictures ``(n, 3, H, W)`` in [0, 1] to latents of unit variance."""
    with in_range(vae):
        pictures = pictures.to(device_of(vae), vae.dtype) * 2 - 1
        encoded = vae.encode(pictures.unsqueeze(2) if is_video(vae) else pictures)
        if hasattr(encoded, "latent_dist"):
            latents = encoded.latent_dist.mode()
        else:
            latents = encoded.latent if hasattr(encoded, "latent") else encoded.latents
    return scaled(vae, latents[:, :, 0] if latents.ndim == 5 else latents)


def linear(vae: Any) -> Preview:
    """A map of each latent to a colour, by least squares on soft pictures that the VAE encodes."""
    generator = torch.Generator().manual_seed(0)
    soft = [torch.rand(PICTURES // 4, 3, cells, cells, generator=generator) for cells in (2, 3, 5, 8)]
    pictures = torch.cat([F.interpolate(x, size=(SIDE, SIDE), mode="bicubic").clamp(0, 1) for x in soft])
    latents = torch.cat([encode(vae, part) for part in pictures.split(4)]).float().cpu()
    height, width = latents.shape[-2:]
    colours = F.adaptive_avg_pool2d(pictures, (height, width))
    rows = torch.cat([latents, torch.ones_like(latents[:, :1])], 1).movedim(1, -1).flatten(0, 2)
    weight = torch.linalg.lstsq(rows, colours.movedim(1, -1).flatten(0, 2)).solution

    def preview(latents: torch.Tensor) -> torch.Tensor:
        matrix = weight.to(latents.device)
        return (torch.einsum("nchw,cd->ndhw", latents.float(), matrix[:-1]) + matrix[-1].view(3, 1, 1)).clamp(0, 1)

    return preview
