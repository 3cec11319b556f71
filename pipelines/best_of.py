"""Best of N: whole images are made with any guidance, and the evaluators keep one of each prompt."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from evaluators.base import Evaluator
from evaluators.pixel.preview import Preview, make_preview
from guidance.panel import Panel, preferred

from .caller import calling_frame, known_to
from .hosts import denoisers, host_of
from .patch import patch
from .types import Pipeline


@dataclass(frozen=True)
class BestOf:
    """What `best_of` returns.

    Attributes:
        images: the best of each prompt, in the pipeline's `output_type`: a list, array or tensor.
        chosen: which of the N it was, ``(prompts,)``.
        scores: combined scores ``(prompts, n)``, comparable within a prompt; NaN where not finite.
        nfe: denoiser evaluations that each prompt cost: a pass over a batch of B rows counts B.
    """

    images: Any
    chosen: torch.Tensor
    scores: torch.Tensor
    nfe: float


@torch.no_grad()
def best_of(
    pipe: DiffusionPipeline,
    prompt: str | Sequence[str],
    n: int,
    evaluators: Sequence[Evaluator | Callable],
    weights: Mapping[str, float] | None = None,
    preview: str | Preview = "vae",
    **kwargs: Any,
) -> BestOf:
    """Makes `n` images of each prompt and keeps the one whose final latents the evaluators like best.

    The baseline for every method that spends evaluators or denoiser passes while sampling: compare at equal `nfe`. The
    guidance is the pipeline's own, that of an enclosing `guide`, or, for a pipeline that takes it, ``guidance=``.

    Example::

        best = best_of(pipe, ["a fox", "a sign"], 4, [clip, discriminator], guidance_scale=6.0)

    Args:
        evaluators, weights: as of `GreedySearch`, at least one evaluator. They see the final latents as both noisy and
            denoised ones, at noise level 0; judges of pictures see the `preview` of them.
        preview: as of `guide`.
        kwargs: everything else that `pipe` takes.

    Raises:
        ValueError: `n` is not an integer of at least 1, `prompt` is empty, there is no evaluator or (after the first
            step) one that does not fit, or `kwargs` has an argument that this sets.
    """
    prompts, panel = check_arguments(prompt, n, evaluators, weights, kwargs)
    seen: list[torch.Tensor] = []
    rows = 0

    def keep(pipe: Any, step: int, timestep: Any, tensors: dict[str, torch.Tensor]) -> dict:
        frame = calling_frame(pipe, 1)
        latents = host_of(pipe).unpack(pipe, known_to(frame, pipe) if frame else {}, tensors["latents"])
        if not seen:
            panel.check(latents, [p for p in prompts for _ in range(n)])
        seen[:] = [latents]
        return {}

    def count(stock: Callable, *args: Any, **kwargs: Any) -> Any:
        nonlocal rows
        output = stock(*args, **kwargs)
        rows += len(output[0])
        return output

    # Not by hooks, which see what `guide` fills in for the rows that it leaves out.
    undo = [patch(denoiser, "forward", count) for denoiser in denoisers(pipe)]
    try:
        images = cast(Pipeline, pipe)(prompts, num_images_per_prompt=n, callback_on_step_end=keep, **kwargs).images
    finally:
        for undo_one in undo:
            undo_one()
    final = seen[0].float()

    def candidates(space: str) -> torch.Tensor:
        shown = make_preview(getattr(pipe, "vae", None), preview)(final) if space == "pixels" else final
        return shown.unflatten(0, (len(prompts), n))

    scores, _ = panel.ask(candidates, lambda space: 0.0, prompts, 0.0)
    chosen = preferred(scores).cpu()
    return BestOf(pick(images, chosen, n), chosen, scores, rows / len(prompts))


def pick(images: Any, chosen: torch.Tensor, n: int) -> Any:
    """Of `n` images of each prompt the `chosen` ones ``(prompts,)``: from a list, an array or a tensor."""
    kept = (torch.arange(len(chosen)) * n + chosen).tolist()
    return [images[i] for i in kept] if isinstance(images, list) else images[kept]


def check_arguments(
    prompt: str | Sequence[str],
    n: int,
    evaluators: Sequence[Evaluator | Callable],
    weights: Mapping[str, float] | None,
    kwargs: Mapping[str, Any],
) -> tuple[list[str], Panel]:
    """The prompts and the evaluators of those who make `n` images of each; ValueError where an argument is wrong."""
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    panel = Panel(evaluators, weights)
    if not isinstance(n, int) or n < 1:
        raise ValueError(f"`n` must be an integer of at least 1, got {n!r}.")
    if not prompts:
        raise ValueError(f"`prompt` must be a string or a list of at least one string, got {prompt!r}.")
    if not panel.evaluators:
        raise ValueError("`evaluators` is empty: the best takes at least one evaluator.")
    if taken := {"num_images_per_prompt", "callback_on_step_end", "return_dict"} & set(kwargs):
        raise ValueError(f"`kwargs` must not have {sorted(taken)}: it is set here.")
    return prompts, panel
