"""Latent CLIP: how well does a noisy latent match the prompt?"""

import os
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import nn

from ..base import Context
from .base import LatentEvaluator
from .trunk import LatentTrunk

if TYPE_CHECKING:
    from transformers import CLIPTokenizer
    from typing_extensions import Self


class LatentCLIP(LatentEvaluator):
    """Scores are ``exp(logit_scale) · cosine(latents, prompt)``, as in CLIP (arXiv 2103.00020), with an image tower
    that reads latents at any noise level instead of pixels.

    The folder holds the tokenizer too. `text_config` is that of a transformers ``CLIPTextModelWithProjection``.
    """

    name = "clip"
    needs_prompt = True
    tokenizer: "CLIPTokenizer"  # not made here: of the folder, or set

    @register_to_config
    def __init__(
        self,
        text_config: dict[str, Any],
        in_channels: int = 4,
        channels: tuple[int, int] = (40, 96),
        blocks: tuple[int, int] = (1, 1),
        dim: int = 128,
        space: str = "noisy",
        calibration: dict | None = None,
    ) -> None:
        from transformers import CLIPTextConfig, CLIPTextModelWithProjection

        super().__init__()
        self.trunk = LatentTrunk(in_channels, channels, blocks, dim)
        self.text_model = CLIPTextModelWithProjection(CLIPTextConfig(**{**text_config, "projection_dim": dim}))
        self.logit_scale = nn.Parameter(torch.tensor(2.0))
        self._encoded: tuple[tuple, torch.Tensor] | None = None
        self._seen: tuple[weakref.ref, float, torch.Tensor] | None = None

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        super().save_pretrained(save_directory, *args, **kwargs)
        self.tokenizer.save_pretrained(Path(save_directory) / "tokenizer")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike | None, **kwargs: Any) -> "Self":
        from transformers import CLIPTokenizer

        assert pretrained_model_name_or_path is not None  # the tokenizer takes a folder or hub id
        model = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        subfolder = f"{kwargs.get('subfolder') or '.'}/tokenizer"
        model.tokenizer = CLIPTokenizer.from_pretrained(pretrained_model_name_or_path, subfolder=subfolder)
        return model

    def encode_latents(self, latents: torch.Tensor, noise_level: torch.Tensor) -> torch.Tensor:
        """Latents ``(n, C, H, W)`` of unit variance at noise shares ``(n,)`` to unit vectors ``(n, dim)``."""
        return F.normalize(self.trunk(latents, noise_level), dim=-1)

    def encode_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Token ids ``(n, length)`` to unit vectors ``(n, dim)``."""
        return F.normalize(self.text_model(input_ids).text_embeds, dim=-1)

    def encode_text(self, prompt: Sequence[str]) -> torch.Tensor:
        """Prompts to unit vectors ``(n, dim)``; the last batch is remembered, for a sampler asks at every step."""
        key = (*prompt, self.device, self.dtype)
        if self.training or self._encoded is None or self._encoded[0] != key:
            ids = self.tokenizer(list(prompt), padding="max_length", truncation=True, return_tensors="pt").input_ids
            self._encoded = key, self.encode_ids(ids.to(self.device))
        return self._encoded[1]

    def features(self, candidates: torch.Tensor, context: Context) -> torch.Tensor:
        """What the image tower sees before its last layers, ``(batch, candidates, dim)``. Remembered for the last
        candidates: the heads on this CLIP (`evaluators.latent.head`) read the same."""
        seen = self._seen
        if self.training or seen is None or seen[0]() is not candidates or seen[1] != context.noise_level:
            pooled = self.trunk.pooled(*self.flat(candidates, context)).unflatten(0, candidates.shape[:2])
            self._seen = seen = weakref.ref(candidates), context.noise_level, pooled
        return seen[2]

    def train(self, mode: bool = True) -> "LatentCLIP":
        self._encoded = self._seen = None  # the weights are about to change, or have
        return super().train(mode)

    def forward(self, candidates: torch.Tensor, context: Context) -> torch.Tensor:
        image = F.normalize(self.trunk.head(self.features(candidates, context)), dim=-1)
        assert context.prompt is not None  # `needs_prompt`
        text = self.encode_text(context.prompt)
        return self.logit_scale.exp() * torch.einsum("bkd,bd->bk", image, text)
