"""The embedded text-to-image model, with its evaluators."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusers import DDPMScheduler

from evaluators import Evaluator, load_evaluators
from guidance import GreedySearch, NoiseSearch
from pipelines import DynamicGuidanceStableDiffusionPipeline

from . import WEIGHTS

PANEL = ("clip", "discriminator", "reward")
SCALES = (1.5, 3.0, 4.5)
SCALE = 3.0  # the best static one
WEIGHT = {"discriminator": 0.25}  # it tells this model's latents from real ones by texture, which no scale mends


def scale_search(evaluators: Sequence[Evaluator] | None = None, scales: Sequence[float] = SCALES) -> GreedySearch:
    """The search over scales alone, by the evaluators of `PANEL` or by others of its VAE."""
    panel = evaluators or load_evaluators({name: WEIGHTS / name for name in PANEL})
    weights = {e.name: WEIGHT[e.name] for e in panel if e.name in WEIGHT}
    # Every second step: this denoiser is so small that evaluators are no trifle beside it.
    return GreedySearch(panel, scales, weights=weights, every=2)


def default_guidance(evaluators: Sequence[Evaluator] | None = None) -> NoiseSearch:
    """The search that guides the embedded model: over the sampler's draws and then over scales, by evaluators as of
    `scale_search`. docs/results.md has why."""
    search = scale_search(evaluators)
    return NoiseSearch(list(search.evaluators.values()), search.scales, weights=search.weights)


class TinyWorldPipeline(DynamicGuidanceStableDiffusionPipeline):
    """``TinyWorldPipeline.from_pretrained()`` loads the weights inside the package, guided by `default_guidance`, with
    a sampler that draws noise at each step. Its own `guidance_scale`, at which draws are compared, is `SCALE`, not 7.5,
    where none is given."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(super().__call__).bind(*args, **kwargs).arguments
        if "guidance_scale" not in given:
            kwargs["guidance_scale"] = SCALE
        return super().__call__(*args, **kwargs)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path = WEIGHTS / "text_to_image", **kwargs: Any
    ) -> "TinyWorldPipeline":
        pipe = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        if "scheduler" not in kwargs:
            pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
        pipe.guidance = default_guidance()
        return pipe


def _own_signature() -> inspect.Signature:
    """That of the pipeline's class, with the scale that is ours."""
    inherited = inspect.signature(DynamicGuidanceStableDiffusionPipeline.__call__)
    scale = inherited.parameters["guidance_scale"].replace(default=SCALE)
    return inherited.replace(parameters=[*(inherited.parameters | {"guidance_scale": scale}).values()])


TinyWorldPipeline.__call__.__doc__ = DynamicGuidanceStableDiffusionPipeline.__call__.__doc__
TinyWorldPipeline.__call__.__signature__ = _own_signature()  # type: ignore[attr-defined]  # `inspect` reads this
