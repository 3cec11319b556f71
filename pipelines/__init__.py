"""Pipelines carry decisions out: diffusers pipelines whose guidance scale is chosen while they sample."""

from .best_of import BestOf, best_of
from .dynamic import DynamicGuidanceMixin
from .flux import DynamicGuidanceFluxImg2ImgPipeline, DynamicGuidanceFluxInpaintPipeline, DynamicGuidanceFluxPipeline
from .guide import guide
from .modular import OnlineGuider
from .prune import Pruner, prune
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
from .tinyworld import TinyWorldPipeline

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
    "TinyWorldPipeline",
    "best_of",
    "guide",
    "prune",
]
