"""The small convolutional network under every latent evaluator, and the noise-level embedding that makes it aware."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn


def noise_embedding(noise_level: torch.Tensor, dim: int) -> torch.Tensor:
    """``(n,)`` noise shares in [0, 1] to Fourier features ``(n, dim)`` of the angle ``asin(noise_level)``.

    The angle spreads both ends, nearly clean and nearly pure noise, where the share itself hardly moves.
    """
    angle = torch.asin(noise_level.clamp(0, 1))[:, None]
    frequencies = torch.arange(1, dim // 2 + 1, device=angle.device, dtype=angle.dtype)
    return torch.cat([torch.sin(angle * frequencies), torch.cos(angle * frequencies)], dim=1)


class Block(nn.Module):
    """A residual block: neighbours are mixed within each channel, channels at each place, as in ConvNeXt (arXiv
    2201.03545), for a quarter of what full 3×3 convolutions cost; scale and shift come from the noise level (as in the
    adaptive group norm of ADM)."""

    def __init__(self, channels: int, kernel: int, embedding: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.norm = nn.GroupNorm(8, channels)
        self.modulation = nn.Linear(embedding, 2 * channels)
        self.expand = nn.Conv2d(channels, 2 * channels, 1)
        self.reduce = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        scale, shift = self.modulation(embedding)[..., None, None].chunk(2, dim=1)
        h = self.norm(self.mix(x)) * (1 + scale) + shift
        return x + self.reduce(F.silu(self.expand(h)))


class LatentTrunk(nn.Module):
    """Latents ``(n, C, H, W)`` at noise shares ``(n,)`` to features ``(n, dim)``.

    Two stages, at half and at a quarter of the latents' resolution. The grid is pooled to 4×4 places and read by an
    MLP: any resolution works, and left stays apart from right.
    """

    gradient_checkpointing = False  # set by diffusers' `enable_gradient_checkpointing`
    _gradient_checkpointing_func: Callable

    def __init__(self, in_channels: int, channels: tuple[int, int], blocks: tuple[int, int], dim: int) -> None:
        super().__init__()
        self.embedding = 32
        self.channels = first, second = channels
        self.patch = nn.Conv2d(in_channels, first, 4, stride=2, padding=1)
        self.fine = nn.ModuleList(Block(first, 5, self.embedding) for _ in range(blocks[0]))
        self.down = nn.Conv2d(first, second, 2, stride=2)
        self.coarse = nn.ModuleList(Block(second, 3, self.embedding) for _ in range(blocks[1]))
        self.norm = nn.GroupNorm(8, second)
        self.head = nn.Sequential(nn.Linear(16 * second, dim), nn.SiLU(), nn.Linear(dim, dim))

    def look(self, latents: torch.Tensor, noise_level: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What the head reads, ``(n, 16 · channels[1])``, and what is where: ``(n, channels[0], H / 2, W / 2)`` and
        ``(n, channels[1], H / 4, W / 4)``."""
        embedding = noise_embedding(noise_level, self.embedding)
        fine = self.patch(latents.contiguous(memory_format=torch.channels_last))
        for block in self.fine:
            fine = self.run(block, fine, embedding)
        coarse = self.down(fine)
        for block in self.coarse:
            coarse = self.run(block, coarse, embedding)
        coarse = F.silu(self.norm(coarse))
        return F.adaptive_avg_pool2d(coarse, 4).flatten(1), fine, coarse

    def run(self, block: nn.Module, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """A block, whose inner activations are forgotten and made again where that is asked for."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(block, x, embedding)
        return block(x, embedding)

    def pooled(self, latents: torch.Tensor, noise_level: torch.Tensor) -> torch.Tensor:
        """What the head reads, ``(n, 16 · channels[1])``."""
        return self.look(latents, noise_level)[0]

    def forward(self, latents: torch.Tensor, noise_level: torch.Tensor) -> torch.Tensor:
        return self.head(self.pooled(latents, noise_level))
