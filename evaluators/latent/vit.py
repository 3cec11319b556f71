"""A vision transformer that reads noisy latents, shaped as those of CLIP, so that it may begin with the weights of one
that reads pixels."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .trunk import noise_embedding


def quick_gelu(x: torch.Tensor) -> torch.Tensor:
    """As OpenAI's models have it."""
    return x * torch.sigmoid(1.702 * x)


class ViTBlock(nn.Module):
    """Attention, then an MLP, each on normalised tokens and added to them."""

    def __init__(self, width: int, heads: int, mlp: int, quick: bool) -> None:
        super().__init__()
        self.heads, self.activation = heads, quick_gelu if quick else F.gelu
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.expand, self.reduce = nn.Linear(width, mlp), nn.Linear(mlp, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens ``(n, tokens, width)`` to the same."""
        q, k, v = self.qkv(self.norm_1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.reduce(self.activation(self.expand(self.norm_2(x))))


class LatentViT(nn.Module):
    """Latents ``(n, C, H, W)`` at noise shares ``(n,)`` to features ``(n, dim)``, as `LatentTrunk`.

    The noise share is added to every token by a layer that begins at zero. Positions are of a square grid and
    interpolated to that of the latents: any resolution works.

    Args:
        patch: side of a token in latents; the paper (arXiv 2509.16131) has 4 for latents of 64×64.
        grid: side of the square of positions that is kept.
        mlp: width inside the MLPs.
        quick: whether these have QuickGELU.
        mean: whether the tokens are averaged; otherwise the class token is read.
    """

    gradient_checkpointing = False  # set by diffusers' `enable_gradient_checkpointing`
    _gradient_checkpointing_func: Callable

    def __init__(
        self,
        in_channels: int,
        dim: int,
        patch: int = 4,
        width: int = 384,
        layers: int = 12,
        heads: int = 6,
        grid: int = 16,
        mlp: int = 1536,
        quick: bool = False,
        mean: bool = False,
    ) -> None:
        super().__init__()
        self.mean, self.embedding, self.channels = mean, 64, (width, width)
        self.patch = nn.Conv2d(in_channels, width, patch, stride=patch, bias=False)
        self.first = nn.Parameter(width**-0.5 * torch.randn(width))  # the class token
        self.position = nn.Parameter(width**-0.5 * torch.randn(grid**2 + 1, width))
        self.noise = nn.Linear(self.embedding, width)
        nn.init.zeros_(self.noise.weight)
        nn.init.zeros_(self.noise.bias)
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.blocks = nn.ModuleList(ViTBlock(width, heads, mlp, quick) for _ in range(layers))
        self.head = nn.Sequential(nn.Linear(width, dim))

    def positions(self, height: int, width: int) -> torch.Tensor:
        """``(1, 1 + height · width, width)``, the class token's first."""
        first, places = self.position[:1], self.position[1:]
        grid = round(len(places) ** 0.5)
        if (height, width) != (grid, grid):
            square = places.T.unflatten(1, (grid, grid))[None].float()
            resized = F.interpolate(square, (height, width), mode="bicubic", antialias=True)
            places = resized[0].flatten(1).T.to(places.dtype)
        return torch.cat([first, places])[None]

    def look(self, latents: torch.Tensor, noise_level: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What the head reads, ``(n, width)``, and what is where half way and at the end, ``(n, width, H / patch, W /
        patch)``."""
        x = self.patch(latents)
        grid = x.shape[-2:]
        position = self.positions(*grid)
        x = torch.cat([self.first.expand(len(x), 1, -1), x.flatten(2).transpose(1, 2)], 1)
        x = x + position + self.noise(noise_embedding(noise_level, self.embedding).to(x.dtype))[:, None]
        x = self.before(x)
        places = []
        for number, block in enumerate(self.blocks, 1):
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = self._gradient_checkpointing_func(block, x)
            else:
                x = block(x)
            if number == (len(self.blocks) + 1) // 2:
                places.append(x[:, 1:])
        x = self.after(x)
        places.append(x[:, 1:])
        fine, coarse = (tokens.transpose(1, 2).unflatten(2, grid) for tokens in places)
        return x[:, 1:].mean(1) if self.mean else x[:, 0], fine, coarse

    def pooled(self, latents: torch.Tensor, noise_level: torch.Tensor) -> torch.Tensor:
        """What the head reads, ``(n, width)``."""
        return self.look(latents, noise_level)[0]

    def forward(self, latents: torch.Tensor, noise_level: torch.Tensor) -> torch.Tensor:
        return self.head(self.pooled(latents, noise_level))

    @torch.no_grad()
    def begin_as(self, visual: Any) -> "LatentViT":
        """Takes the weights of the vision transformer `visual` of open_clip, of which `shape_of` told the shape: all
        where it reads as many channels in patches of the same size, all but the first layer otherwise."""
        if visual.conv1.weight.shape == self.patch.weight.shape:
            self.patch.weight.copy_(visual.conv1.weight)
        self.first.copy_(visual.class_embedding)
        self.position.copy_(visual.positional_embedding)
        own: Any
        for own, its in ((self.before, visual.ln_pre), (self.after, visual.ln_post)):
            own.load_state_dict(its.state_dict())
        for own, its in zip(self.blocks, visual.transformer.resblocks, strict=True):
            pairs = {
                own.norm_1: its.ln_1,
                own.norm_2: its.ln_2,
                own.out: its.attn.out_proj,
                own.expand: its.mlp.c_fc,
                own.reduce: its.mlp.c_proj,
            }
            for mine, other in pairs.items():
                mine.load_state_dict(other.state_dict())
            own.qkv.load_state_dict({"weight": its.attn.in_proj_weight, "bias": its.attn.in_proj_bias})
        own = self.head[0]
        own.weight.copy_(visual.proj.T)
        own.bias.zero_()
        return self


def shape_of(visual: Any) -> dict[str, Any] | None:
    """The arguments of a `LatentViT` that can begin as the visual tower of an open_clip model, but for `in_channels`,
    `dim` and `patch`; `None` of a tower that is something else."""
    blocks = getattr(getattr(visual, "transformer", None), "resblocks", [])
    plain = blocks and all(type(block).__name__ == "ResidualAttentionBlock" for block in blocks)
    if not plain or visual.attn_pool is not None or visual.pool_type not in ("tok", "avg"):
        return None
    scaled = any(not isinstance(part, nn.Identity) for block in blocks for part in (block.ls_1, block.ls_2))
    grid, activation = visual.grid_size, type(blocks[0].mlp.gelu).__name__
    other = visual.final_ln_after_pool or visual.proj is None or isinstance(visual.ln_pre, nn.Identity) or scaled
    if other or grid[0] != grid[1] or activation not in ("GELU", "QuickGELU"):
        return None
    return {
        "width": visual.conv1.out_channels,
        "layers": len(blocks),
        "heads": blocks[0].attn.num_heads,
        "grid": grid[0],
        "mlp": blocks[0].mlp.c_fc.out_features,
        "quick": activation == "QuickGELU",
        "mean": visual.pool_type == "avg",
    }
