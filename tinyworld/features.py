"""The pixel classifier whose features the Fréchet distance is measured on. Guidance never sees it."""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from .captions import BACKGROUNDS, COLORS, LETTERS, MAX_COUNT, SHAPES, SceneSpec

# What is predicted: which colours, shapes and letters occur, the number of objects, and a named background.
TARGETS = len(COLORS) + len(SHAPES) + len(LETTERS) + MAX_COUNT + len(BACKGROUNDS)


def targets(spec: SceneSpec) -> torch.Tensor:
    """What `PixelClassifier` should say of a scene, ``(TARGETS,)`` of 0 and 1, -1 where the caption does not tell."""
    colors = {g.color for g in spec.groups} | {spec.sign_color}
    shapes, total = {g.shape for g in spec.groups}, min(MAX_COUNT, sum(g.count for g in spec.groups))
    known = [
        *(float(c in colors) for c in COLORS),
        *(float(s in shapes) for s in SHAPES),
        *(float(letter in (spec.text or "")) for letter in LETTERS),
        *(float(total == n + 1) for n in range(MAX_COUNT)),
        *(float(b == spec.background) if spec.background else -1.0 for b in BACKGROUNDS),
    ]
    return torch.tensor(known)


class PixelClassifier(ModelMixin, ConfigMixin):
    """Pictures uint8 ``(n, 3, 64, 64)`` to features ``(n, num_features)``: the form that torchmetrics'
    ``FrechetInceptionDistance(feature=...)`` takes."""

    num_features = 64

    @register_to_config
    def __init__(self, channels: tuple[int, ...] = (24, 48, 96, 128)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, o in zip((3, *channels[:-1]), channels, strict=True):
            layers += [nn.Conv2d(i, o, 4, 2, 1), nn.BatchNorm2d(o), nn.GELU(), nn.Conv2d(o, o, 3, 1, 1, groups=o)]
            layers += [nn.Conv2d(o, o, 1), nn.BatchNorm2d(o), nn.GELU()]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * channels[-1], self.num_features))
        self.head = nn.Sequential(nn.GELU(), nn.Linear(self.num_features, TARGETS))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.body(pixels.to(self.dtype) / 127.5 - 1)
