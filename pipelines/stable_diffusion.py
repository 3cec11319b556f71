"""Stable Diffusion 1.x and 2.x."""

from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline, StableDiffusionPipeline

from .dynamic import DynamicGuidanceMixin


class DynamicGuidanceStableDiffusionPipeline(DynamicGuidanceMixin, StableDiffusionPipeline):
    """Text to image."""


class DynamicGuidanceStableDiffusionImg2ImgPipeline(DynamicGuidanceMixin, StableDiffusionImg2ImgPipeline):
    """Image to image."""


class DynamicGuidanceStableDiffusionInpaintPipeline(DynamicGuidanceMixin, StableDiffusionInpaintPipeline):
    """Inpainting."""
