"""Batches of pictures by the guidance that was asked for: one of each prompt, or several of which one is kept."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

GUIDANCE_SCALE = 4.0  # of the fixed schedules, of steps that the search leaves out, and at which draws are compared
APART = 500_009  # between the seeds of two tries, so that no other picture of a run has the second


@dataclass(frozen=True, eq=False)
class Several:
    """A way to make pictures: `n` are begun in the place of each, and evaluators keep one.

    Attributes:
        guidance: of each of them.
        evaluators, weights: who keeps, as of `best_of`.
        rungs: after which shares of the steps the worse half is dropped, as of `successive_halving`; empty for whole
            pictures.
        together: whether all of a prompt make the steps that are asked for together; else each does.
        own_scale: the pipeline's, at which draws of noise are compared.
        final_evaluators: who chooses among finished ones in their place, as of `successive_halving`.
    """

    guidance: Any
    evaluators: Sequence[Any]
    weights: Mapping[str, float] | None
    n: int
    rungs: Sequence[float] = ()
    together: bool = False
    own_scale: float = GUIDANCE_SCALE
    final_evaluators: Sequence[Any] | None = None

    def steps(self, asked: int) -> int:
        """The steps of each, of those that are `asked` for."""
        from pipelines.successive_halving import steps_within

        return steps_within(self.n, self.rungs, asked) if self.together else asked

    @classmethod
    def halved(
        cls, guidance: Any, own_scale: float, evaluators: Sequence[Any], weights: Any, final_evaluators: Any
    ) -> "Several":
        """Four, of which two are dropped early and one at the end, in the passes of one whole picture."""
        from pipelines.successive_halving import HALVING

        who = {"evaluators": evaluators, "weights": weights, "final_evaluators": final_evaluators}
        return cls(guidance, **who, **HALVING, together=True, own_scale=own_scale)

    @property
    def kept_by(self) -> list[Any]:
        """Who has the last word."""
        return list(self.final_evaluators or self.evaluators)


@dataclass(frozen=True, eq=False)
class Made:
    """Attributes:
    images: PIL images, one for each prompt.
    trace: of all rows of the batch.
    rows: which of them each image is.
    best: where several were begun, how one was kept: a `pipelines.BestOf`.
    """

    images: list
    trace: Any
    rows: list[int]
    best: Any = None

    def trace_of(self, place: int) -> Any:
        """That of one image alone."""
        return self.trace.sample(self.rows[place])


def rows_of(guidance: Any) -> int:
    """How many pictures are begun for each that is kept."""
    return guidance.n if isinstance(guidance, Several) else 1


def denoise(pipe: Any, guidance: Any, prompts: list[str], seeds: list[int], steps: int, **more: Any) -> Made:
    """One batch, by any guidance or `Several`. The pipeline is called with `more` besides."""
    if not isinstance(guidance, Several):
        images, trace = _batch(pipe, guidance, GUIDANCE_SCALE, prompts, seeds, steps, pipe, **more)
        return Made(images, trace, list(range(len(prompts))))
    from pipelines import best_of, successive_halving

    several, found = guidance, []
    halve = partial(successive_halving, rungs=several.rungs, final_evaluators=several.final_evaluators)
    make: Callable = halve if several.rungs else best_of

    def keep_one(prompts: list[str], **call: Any) -> Any:
        found.append(make(pipe, prompts, several.n, several.evaluators, several.weights, **call))
        return found[0]

    every = [seed + APART * k for seed in seeds for k in range(several.n)]
    inner = several.guidance, several.own_scale
    images, trace = _batch(pipe, *inner, prompts, every, several.steps(steps), keep_one, **more)
    rows = [several.n * place + chosen for place, chosen in enumerate(found[0].chosen.tolist())]
    return Made(images, trace, rows, found[0])


def _batch(
    pipe: Any,
    guidance: Any,
    own_scale: float,
    prompts: list[str],
    seeds: list[int],
    steps: int,
    make: Callable,
    **more: Any,
) -> tuple[list, Any]:
    """What `make` returns, called as the pipeline is, and the trace of all rows."""
    import torch

    from pipelines import guide, make_stochastic

    options: dict[str, Any] = {"guidance_scale": own_scale}
    if "true_cfg_scale" in inspect.signature(pipe.__call__).parameters:  # FLUX: guidance_scale is something else there
        options = {"true_cfg_scale": own_scale, "negative_prompt": [""] * len(prompts)}
    options |= more
    generators = [torch.Generator().manual_seed(s) for s in seeds]  # on the CPU: the same noise on every device
    scheduler = pipe.scheduler
    try:
        if getattr(guidance, "noises", 1) > 1:
            options |= make_stochastic(pipe)
        with guide(pipe, guidance) as traces:
            images = make(prompts, num_inference_steps=steps, generator=generators, **options).images
    finally:
        pipe.scheduler = scheduler
    return images, traces[-1]
