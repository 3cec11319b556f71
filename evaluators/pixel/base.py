"""What judges of pictures share: many candidates at once, a prompt encoded once, a size and a window."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..base import Calibration, Context


def resize(images: torch.Tensor, size: tuple[int, int] | int, mode: str = "bicubic") -> torch.Tensor:
    """Pictures ``(n, 3, H, W)`` to `size`, or with the shorter side of that many pixels; antialiased, as PIL does."""
    if isinstance(size, int):
        height, width = images.shape[-2:]
        share = size / min(height, width)
        size = (max(size, round(height * share)), max(size, round(width * share)))
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    return F.interpolate(images, size=size, mode=mode, antialias=True).clamp(0, 1)


def centre_crop(images: torch.Tensor, size: int) -> torch.Tensor:
    """The middle ``(n, 3, size, size)``."""
    top, left = ((side - size) // 2 for side in images.shape[-2:])
    return images[..., top : top + size, left : left + size]


def normalise(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """``(x - mean) / std`` of each channel."""
    centre, spread = (torch.tensor(x, device=images.device, dtype=images.dtype).view(3, 1, 1) for x in (mean, std))
    return (images - centre) / spread


class PixelEvaluator(nn.Module):
    """A judge of pictures. Subclasses give `name` and ``judge(images, prompts) -> scores``.

    Its model stays where it was put; candidates come to it and scores go back.

    Attributes:
        resolution: the shorter side of the pictures it wants, in pixels; previews are made no larger than the largest.
        every, start, stop: it is asked at every n-th step between these shares of the steps: early previews are mush,
            and a decode costs something.
        chunk: pictures judged together.
    """

    name: str
    space = "pixels"
    needs_prompt = True
    in_channels: int | None = None
    calibration: Calibration | None = None
    resolution = 224
    every, start, stop = 5, 0.0, 1.0
    chunk = 32

    @property
    def device(self) -> torch.device:
        """Where its model is."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """Of its model."""
        return next((p.dtype for p in self.parameters()), torch.float32)

    @torch.no_grad()
    def forward(self, candidates: torch.Tensor, context: Context) -> torch.Tensor:
        """Scores ``(batch, candidates)`` of pictures ``(batch, candidates, 3, H, W)`` in [0, 1]."""
        count = candidates.shape[1]
        images = candidates.flatten(0, 1)
        prompts = [text for text in context.prompt or [""] * len(candidates) for _ in range(count)]
        scores = [
            self.judge(images[i : i + self.chunk].to(self.device), prompts[i : i + self.chunk]).float()
            for i in range(0, len(images), self.chunk)
        ]
        return torch.cat(scores).to(candidates.device).view(candidates.shape[:2])

    def judge(self, images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        """Scores ``(n,)`` of pictures ``(n, 3, H, W)`` in [0, 1], on the model's device, each for its prompt."""
        raise NotImplementedError


def one_each(encode: Any, prompts: list[str]) -> torch.Tensor:
    """``encode(texts) -> (texts, dim)`` of every prompt ``(n, dim)``, each text encoded once."""
    texts = list(dict.fromkeys(prompts))
    encoded = encode(texts)
    return encoded[[texts.index(prompt) for prompt in prompts]]
