"""How beautiful is the picture, whatever the prompt, as LAION's predictors of ratings have it?"""

import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from .base import PixelEvaluator
from .checkpoint import fill, loading, locate, read
from .open_clip import OpenCLIPTower

PREFIX = re.compile(r"^(layers|predictor)\.")
TOWER = re.compile(r"^(vision_model|visual_projection)\.")
OF_B_16 = re.compile(r"vit_b_16|vit-base-patch16")
HUB_FILES = ("model.safetensors", "pytorch_model.bin")


class Aesthetic(PixelEvaluator):
    r"""LAION's aesthetic predictor, v1: a linear layer on the picture's CLIP embedding (LAION-5B, arXiv 2210.08402,
    its LAION-Aesthetics).

    .. math:: w \cdot \frac{x}{\lVert x \rVert} + b

    An expected rating on a scale of 1 to 10, in practice 3 to 7. The tower is OpenAI's CLIP of the head's width, with
    its preprocessing (shorter side to 224 bicubic, centre crop); an `OpenCLIPScore` on the same tower costs no second
    pass. Licences: MIT of head and tower.

    Args:
        tower: the CLIP whose embeddings `head` was trained on.
        head: ``(n, width)`` to ``(n, 1)``.
    """

    name = "aesthetic"
    needs_prompt = False
    shares_tower = True
    DEFAULT_ID = "shunk031/aesthetics-predictor-v1-vit-base-patch32"
    FILES: tuple[str, ...] = tuple(f"sa_0_4_vit_{size}_linear.pth" for size in ("b_32", "l_14", "b_16"))

    def __init__(self, tower: OpenCLIPTower, head: nn.Module) -> None:
        super().__init__()
        self.tower, self.head = tower, head.eval()
        self.resolution = min(tower.size)

    @classmethod
    def make_head(cls, width: int) -> nn.Module:
        return nn.Linear(width, 1)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        tower: str | Path | OpenCLIPTower | None = None,
        load_tower: Callable[..., OpenCLIPTower] = OpenCLIPTower.from_pretrained,
        dtype: torch.dtype = torch.float32,
    ) -> "Aesthetic":
        """From LAION's file of a head, a folder that holds it, or a hub id that holds it with a tower of transformers,
        which is not read; by default `DEFAULT_ID`.

        Args:
            tower: what `OpenCLIPTower.from_pretrained` takes, or one that is loaded; by default the one beside the
                head, if there is one, else OpenAI's by the head's width and name.
            load_tower: of the same, in its place.

        Raises:
            ValueError, OSError: it cannot be loaded.
        """
        source = cls.DEFAULT_ID if source is None else source
        with loading(cls.name, source):
            path = locate(source, *cls.FILES, *HUB_FILES)
            state = {PREFIX.sub("", key): value for key, value in read(path).items() if not TOWER.match(key)}
            width = next((value.shape[-1] for value in state.values() if value.ndim == 2), 0)
            head = cls.make_head(width)
            fill(head, state)
        if tower is None:
            small = "ViT-B-16/openai" if OF_B_16.search(f"{source} {path.name}") else "ViT-B-32/openai"
            tower = "ViT-L-14/openai" if width == 768 else small
            tower = path.parent if (path.parent / "open_clip_config.json").is_file() else tower
        if not isinstance(tower, OpenCLIPTower):
            tower = load_tower(tower, name=cls.name, dtype=dtype)
        with loading(cls.name, source):
            if (made := tower.width) != width:
                raise ValueError(f"its head reads embeddings of {width} numbers, and the tower makes {made}.")
        return cls(tower, head.to(dtype))

    def judge(self, images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        return self.head(self.tower.encode_image(images).to(next(self.head.parameters())))[:, 0]


class AestheticV2(Aesthetic):
    r"""LAION's improved aesthetic predictor, v2: a network of linear layers 768-1024-128-64-16-1, without activations
    between them, on the embedding of CLIP ViT-L/14.

    .. math:: W_5 (W_4 (W_3 (W_2 (W_1 x / \lVert x \rVert + b_1) + b_2) + b_3) + b_4) + b_5

    As v1. The default is the copy of ``sac+logos+ava1-l14-linearMSE.pth`` that TRL's documentation of DDPO names.
    Licences: Apache-2.0 of the head, MIT of the tower.
    """

    name = "aesthetic_v2"
    DEFAULT_ID = "trl-lib/ddpo-aesthetic-predictor"
    FILES = ("sac+logos+ava1-l14-linearMSE.pth", "ava+logos-l14-linearMSE.pth", "aesthetic-model.pth")

    @classmethod
    def make_head(cls, width: int) -> nn.Module:
        return mlp(width)


def mlp(width: int) -> nn.Sequential:
    """The network of v2, and of ImageReward, in its published layout."""
    return nn.Sequential(
        nn.Linear(width, 1024),
        nn.Dropout(0.2),
        nn.Linear(1024, 128),
        nn.Dropout(0.2),
        nn.Linear(128, 64),
        nn.Dropout(0.1),
        nn.Linear(64, 16),
        nn.Linear(16, 1),
    )
