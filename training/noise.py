"""Noisy latents for training evaluators, in the terms that evaluators are called with."""

import numpy as np
import torch
from diffusers import DDPMScheduler

LEVELS = (0.02, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.96, 0.99)  # where evaluators are measured
SD_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}  # of Stable Diffusion
SD_LEVELS = (1 - DDPMScheduler(**SD_BETAS).alphas_cumprod).sqrt()


def noise_levels(n: int, rng: np.random.Generator, levels: torch.Tensor = SD_LEVELS) -> torch.Tensor:
    """``(n,)`` noise shares: those of stratified uniform timesteps of a schedule, in random order.

    Args:
        levels: the schedule's noise shares at evenly spaced timesteps ``(timesteps,)``; between them they are
            interpolated.
    """
    at = (rng.permutation(n) + rng.random(n)) / n * (len(levels) - 1)
    return torch.from_numpy(np.interp(at, np.arange(len(levels)), levels.numpy())).float()


def add_noise(latents: torch.Tensor, noise_level: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """``sqrt(1 - level²) · latents + level · noise``, float32, for ``(n, C, H, W)`` and ``(n,)``."""
    noise = torch.from_numpy(rng.standard_normal(latents.shape, dtype=np.float32))
    level = noise_level.view(-1, 1, 1, 1)
    return (1 - level**2).sqrt() * latents.float() + level * noise


def picture_share(noise_level: torch.Tensor) -> torch.Tensor:
    """``sqrt(1 - level²)``: 0 at pure noise, 1 at none. Where nothing of a picture is to be seen a loss does not count
    (arXiv 2509.16131 weights those of the reward and of text so)."""
    return (1 - noise_level**2).clamp(min=0).sqrt()
