"""Guidance decides: guidance scales, by fixed schedules and the greedy search, and which visual tokens stay."""

from .schedules import Cosine, Interval, Linear, Schedule, Static
from .search import SCALES, GreedySearch
from .step import DenoisingStep
from .token_presets import TOKEN_PRESETS
from .tokens import TokenPruning
from .trace import GuidanceTrace

SCHEDULES = {"static": Static, "interval": Interval, "linear": Linear, "cosine": Cosine}

__all__ = [
    "SCALES",
    "SCHEDULES",
    "TOKEN_PRESETS",
    "Cosine",
    "DenoisingStep",
    "GreedySearch",
    "GuidanceTrace",
    "Interval",
    "Linear",
    "Schedule",
    "Static",
    "TokenPruning",
]
