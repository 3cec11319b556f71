"""Judges of pictures, and the previews that they see: everybody's models with public weights, which belong to no VAE
but cost a decode and a pass of their own. They know pixels and prompts; of latents only the previews know."""

from .base import PixelEvaluator
from .preview import PREVIEWS, Preview, make_preview

__all__ = ["PREVIEWS", "PixelEvaluator", "Preview", "make_preview"]
