"""Which picture would people choose for the prompt, as HPSv2 learned it from their choices?"""

from pathlib import Path
from typing import Any

import torch

from .checkpoint import loading, locate
from .open_clip import OpenCLIPScore, OpenCLIPTower


class HPS(OpenCLIPScore):
    r"""Human Preference Score v2 (arXiv 2306.09341, its equation 1 without the scale).

    .. math:: \cos(\text{picture}, \text{prompt})

    In [-1, 1], in practice 0.1 to 0.4. ViT-H/14 fine-tuned on 798 thousand choices. Preprocessing: longer side to 224
    bicubic, black to the square, OpenAI's mean and deviation. Weights: `FILE` of ``xswu/HPSv2`` on the hub, Apache-2.0.
    """

    name = "hpsv2"
    shares_tower = False
    DEFAULT_ID = "xswu/HPSv2"
    FILE = "HPS_v2_compressed.pt"
    MODEL = "ViT-H-14"

    @classmethod
    def from_pretrained(cls, source: str | Path = DEFAULT_ID, **kwargs: Any) -> "HPS":  # type: ignore[override]
        """From a hub id, a folder that holds `FILE`, or such a file; `dtype` as of `OpenCLIPTower`.

        Raises:
            ValueError, OSError: it cannot be loaded.
        """
        with loading(cls.name, source):
            weights = locate(source, cls.FILE)
            kwargs |= {"weights": weights, "resize_mode": "longest"}
            return cls(OpenCLIPTower.from_pretrained(cls.MODEL, cls.name, **kwargs))

    def judge(self, images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        return self.tower.cosine(images, prompts)


class HPSv21(HPS):
    """`HPS` trained on cleaner choices, which its authors recommend: v2.1."""

    name = "hpsv2.1"
    FILE = "HPS_v2.1_compressed.pt"
