"""Pipelines carry decisions out: in a diffusers pipeline that samples, in a transformers model that reads. They know
hosts; how a score comes about they do not, nor the embedded world."""

import importlib
from typing import Any

from .best_of import BestOf, best_of
from .dynamic import DynamicGuidanceMixin
from .flux import DynamicGuidanceFluxImg2ImgPipeline, DynamicGuidanceFluxInpaintPipeline, DynamicGuidanceFluxPipeline
from .guide import guide
from .modular import OnlineGuider
from .prune.pruner import Pruner, prune
from .stable_diffusion import (
    DynamicGuidanceStableDiffusionImg2ImgPipeline,
    DynamicGuidanceStableDiffusionInpaintPipeline,
    DynamicGuidanceStableDiffusionPipeline,
)
from .stable_diffusion_3 import (
    DynamicGuidanceStableDiffusion3Img2ImgPipeline,
    DynamicGuidanceStableDiffusion3InpaintPipeline,
    DynamicGuidanceStableDiffusion3Pipeline,
)
from .stable_diffusion_xl import (
    DynamicGuidanceStableDiffusionXLImg2ImgPipeline,
    DynamicGuidanceStableDiffusionXLInpaintPipeline,
    DynamicGuidanceStableDiffusionXLPipeline,
)

__all__ = [
    "BestOf",
    "DynamicGuidanceFluxImg2ImgPipeline",
    "DynamicGuidanceFluxInpaintPipeline",
    "DynamicGuidanceFluxPipeline",
    "DynamicGuidanceMixin",
    "DynamicGuidanceStableDiffusion3Img2ImgPipeline",
    "DynamicGuidanceStableDiffusion3InpaintPipeline",
    "DynamicGuidanceStableDiffusion3Pipeline",
    "DynamicGuidanceStableDiffusionImg2ImgPipeline",
    "DynamicGuidanceStableDiffusionInpaintPipeline",
    "DynamicGuidanceStableDiffusionPipeline",
    "DynamicGuidanceStableDiffusionXLImg2ImgPipeline",
    "DynamicGuidanceStableDiffusionXLInpaintPipeline",
    "DynamicGuidanceStableDiffusionXLPipeline",
    "OnlineGuider",
    "Pruner",
    "best_of",
    "guide",
    "prune",
]


def __getattr__(name: str) -> Any:
    """`TinyWorldPipeline` is looked for here but lives with the embedded world, above: fetched when asked for."""
    if name == "TinyWorldPipeline":
        return importlib.import_module("tinyworld.pipeline").TinyWorldPipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
