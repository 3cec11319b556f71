"""Batches of pictures by the guidance that was asked for: one of each prompt, or several of which one is kept."""

import inspect
from typing import Any

GUIDANCE_SCALE = 4.0  # of the fixed schedules, of steps that the search leaves out, and at which draws are compared


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


class Keeping:
    """Makes `n` pictures in the place of each one by `guidance`, of which its evaluators keep one; with `rungs` the
    worse half is dropped on the way. Batches as of `denoise`, of fewer prompts."""

    APART = 500_009  # between the seeds of pictures of one prompt

    def __init__(self, pipe: Any, guidance: Any, n: int, rungs: list[float] | None) -> None:
        self.pipe, self.guidance, self.n, self.rungs = pipe, guidance, n, rungs

    def __call__(self, prompts: list[str], seeds: list[int], steps: int) -> tuple[list, list[Any]]:
        """The picture kept of each prompt, and its trace."""
        from pipelines import best_of, successive_halving

        search = getattr(self.guidance, "guidance", self.guidance)
        panel, kept = (list(search.evaluators.values()), search.weights), []

        def make(prompts: list[str], **call: Any) -> Any:
            if self.rungs:
                best = successive_halving(self.pipe, prompts, self.n, *panel, self.rungs, **call)
            else:
                best = best_of(self.pipe, prompts, self.n, *panel, **call)
            kept.extend(best.chosen.tolist())
            return best

        of_each = [seed + self.APART * k for seed in seeds for k in range(self.n)]
        images, trace = denoise(self.pipe, self.guidance, prompts, of_each, steps, make)
        return images, [trace.sample(row * self.n + chosen) for row, chosen in enumerate(kept)]
