"""Text rendering: do the letters in the picture spell what the prompt quotes?"""

import re
from collections.abc import Sequence

import torch
from diffusers.configuration_utils import register_to_config
from torch import nn

from .head import CLIPHead, mlp

QUOTED = re.compile(r"\"([^\"]+)\"|“([^”]+)”|«([^»]+)»|(?<!\w)'([^']+)'(?!\w)")


def quoted(prompt: str) -> str | None:
    """The first text between quotation marks, `None` where there is none."""
    found = QUOTED.search(prompt)
    return next(filter(None, found.groups())) if found else None


class LatentTextRendering(CLIPHead):
    """Trained to rank the text that is drawn above others a letter away, at every noise level.

    Asked by prompts with a text in quotation marks, of which it reads the first `max_length` characters, without case.
    """

    name = "text"

    @register_to_config
    def __init__(
        self,
        features: int = 1536,
        max_length: int = 8,
        dim: int = 64,
        clip: int | None = None,
        calibration: dict | None = None,
    ) -> None:
        super().__init__()
        self.image = mlp(features, dim)
        # A vector for every character at every place, and one for what lies outside ASCII.
        self.letters = nn.EmbeddingBag(max_length * 128, dim, mode="sum")
        self.word = mlp(dim, dim)

    def asked(self, prompt: str) -> bool:
        return quoted(prompt) is not None

    def query(self, prompt: Sequence[str]) -> torch.Tensor:
        return self.spell([quoted(p) or " " for p in prompt])

    def spell(self, words: Sequence[str]) -> torch.Tensor:
        """Words to vectors ``(n, dim)``."""
        places: list[int] = []
        offsets: list[int] = []
        for word in words:
            offsets.append(len(places))
            word = word.upper()[: self.config["max_length"]]
            places += [128 * at + (ord(letter) if ord(letter) < 128 else 127) for at, letter in enumerate(word)]
        return self.word(
            self.letters(torch.tensor(places, device=self.device), torch.tensor(offsets, device=self.device))
        )
