"""Batches of pictures by the guidance that was asked for: one of each prompt, or several of which one is kept."""

import inspect
from collections.abc import Mapping
from typing import Any

GUIDANCE_SCALE = 4.0  # of the fixed schedules, of steps that the search leaves out, and at which draws are compared
APART = 500_009  # between the seeds of two tries, so that no other picture of a run has the second


def denoise(
    pipe: Any, guidance: Any, prompts: list[str], seeds: list[int], steps: int, make: Any = None, **more: Any
) -> tuple[list, Any]:
    """One batch: its PIL images and its trace. The pipeline, or `make` in its place, is called with `more` besides."""
    import torch

    from pipelines import guide, make_stochastic

    options: dict[str, Any] = {"guidance_scale": GUIDANCE_SCALE}
    if "true_cfg_scale" in inspect.signature(pipe.__call__).parameters:  # FLUX: guidance_scale is something else there
        options = {"true_cfg_scale": GUIDANCE_SCALE, "negative_prompt": [""] * len(prompts)}
    options |= more
    generators = [torch.Generator().manual_seed(s) for s in seeds]  # on the CPU: the same noise on every device
    scheduler = pipe.scheduler
    try:
        if getattr(guidance, "noises", 1) > 1:
            options |= make_stochastic(pipe)
        with guide(pipe, guidance) as traces:
            images = (make or pipe)(prompts, num_inference_steps=steps, generator=generators, **options).images
    finally:
        pipe.scheduler = scheduler
    return images, traces[-1]


def denoise_best(
    pipe: Any,
    guidance: Any,
    prompts: list[str],
    seeds: list[int],
    steps: int,
    n: int,
    evaluators: list[Any],
    weights: Mapping[str, float],
    rungs: list[float] | None = None,
    **more: Any,
) -> tuple[list, Any, Any]:
    """The same with `n` pictures in the place of each, of which `evaluators` keep one: the images kept, the trace of
    all ``len(prompts) · n`` rows, and the `BestOf`. With `rungs` the worse half is dropped on the way."""
    from pipelines import best_of, successive_halving

    found = []

    def make(prompts: list[str], **call: Any) -> Any:
        if rungs:
            found.append(successive_halving(pipe, prompts, n, evaluators, weights, rungs, **call))
        else:
            found.append(best_of(pipe, prompts, n, evaluators, weights, **call))
        return found[0]

    every = [seed + APART * k for seed in seeds for k in range(n)]
    images, trace = denoise(pipe, guidance, prompts, every, steps, make, **more)
    return images, trace, found[0]
