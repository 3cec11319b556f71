"""Which visual tokens stay: schedules, top-k, merging, and the published methods by name. It knows scores and counts,
not the model that tokens leave."""

from .matching import BipartiteMerging
from .presets import TOKEN_PRESETS
from .pruning import TokenPruning
from .recycling import Recycling

__all__ = ["TOKEN_PRESETS", "BipartiteMerging", "Recycling", "TokenPruning"]
