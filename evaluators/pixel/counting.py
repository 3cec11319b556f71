"""Are there as many as the prompt says? An open-vocabulary detector counts."""

import re
from pathlib import Path
from typing import Any

import torch

from .base import PixelEvaluator

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
# A number and what it counts: the words after it, up to one that ends a noun phrase.
ENDS = "a|an|and|the|in|on|at|of|with|over|under|above|below|beside|next|near|left|right|to|from|by|behind|before|that"
COUNTED = re.compile(rf"\b(\d{{1,2}}|{'|'.join(NUMBERS[1:])})\s+((?:(?!(?:{ENDS})\b)[a-z-]+\s*){{1,4}})", re.IGNORECASE)


def counted_things(prompt: str) -> list[tuple[int, str]]:
    """How many of what a prompt asks for, ``[(2, "red circles")]`` of "two red circles on a table"."""
    found = [(number, thing.strip().lower()) for number, thing in COUNTED.findall(prompt)]
    return [(int(n) if n.isdecimal() else NUMBERS.index(n.lower()), thing) for n, thing in found]


class DetectedCount(PixelEvaluator):
    r"""``-|found - wanted|``, the mean over what the prompt counts; at most 0. Silent, with 0 for every picture, where
    it names no number.

    Any zero-shot object detector of transformers: OWLv2 (google/owlv2-base-patch16-ensemble, Apache-2.0) or Grounding
    DINO (IDEA-Research/grounding-dino-tiny, Apache-2.0).

    Args:
        model, processor: as transformers loads them.
        threshold: of a detection's score, in (0, 1).
        things: what a prompt counts, ``(number, thing)``; `counted_things` by default.
    """

    name = "detector"
    resolution = 512
    start = 0.2

    def __init__(self, model: Any, processor: Any, threshold: float = 0.2, things: Any = counted_things) -> None:
        super().__init__()
        if not 0 < threshold < 1:
            raise ValueError(f"`threshold` must be between 0 and 1, got {threshold!r}.")
        self.model, self.processor = model.eval(), processor
        self.threshold, self.things = threshold, things

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path = "google/owlv2-base-patch16-ensemble",
        dtype: torch.dtype = torch.float32,
        **kwargs: Any,
    ) -> "DetectedCount":
        """From a folder or hub id; `kwargs` as of the class.

        Raises:
            OSError, ValueError: it holds no zero-shot detector with its processor.
        """
        from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

        model = AutoModelForZeroShotObjectDetection.from_pretrained(folder, dtype=dtype)
        return cls(model, AutoProcessor.from_pretrained(folder), **kwargs)

    def speaks_of(self, prompt: str) -> bool:
        """Whether it names a number of things."""
        return bool(self.things(prompt))

    def judge(self, images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        pictures = (images.float() * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        scores = [
            sum(-abs(found - number) for found, (number, _) in zip(self.count(picture, things), things, strict=True))
            / len(things)
            if (things := self.things(prompt))
            else 0.0
            for picture, prompt in zip(pictures, prompts, strict=True)
        ]
        return torch.tensor(scores, device=images.device)

    def count(self, picture: Any, things: list[tuple[int, str]]) -> list[int]:
        """How many of each thing are found in a picture ``(H, W, 3)``, uint8."""
        counts = []
        for _, thing in things:  # one at a time: detectors share boxes among the queries of a call
            inputs = self.processor(images=[picture], text=[[thing]], return_tensors="pt").to(self.device)
            inputs = {k: v.to(self.dtype) if v.is_floating_point() else v for k, v in inputs.items()}
            found = self.processor.post_process_grounded_object_detection(
                self.model(**inputs), threshold=self.threshold, target_sizes=[picture.shape[:2]]
            )
            counts.append(len(found[0]["scores"]))
        return counts
