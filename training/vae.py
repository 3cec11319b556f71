"""The autoencoder of a checkpoint, and what else training must know of it: sizes that it takes, noise that it meets."""

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import DiffusionPipeline

from evaluators.pixel.preview import encode as encode_pictures
from evaluators.pixel.preview import family_of
from guidance.schedulers import check_supported, noise_schedule

from .noise import SD_LEVELS

RESOLUTION = 1024  # where the checkpoint does not say what it was trained at
VIDEO = ("num_frames", "video_length")  # what pipelines that make videos call their length
SD_SHARES = tuple(SD_LEVELS[torch.linspace(0, len(SD_LEVELS) - 1, 51).long()].tolist())
PIECE = 16  # pictures stay in a CPU's cache


@dataclass(frozen=True)
class PictureVAE:
    """Attributes:
    vae: any autoencoder of diffusers that takes pictures, in evaluation mode.
    multiple: what both sides of a picture must be one of, so that the denoiser takes the latents.
    resolution: side of the pictures that the checkpoint was trained on, `None` of an autoencoder alone.
    levels: noise shares that its sampler goes through, increasing.
    """

    vae: Any
    multiple: int
    resolution: int | None
    levels: tuple[float, ...]

    @property
    def channels(self) -> int:
        return family_of(self.vae)[0]

    def encode(self, images: np.ndarray) -> torch.Tensor:
        """Pictures uint8 ``(n, h, w, 3)`` to the means of their latents, fp16 ``(n, C, H, W)`` at unit variance, on
        the CPU."""
        return encode(self.vae, images)


def to_pixels(images: np.ndarray) -> torch.Tensor:
    """uint8 ``(n, h, w, 3)`` to float ``(n, 3, h, w)`` in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def encode(vae: Any, images: np.ndarray) -> torch.Tensor:
    """As `PictureVAE.encode`, by an autoencoder of diffusers."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    return torch.cat([encode_pictures(vae, part.float() / 255).half().cpu() for part in pixels.split(PIECE)])


def load(model: str, dtype: torch.dtype = torch.float32) -> PictureVAE:
    """Of a pipeline, by its folder or hub id, of which the autoencoder alone is loaded; or of the folder of an
    autoencoder.

    Raises:
        ValueError: it makes videos, or has no autoencoder of pictures; says which.
        OSError: it cannot be read.
    """
    path = Path(model).expanduser()
    source = str(path) if path.exists() else model
    if (path / "config.json").is_file() and not (path / "model_index.json").is_file():
        name = json.loads((path / "config.json").read_text(encoding="utf-8")).get("_class_name", "")
        vae = _autoencoder(name, model).from_pretrained(source, dtype=dtype)
        return _ready(vae, 1, lambda down: None, SD_SHARES)
    index = DiffusionPipeline.load_config(source)
    pipeline = getattr(diffusers, str(index.get("_class_name")), None)
    if pipeline is not None and set(VIDEO) & inspect.signature(pipeline.__call__).parameters.keys():
        raise ValueError(f"{model!r} is a {pipeline.__name__}, which makes videos: latents are made of pictures")
    part = next((part for part in ("vae", "vqvae", "movq") if _class(index, part)), None)
    if part is None:
        raise ValueError(f"{model!r} has no autoencoder (it is a {index.get('_class_name')}): there are no latents")
    vae = _autoencoder(index[part][1], model).from_pretrained(source, subfolder=part, dtype=dtype)
    denoiser: dict[str, Any] = {}
    for name in ("unet", "transformer"):
        if cls := _class(index, name):
            denoiser = cls.load_config(source, subfolder=name)
    levels = SD_SHARES
    if cls := _class(index, "scheduler"):
        levels = shares(cls.from_pretrained(source, subfolder="scheduler"))
    side = denoiser.get("sample_size")
    places = _places(denoiser, family_of(vae)[0])
    return _ready(vae, places, lambda down: down * side if isinstance(side, int) else RESOLUTION, levels)


def _class(index: dict[str, Any], part: str) -> Any:
    """Of a component, `None` where there is none of diffusers."""
    library, name = index[part] if isinstance(index.get(part), list | tuple) else (None, None)
    return getattr(diffusers, str(name), None) if library == "diffusers" else None


def _autoencoder(name: str, model: str) -> Any:
    cls = getattr(diffusers, name, None)
    if cls is None or not hasattr(cls, "encode"):
        raise ValueError(f"{model!r} holds a {name or 'model of no class'}, and no autoencoder of diffusers")
    return cls


def _places(denoiser: dict[str, Any], channels: int) -> int:
    """What both sides of the latents must be one of."""
    if "down_block_types" in denoiser:
        return 2 ** (len(denoiser["down_block_types"]) - 1)
    packed = denoiser.get("in_channels") == 4 * channels  # FLUX: squares of four are one token
    patch = denoiser.get("patch_size") or 1
    return 2 if packed else max(patch) if isinstance(patch, list | tuple) else int(patch)


@torch.no_grad()
def _ready(vae: Any, places: int, resolution: Callable[[int], int | None], levels: tuple[float, ...]) -> PictureVAE:
    vae = vae.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # a third faster on a CPU
    side = 128
    latents = encode_pictures(vae, torch.zeros(1, 3, side, side))
    if latents.ndim != 4 or latents.shape[1] != family_of(vae)[0]:
        raise ValueError(f"{type(vae).__name__} makes no latents of (channels, height, width), but {latents.shape[1:]}")
    down = side // latents.shape[-1]
    return PictureVAE(vae, down * places, resolution(down), levels)


def shares(scheduler: Any) -> tuple[float, ...]:
    """Noise shares ``sigma / sqrt(alpha² + sigma²)`` before and after each of 50 steps, increasing, whatever the
    scheduler's convention: variance preserving, sigmas, flow. Those of Stable Diffusion of one that is not known."""
    config = scheduler.config
    # Shifted by the size of the picture: by the largest, at which it was trained.
    shift = {"mu": config.get("max_shift") or 1.15} if config.get("use_dynamic_shifting") else {}
    try:
        check_supported(scheduler)
        scheduler.set_timesteps(50, **shift)
    except (TypeError, ValueError):
        return SD_SHARES
    return tuple(sorted(round(sigma / (alpha**2 + sigma**2) ** 0.5, 5) for alpha, sigma in noise_schedule(scheduler)))
