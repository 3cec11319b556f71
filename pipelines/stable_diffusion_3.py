"""Stable Diffusion 3 and 3.5."""

from diffusers import StableDiffusion3Img2ImgPipeline, StableDiffusion3InpaintPipeline, StableDiffusion3Pipeline

from .dynamic import DynamicGuidanceMixin


class DynamicGuidanceStableDiffusion3Pipeline(DynamicGuidanceMixin, StableDiffusion3Pipeline):
    """Text to image."""


class DynamicGuidanceStableDiffusion3Img2ImgPipeline(DynamicGuidanceMixin, StableDiffusion3Img2ImgPipeline):
    """Image to image."""


class DynamicGuidanceStableDiffusion3InpaintPipeline(DynamicGuidanceMixin, StableDiffusion3InpaintPipeline):
    """Inpainting."""
