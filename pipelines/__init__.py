"""Pipelines carry decisions out: in a diffusers pipeline that samples, in a transformers model that reads. They know
hosts; how a score comes about they do not, nor the embedded world."""

import importlib
from typing import TYPE_CHECKING, Any

from .best_of import BestOf, best_of
from .dynamic import CLASSES, PREFIX, DynamicGuidanceMixin, dynamic_class
from .guide import guide
from .prune.pruner import Pruner, prune
from .stochastic import make_stochastic
from .successive_halving import successive_halving

if TYPE_CHECKING:
    from .modular import OnlineGuider

DYNAMIC = [PREFIX + name for name in CLASSES]
# Name to module: what brings much along is loaded when it is asked for. `TinyWorldPipeline` is looked for here, but
# lives with the embedded world, above.
LATER = {"OnlineGuider": "pipelines.modular", "TinyWorldPipeline": "tinyworld.pipeline"}

__all__ = ["BestOf", "DynamicGuidanceMixin", "OnlineGuider", "Pruner", "best_of", "guide", "make_stochastic", "prune"]
__all__ += ["successive_halving", *DYNAMIC]


def __getattr__(name: str) -> Any:
    if name in LATER:
        return getattr(importlib.import_module(LATER[name]), name)
    if name in DYNAMIC:
        return dynamic_class(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *LATER, *DYNAMIC]
