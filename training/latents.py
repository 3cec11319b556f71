"""Latents with their captions, as one file, and how pictures become latents."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL


def to_pixels(images: np.ndarray) -> torch.Tensor:
    """uint8 ``(n, h, w, 3)`` to float ``(n, 3, h, w)`` in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


@dataclass
class Latents:
    """`latents` fp16 ``(n, C, H, W)`` at the VAE's scale (unit variance); `captions` ``(n, paraphrases)`` strings."""

    latents: torch.Tensor
    captions: np.ndarray

    def __len__(self) -> int:
        return len(self.latents)

    @classmethod
    def load(cls, path: Path) -> "Latents":
        """Reads the .npz that `save` wrote."""
        with np.load(path) as file:
            return cls(torch.from_numpy(file["latents"]), file["captions"])

    def save(self, path: Path) -> None:
        """Writes an .npz."""
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, latents=self.latents.numpy(), captions=self.captions)


@torch.no_grad()
def encode(vae: AutoencoderKL, images: np.ndarray) -> torch.Tensor:
    """Pictures uint8 ``(n, h, w, 3)`` to posterior means, fp16 ``(n, C, H, W)`` at unit variance, on the CPU."""
    vae = vae.to(memory_format=torch.channels_last)  # a third faster on a CPU
    pixels = to_pixels(images).to(vae.device).contiguous(memory_format=torch.channels_last)
    mean = torch.cat([vae.encode(p).latent_dist.mean for p in pixels.split(16)])  # 16 stay in a CPU's cache
    return (mean * vae.config.scaling_factor).half().cpu()
