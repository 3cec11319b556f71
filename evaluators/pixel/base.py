"""What judges of pictures share: many candidates at once, a prompt encoded once, a size and a window."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..base import Calibration, Context


def resize(images: torch.Tensor, size: tuple[int, int] | int, mode: str = "bicubic") -> torch.Tensor:
    """Pictures ``(n, 3, H, W)`` to `size`, or the shorter side to that many pixels and the longer one rounded down, as
    torchvision does; antialiased, as PIL does."""
    height, width = images.shape[-2:]
    if isinstance(size, int):
        shorter = min(height, width)
        size = (size * height // shorter, size * width // shorter)
    if (height, width) == tuple(size):
        return images
    return F.interpolate(images, size=size, mode=mode, antialias=True).clamp(0, 1)


def centre_crop(images: torch.Tensor, size: tuple[int, int] | int, fill: float = 0.0) -> torch.Tensor:
    """The middle ``(n, 3, *size)``; smaller pictures get a frame of `fill`."""
    wanted = (size, size) if isinstance(size, int) else size
    missing = [max(0, want - side) for want, side in zip(wanted, images.shape[-2:], strict=True)]
    if any(missing):
        down, across = missing
        images = F.pad(images, (across // 2, across - across // 2, down // 2, down - down // 2), value=fill)
    top, left = (round((side - want) / 2) for want, side in zip(wanted, images.shape[-2:], strict=True))
    return images[..., top : top + wanted[0], left : left + wanted[1]]


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


class Encodings:
    """Encodings of the last `size` prompts: candidates share theirs, and a sampler asks again at every step."""

    def __init__(self, size: int = 128) -> None:
        self.size = size
        self.rows: OrderedDict[tuple, Any] = OrderedDict()

    def __call__(self, encode: Callable[[list[str]], Iterable], prompts: Sequence[str], *of: Hashable) -> list[Any]:
        """One encoding for each prompt, where ``encode(texts)`` gives one for each text and is asked once for each,
        without gradients. `of` is what else they depend on: the model's device and dtype."""
        keys = [(prompt, *of) for prompt in prompts]
        found = {key: self.rows.get(key) for key in keys}
        if new := [key for key in found if found[key] is None]:
            with torch.inference_mode(False), torch.no_grad():
                found.update(zip(new, encode([str(key[0]) for key in new]), strict=True))
        for key in found:
            self.rows.pop(key, None)
            self.rows[key] = found[key]
        while len(self.rows) > self.size:
            self.rows.popitem(last=False)
        return [found[key] for key in keys]
