"""Visual tokens leave stock transformers models: the adapters that carry a `TokenPruning` out. They know modules, masks
and caches, not how a token is scored."""

from .pruner import Pruner, prune

__all__ = ["Pruner", "prune"]
