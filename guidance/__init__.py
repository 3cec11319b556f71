"""Guidance decides: guidance scales, by fixed schedules and the greedy search, and which visual tokens stay."""

from .budget import Budget
from .feynman_kac import FeynmanKac
from .formula import Formula
from .guiders import GUIDERS, Guider
from .noise_search import NoiseSearch
from .plain import PlainScheduler
from .sampling import GuidedSampling
from .schedules import Cosine, Exponential, Interval, Linear, Schedule, Static
from .search import SCALES, GreedySearch
from .step import Decision, DenoisingStep, Guidance
from .tokens.presets import TOKEN_PRESETS
from .tokens.pruning import TokenPruning
from .trace import GuidanceTrace

SCHEDULES = {
    "static": Static,
    "interval": Interval,
    "linear": Linear,
    "cosine": Cosine,
    "exponential": Exponential,
}

__all__ = [
    "GUIDERS",
    "SCALES",
    "SCHEDULES",
    "TOKEN_PRESETS",
    "Budget",
    "Cosine",
    "Decision",
    "DenoisingStep",
    "Exponential",
    "Formula",
    "FeynmanKac",
    "GreedySearch",
    "Guidance",
    "GuidanceTrace",
    "GuidedSampling",
    "Guider",
    "Interval",
    "Linear",
    "NoiseSearch",
    "PlainScheduler",
    "Schedule",
    "Static",
    "TokenPruning",
]
