"""The judge as an evaluator of finished pictures: 1 where a picture is correct, else 0. It is the truth that measures:
nothing that guides may learn from it or ask it."""

import numpy as np
import torch

from evaluators import PixelEvaluator

from .verdict import judge


class Truth(PixelEvaluator):
    """Scores are 1 where the picture shows what its caption says, 0 where it does not (`tinyworld.judge`)."""

    name = "truth"

    def judge(self, images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        pictures = (images.permute(0, 2, 3, 1).cpu().numpy() * 255).round().astype(np.uint8)
        verdicts = [judge(picture, prompt).correct for picture, prompt in zip(pictures, prompts, strict=True)]
        return torch.tensor(verdicts, dtype=torch.float32)
