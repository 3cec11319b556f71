"""`guide`: any diffusers pipeline with classifier-free guidance takes its scale from us.

While it is in force, one pipeline's call is wrapped in a `Run`, which begins and ends with it. No ``__call__`` is
copied, nothing but that one object is changed, and nothing stays changed afterwards.
"""

import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from evaluators.pixel.preview import Preview
from guidance import Guidance, GuidanceTrace
from guidance.schedulers import check_supported

from .hosts import denoisers, host_of
from .run import Run
from .tap import disguise

CONDITIONS = ("prompt", "guidance_scale", "cfg_scale")  # arguments of a pipeline that could guide


class Guiding(AbstractContextManager[list[GuidanceTrace]]):
    """What `guide` returns. It says so where it is let go of without a ``with``, by which nothing is guided."""

    def __init__(self, inside: AbstractContextManager[list[GuidanceTrace]]) -> None:
        self.inside, self.entered = inside, False

    def __enter__(self) -> list[GuidanceTrace]:
        self.entered = True
        return self.inside.__enter__()

    def __exit__(self, *exception: Any) -> bool | None:
        return self.inside.__exit__(*exception)

    def __del__(self) -> None:
        if not self.entered:
            said = "`guide` was called outside a `with` statement, so nothing was guided: `with guide(…): pipe(…)`."
            warnings.warn(said, RuntimeWarning, stacklevel=2, source=self)


def guide(
    pipe: DiffusionPipeline,
    guidance: Guidance,
    prompt: Sequence[str] | None = None,
    preview: str | Preview = "auto",
) -> Guiding:
    """While in force, every call of `pipe` takes its guidance scale from `guidance`.

    Example::

        with guide(pipe, GreedySearch([clip, discriminator])) as traces:
            image = pipe("two red circles").images[0]
        traces[-1].plot("schedule.png")

    Other pipelines that share models or the scheduler with `pipe` are not touched, nor what callbacks do. A copy of
    `pipe` made meanwhile is not guided.

    Args:
        pipe: a diffusers pipeline that denoises ``[uncond, cond]`` in one batch (SD, SDXL, SD3, …) or in two calls
            (FLUX with true CFG, Qwen-Image, Wan, …); docs/hosts.md lists what was tried.
        guidance: a `GreedySearch`, a fixed `Schedule`, a `Guider`, `FeynmanKac`, `Budget`, or any object with their
            `decide`.
        prompt: what the evaluators read, one for each row of ``prompt_embeds``, where `pipe` is called with these only.
        preview: what judges of pictures see of predicted latents: one of `evaluators.pixel.PREVIEWS`, or a function.

    Returns:
        A context manager, which gives a list that receives one `GuidanceTrace` per call.

    Raises:
        ValueError: `pipe` has no denoiser or an unsupported scheduler, cannot be guided, or is already guided; and from
            the call of `pipe`, before any denoising: guidance is off, or an evaluator does not fit; or at the first
            step: `pipe` guides by another formula than is known.
    """
    return Guiding(_guided(pipe, guidance, prompt, preview))


@contextmanager
def _guided(
    pipe: DiffusionPipeline, guidance: Guidance, prompt: Sequence[str] | None, preview: str | Preview
) -> Iterator[list[GuidanceTrace]]:
    check(pipe, guidance)
    traces: list[GuidanceTrace] = []

    def call(stock: Callable, *args: Any, **kwargs: Any) -> Any:
        return run_guided(Run(pipe, guidance, prompt, traces, preview=preview), stock, args, kwargs)

    undo = disguise(pipe, {"__call__": call}, {"_guided": True})
    try:
        yield traces
    finally:
        undo()


def check(pipe: Any, guidance: Any) -> None:
    """Raises ValueError where `pipe` cannot be guided at all, or `guidance` is none."""
    if host_of(pipe).refused:
        raise ValueError(f"`pipe` {type(pipe).__name__} cannot be guided: {host_of(pipe).refused}")
    for name, part in vars(pipe).items():
        if isinstance(part, DiffusionPipeline) and denoisers(part):
            raise ValueError(f"`pipe` {type(pipe).__name__} denoises by another pipeline: guide its `{name}`.")
    takes = inspect.signature(type(pipe).__call__).parameters
    conditioned = hasattr(pipe, "encode_prompt") or any(name.endswith(CONDITIONS) for name in takes)
    if not denoisers(pipe) or not hasattr(pipe, "scheduler") or not conditioned:
        raise ValueError(f"`pipe` must be a diffusers pipeline with a guidance scale, got {type(pipe).__name__}.")
    check_supported(pipe.scheduler)
    if getattr(type(pipe), "_guided", False):
        raise ValueError("`pipe` is already guided: `guide` cannot be nested on one pipeline.")
    if not hasattr(guidance, "decide"):
        raise ValueError(f"`guidance` must be a GreedySearch or a Schedule, got {type(guidance).__name__}.")


def run_guided(run: Run, stock: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """One call of the pipeline of `run`, by its own `stock`."""
    if run.prompt is None:
        run.prompt = inspect.signature(stock).bind(*args, **kwargs).arguments.get("prompt")
    with run:
        return stock(*args, **kwargs)
