"""What the specialists share: each is a small head on the image features of one latent CLIP.

The CLIP is frozen and belongs to all of them; it looks at the candidates once, so each of them adds an eighth of its
cost or less.
"""

import os
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..base import Context
from .base import LatentEvaluator
from .clip import LatentCLIP

if TYPE_CHECKING:
    from typing_extensions import Self


def mlp(inputs: int, dim: int) -> nn.Sequential:
    """Two layers, ``(..., inputs)`` to ``(..., dim)``."""
    return nn.Sequential(nn.Linear(inputs, dim), nn.SiLU(), nn.Linear(dim, dim))


def fingerprint(clip: LatentCLIP) -> int:
    """A number that tells CLIPs apart by their first layer, the same in fp32 and after saving in fp16."""
    return zlib.crc32(clip.trunk.patch.weight.detach().half().cpu().contiguous().numpy().tobytes())


class CLIPHead(LatentEvaluator):
    """Scores are ``image(features) · query(prompt)``, for prompts that ask for this specialist; the candidates of any
    other row all score 0, which has no say (`evaluators.combine`).

    Subclasses give `name`, `image` (a network over the features of `clip`), `asked`, and `text` (a network over its
    embedding of the prompt) or a `query` of their own; their config holds `clip`, a fingerprint. The folder holds the
    head alone; `from_pretrained` takes the `clip` that it was trained on.
    """

    needs_prompt = True
    clip: LatentCLIP

    def read(self, clip: LatentCLIP) -> "Self":
        """Sets the CLIP whose features this head reads, the only one that it ever can; returns itself.

        Raises:
            ValueError: this head was trained on another CLIP.
        """
        if self.config["clip"] is None:
            self.register_to_config(clip=fingerprint(clip))
        if self.config["clip"] != fingerprint(clip):
            raise ValueError(f"evaluator {self.name!r} was trained on another latent CLIP than the `clip` it got.")
        # Around nn.Module, which would register it and save its weights with this head's.
        object.__setattr__(self, "clip", clip)
        return self

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike | None, *, clip: LatentCLIP | None = None, **kwargs: Any
    ) -> "Self":
        if clip is None:
            raise TypeError(f"`clip` is missing: a {cls.__name__} is a head on the latent CLIP that it was trained on.")
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs).read(clip)

    @property
    def space(self) -> str:
        return self.clip.space

    @property
    def in_channels(self) -> int:
        return self.clip.in_channels

    def asked(self, prompt: str) -> bool:
        """Whether `prompt` asks for what this evaluator can tell."""
        raise NotImplementedError

    def query(self, prompt: Sequence[str]) -> torch.Tensor:
        """Prompts to vectors ``(n, dim)``."""
        return self.text(self.clip.encode_text(prompt).to(self.dtype))

    def logits(self, features: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        """``(n, candidates, features)`` against ``(n, dim)`` to ``(n, candidates)``."""
        return torch.einsum("bkd,bd->bk", self.image(features), query)

    def forward(self, candidates: torch.Tensor, context: Context) -> torch.Tensor:
        assert context.prompt is not None  # `needs_prompt`
        asked = [self.asked(prompt) for prompt in context.prompt]
        if not any(asked):
            return torch.zeros(candidates.shape[:2], device=candidates.device)
        self.follow(candidates)
        features = self.clip.features(candidates, context).to(self.dtype)
        speaks = torch.tensor(asked, device=candidates.device)[:, None]
        return torch.where(speaks, self.logits(features, self.query(context.prompt)), 0.0)
