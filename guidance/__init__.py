"""Guidance decides: fixed schedules and the greedy search over guidance scales."""

from .schedules import Cosine, Interval, Linear, Schedule, Static
from .search import SCALES, GreedySearch
from .step import DenoisingStep
from .trace import GuidanceTrace

SCHEDULES = {"static": Static, "interval": Interval, "linear": Linear, "cosine": Cosine}

__all__ = [
    "SCALES",
    "SCHEDULES",
    "Cosine",
    "DenoisingStep",
    "GreedySearch",
    "GuidanceTrace",
    "Interval",
    "Linear",
    "Schedule",
    "Static",
]
