"""Latent CLIP: how well does a noisy latent match the prompt?"""

import os
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import nn

from ..base import Context
from ..pixel.open_clip import OpenCLIPTower
from .base import LatentEvaluator
from .trunk import LatentTrunk
from .vit import LatentViT

if TYPE_CHECKING:
    from transformers import CLIPTokenizer
    from typing_extensions import Self


class LatentCLIP(LatentEvaluator):
    """Scores are ``exp(logit_scale) · cosine(latents, prompt)``, as in CLIP (arXiv 2103.00020), with an image tower
    that reads latents at any noise level instead of pixels.

    The text tower is its own, whose tokenizer lies in the folder, or the frozen one of a teacher, which is loaded when
    a prompt is first encoded, and shared with judges on the same model by `load_evaluators`.

    Args:
        text_config: of a transformers ``CLIPTextModelWithProjection``; `None` with a teacher.
        channels, blocks: of the convolutional trunk, see `LatentTrunk`.
        dim: of the embeddings; with a teacher, as wide as its own.
        teacher: a CLIP as `OpenCLIPTower.from_pretrained` takes it, or a folder within this one's.
        vit: arguments of a `LatentViT`, which then takes the place of the convolutional trunk.
    """

    name = "clip"
    needs_prompt = True
    shares_tower = True
    tokenizer: "CLIPTokenizer"  # not made here: of the folder, or set
    _tower: OpenCLIPTower | None = None

    @register_to_config
    def __init__(
        self,
        text_config: dict[str, Any] | None = None,
        in_channels: int = 4,
        channels: tuple[int, int] = (40, 96),
        blocks: tuple[int, int] = (1, 1),
        dim: int = 128,
        space: str = "noisy",
        calibration: dict | None = None,
        teacher: str | None = None,
        vit: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if (text_config is None) == (teacher is None):
            raise ValueError("a LatentCLIP takes a `text_config` or a `teacher`, one of them.")
        self.trunk: LatentTrunk | LatentViT = (
            LatentTrunk(in_channels, channels, blocks, dim) if vit is None else LatentViT(in_channels, dim, **vit)
        )
        if text_config is not None:
            from transformers import CLIPTextConfig, CLIPTextModelWithProjection

            self.text_model = CLIPTextModelWithProjection(CLIPTextConfig(**{**text_config, "projection_dim": dim}))
        self.logit_scale = nn.Parameter(torch.tensor(2.0))
        self.load_tower = lambda: OpenCLIPTower.from_pretrained(str(teacher), self.name)
        self._encoded: tuple[tuple, torch.Tensor] | None = None
        self._seen: tuple[weakref.ref, float, torch.Tensor] | None = None

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        super().save_pretrained(save_directory, *args, **kwargs)
        if self.config["teacher"] is None:
            self.tokenizer.save_pretrained(Path(save_directory) / "tokenizer")

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None,
        load_tower: Callable[..., OpenCLIPTower] = OpenCLIPTower.from_pretrained,
        **kwargs: Any,
    ) -> "Self":
        """Args:
        load_tower: loads the teacher from its source, when it is first asked; may share it.
        """
        assert pretrained_model_name_or_path is not None  # the tokenizer takes a folder or hub id
        model = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        if (teacher := model.config["teacher"]) is not None:
            inside = Path(pretrained_model_name_or_path) / teacher
            model.load_tower = lambda: load_tower(str(inside) if inside.is_dir() else teacher, cls.name)
            return model
        from transformers import CLIPTokenizer

        subfolder = f"{kwargs.get('subfolder') or '.'}/tokenizer"
        model.tokenizer = CLIPTokenizer.from_pretrained(pretrained_model_name_or_path, subfolder=subfolder)
        return model

    @property
    def tower(self) -> OpenCLIPTower:
        """The teacher, which stays where it was loaded."""
        if self._tower is None:
            # Around nn.Module, which would save its weights with this model's.
            object.__setattr__(self, "_tower", self.load_tower().requires_grad_(False))
        assert self._tower is not None
        return self._tower

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
            if self.config["teacher"] is not None:
                text = self.tower.encode_text(list(prompt)).to(self.device, self.dtype)
            else:
                ids = self.tokenizer(list(prompt), padding="max_length", truncation=True, return_tensors="pt").input_ids
                text = self.encode_ids(ids.to(self.device))
            self._encoded = key, text
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
