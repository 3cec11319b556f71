"""The embedded text-to-image model, with its evaluators."""

from pathlib import Path
from typing import Any

from evaluators import EVALUATORS, load_evaluator
from guidance import GreedySearch
from tinyworld import WEIGHTS

from .stable_diffusion import DynamicGuidanceStableDiffusionPipeline


class TinyWorldPipeline(DynamicGuidanceStableDiffusionPipeline):
    """``TinyWorldPipeline.from_pretrained()`` loads the weights inside the package, guided by all its evaluators."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path = WEIGHTS / "text_to_image", **kwargs: Any
    ) -> "TinyWorldPipeline":
        pipe = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        pipe.guidance = GreedySearch([load_evaluator(name, WEIGHTS / name) for name in EVALUATORS])
        return pipe
