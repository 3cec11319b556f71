"""Stable Diffusion 3 and 3.5."""

from diffusers import StableDiffusion3Img2ImgPipeline, StableDiffusion3InpaintPipeline, StableDiffusion3Pipeline

from .dynamic import DynamicGuidanceMixin
from .guide import FOREIGN


class _NoSkipLayers(DynamicGuidanceMixin):
    """Skip-layer guidance starts after the first step; refused before it."""

    def __call__(self, *args, **kwargs):
        if kwargs.get("skip_guidance_layers") is not None:
            raise ValueError(f"`skip_guidance_layers` must be None: {FOREIGN}")
        return super().__call__(*args, **kwargs)


class DynamicGuidanceStableDiffusion3Pipeline(_NoSkipLayers, StableDiffusion3Pipeline):
    """Text to image."""


class DynamicGuidanceStableDiffusion3Img2ImgPipeline(DynamicGuidanceMixin, StableDiffusion3Img2ImgPipeline):
    """Image to image."""


class DynamicGuidanceStableDiffusion3InpaintPipeline(DynamicGuidanceMixin, StableDiffusion3InpaintPipeline):
    """Inpainting."""
