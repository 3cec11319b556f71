"""The latent discriminator: does a noisy latent come from a real picture or from the sampler?"""

import torch
from diffusers.configuration_utils import register_to_config
from torch import nn

from ..base import Context
from .base import LatentEvaluator
from .trunk import LatentTrunk


class LatentDiscriminator(LatentEvaluator):
    """Scores are the logit of "real" at the candidate's noise level, the log density ratio of real and generated.

    Trained with binary cross entropy on noisy latents of real pictures and on the sampler's own noisy latents at the
    same levels (arXiv 2509.16131 uses a latent discriminator for fidelity).
    """

    name = "discriminator"

    @register_to_config
    def __init__(
        self,
        in_channels: int = 4,
        channels: tuple[int, int] = (24, 48),
        blocks: tuple[int, int] = (1, 1),
        dim: int = 64,
        space: str = "noisy",
        calibration: dict | None = None,
    ) -> None:
        super().__init__()
        self.trunk = LatentTrunk(in_channels, channels, blocks, dim)
        self.logit = nn.Linear(dim, 1)

    def logits(self, latents: torch.Tensor, noise_level: torch.Tensor) -> torch.Tensor:
        """Latents ``(n, C, H, W)`` of unit variance at noise shares ``(n,)`` to logits ``(n,)``."""
        return self.logit(self.trunk(latents, noise_level))[:, 0]

    def forward(self, candidates: torch.Tensor, context: Context) -> torch.Tensor:
        return self.logits(*self.flat(candidates, context)).view(candidates.shape[:2])
