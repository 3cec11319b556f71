"""The value: what will a judge say of the finished picture, as far as the noisy latents tell?"""

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import nn

from ..base import Context
from .clip import LatentCLIP


class Look(nn.Module):
    """Questions look at places: attention from vectors ``(n, queries, width)`` to ``(n, places, width)``, then a small
    network on each question."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))

    def forward(self, questions: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        apart = [self.query(self.before(questions)), *self.key_value(places).chunk(2, dim=-1)]
        query, key, value = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in apart)
        seen = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        questions = questions + self.out(seen)
        return questions + self.mlp(self.after(questions))


class LatentValue(LatentCLIP):
    r"""Scores are predictions of a judge's score of the finished picture, in units in which a difference is the log
    odds that the judge prefers the one: the value function of the reverse process,

    .. math:: V(x_t, \text{prompt}) \approx E[\, \text{judge}(x_0, \text{prompt}) \mid x_t \,]

    by which SVDD (arXiv 2408.08252) chooses among draws. Trained on the model's own trajectories (`training.value`):
    evaluators that learn from true pictures rank these well and the model's own mistakes poorly.

    It is a latent CLIP and, beside its cosine, questions made of the prompt that look at the places of the image
    tower's maps, where layouts can be told that the pooled features lose.
    """

    name = "value"

    @register_to_config
    def __init__(
        self,
        text_config: dict[str, Any] | None = None,
        in_channels: int = 4,
        channels: tuple[int, int] = (40, 96),
        blocks: tuple[int, int] = (1, 1),
        dim: int = 128,
        queries: int = 8,
        width: int = 96,
        layers: int = 2,
        space: str = "noisy",
        calibration: dict | None = None,
        teacher: str | None = None,
        vit: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(text_config, in_channels, channels, blocks, dim, space, calibration, teacher, vit)
        self.fine, self.coarse = (nn.Conv2d(n, width, 1) for n in self.trunk.channels)
        self.place = nn.Linear(8, width)
        self.questions = nn.Linear(dim, queries * width)
        self.looks = nn.ModuleList(Look(width, 4) for _ in range(layers))
        self.verdict = nn.Sequential(nn.LayerNorm(queries * width), nn.Linear(queries * width, 1))
        for parameter in self.verdict[1].parameters():  # it begins as the CLIP
            nn.init.zeros_(parameter)

    @classmethod
    def from_clip(cls, clip: LatentCLIP) -> "LatentValue":
        """A new value that says what `clip` says."""
        own = {name: x for name, x in clip.config.items() if name[0] != "_" and name != "calibration"}
        value = cls(**own)
        value.load_state_dict(clip.state_dict(), strict=False)
        if clip.config["teacher"] is None:
            value.tokenizer = clip.tokenizer
        value.load_tower = clip.load_tower
        return value.to(clip.device)

    def values(self, latents: torch.Tensor, noise_level: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Latents ``(n, C, H, W)`` of unit variance at noise shares ``(n,)``, for prompts ``(n, dim)`` as `encode_text`
        has them, to values ``(n,)``."""
        pooled, fine, coarse = self.trunk.look(latents, noise_level)
        image = F.normalize(self.trunk.head(pooled), dim=-1)
        grid = self.fine(fine) + F.interpolate(self.coarse(coarse), size=fine.shape[-2:], mode="bilinear")
        places = grid.flatten(2).transpose(1, 2) + self.place(positions(fine.shape[-2], fine.shape[-1], grid))
        asked = self.questions(text).unflatten(1, (self.config["queries"], -1))
        for look in self.looks:
            asked = look(asked, places)
        return self.logit_scale.exp() * (image * text).sum(-1) + self.verdict(asked.flatten(1))[:, 0]

    def forward(self, candidates: torch.Tensor, context: Context) -> torch.Tensor:
        assert context.prompt is not None  # `needs_prompt`
        latents, level = self.flat(candidates, context)
        text = self.encode_text(context.prompt).repeat_interleave(candidates.shape[1], 0)
        return self.values(latents, level, text).view(candidates.shape[:2])


def positions(height: int, width: int, like: torch.Tensor) -> torch.Tensor:
    """Where each place lies, ``(height · width, 8)``: two waves down and two across, whatever the resolution."""
    down, across = (
        (torch.arange(n, device=like.device, dtype=like.dtype) + 0.5) / n * torch.pi for n in (height, width)
    )
    y, x = torch.meshgrid(down, across, indexing="ij")
    return torch.stack([f(k * angle) for angle in (y, x) for k in (1, 2) for f in (torch.cos, torch.sin)], -1).flatten(
        0, 1
    )
