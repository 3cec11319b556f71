"""Networks that read latents, at any noise level: cheap enough for every step, and of one VAE. They know nothing of
pipelines, schedulers or searches."""

from .base import LatentEvaluator
from .clip import LatentCLIP
from .counting import LatentCounting
from .discriminator import LatentDiscriminator
from .head import CLIPHead
from .reward import LatentReward
from .text import LatentTextRendering
from .value import LatentValue

__all__ = [
    "CLIPHead",
    "LatentCLIP",
    "LatentCounting",
    "LatentDiscriminator",
    "LatentEvaluator",
    "LatentReward",
    "LatentTextRendering",
    "LatentValue",
]
