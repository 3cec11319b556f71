"""Counting: are there as many as the prompt says?"""

import re

from diffusers.configuration_utils import register_to_config

from .head import CLIPHead, mlp

NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBER = re.compile(rf"\b(?:{'|'.join(NUMBERS)}|[2-9]|10)\b", re.IGNORECASE)


class LatentCounting(CLIPHead):
    """Trained to rank the prompt above the same prompt with another number in it, at every noise level.

    Asked by prompts with a number from two to ten, in words or digits.
    """

    name = "counting"

    @register_to_config
    def __init__(
        self,
        features: int = 1536,
        text_dim: int = 128,
        dim: int = 64,
        clip: int | None = None,
        calibration: dict | None = None,
    ) -> None:
        super().__init__()
        self.image, self.text = mlp(features, dim), mlp(text_dim, dim)

    def asked(self, prompt: str) -> bool:
        return NUMBER.search(prompt) is not None
