"""Guidance decides: guidance scales, by fixed schedules and the greedy search, and which visual tokens stay. It knows
predictions, latents, schedulers and scores; host models it does not, nor how a score comes about."""

import importlib
from typing import TYPE_CHECKING, Any

from .budget import Budget
from .cfg_plus_plus import CFGPlusPlus
from .feynman_kac import FeynmanKac
from .formula import Formula
from .noise_search import NoiseSearch
from .plain import PlainScheduler
from .sampling import GuidedSampling
from .schedules import Cosine, Exponential, Interval, Linear, Schedule, Static
from .search import SCALES, GreedySearch
from .step import Decision, DenoisingStep, Guidance
from .tokens.matching import BipartiteMerging
from .tokens.presets import TOKEN_PRESETS
from .tokens.pruning import TokenPruning
from .tokens.recycling import Recycling
from .trace import GuidanceTrace

if TYPE_CHECKING:
    from .guiders import GUIDERS, Guider

SCHEDULES = {
    "static": Static,
    "interval": Interval,
    "linear": Linear,
    "cosine": Cosine,
    "exponential": Exponential,
}
# Name to module: loaded when they are asked for, since diffusers' guiders bring kornia along.
LATER = {"GUIDERS": "guidance.guiders", "Guider": "guidance.guiders"}

__all__ = [
    "GUIDERS",
    "SCALES",
    "SCHEDULES",
    "TOKEN_PRESETS",
    "BipartiteMerging",
    "Budget",
    "CFGPlusPlus",
    "Cosine",
    "Decision",
    "DenoisingStep",
    "Exponential",
    "FeynmanKac",
    "Formula",
    "GreedySearch",
    "Guidance",
    "GuidanceTrace",
    "GuidedSampling",
    "Guider",
    "Interval",
    "Linear",
    "NoiseSearch",
    "PlainScheduler",
    "Recycling",
    "Schedule",
    "Static",
    "TokenPruning",
]


def __getattr__(name: str) -> Any:
    if name in LATER:
        return getattr(importlib.import_module(LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *LATER]
