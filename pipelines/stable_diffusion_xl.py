"""Stable Diffusion XL."""

from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLInpaintPipeline, StableDiffusionXLPipeline

from .dynamic import DynamicGuidanceMixin


class DynamicGuidanceStableDiffusionXLPipeline(DynamicGuidanceMixin, StableDiffusionXLPipeline):
    """Text to image."""


class DynamicGuidanceStableDiffusionXLImg2ImgPipeline(DynamicGuidanceMixin, StableDiffusionXLImg2ImgPipeline):
    """Image to image."""


class DynamicGuidanceStableDiffusionXLInpaintPipeline(DynamicGuidanceMixin, StableDiffusionXLInpaintPipeline):
    """Inpainting."""
