"""What the quality benchmark compares: ways of making an image, by name, and the grids that they are tuned on."""

from .ablations import ablations
from .families import NOISES, OURS, families, halved, noise_search, ours, quick_rivals, static
from .method import ANCESTRAL, STEPS, Method, named

__all__ = [
    "ANCESTRAL",
    "NOISES",
    "OURS",
    "STEPS",
    "Method",
    "ablations",
    "families",
    "halved",
    "named",
    "noise_search",
    "ours",
    "quick_rivals",
    "static",
]
