"""Who called? Pipelines, callbacks and threads may share a denoiser or a scheduler, and only one call of it is ours."""

import sys
from types import FrameType
from typing import Any

from diffusers import DiffusionPipeline

# Libraries whose frames may lie between a pipeline's own and the model that it calls.
BETWEEN = ("torch", "diffusers", "accelerate", "peft", "transformers", "functools", "contextlib")


def calling_frame(pipe: Any, depth: int) -> FrameType | None:
    """The frame of a method of `pipe` from which the call came, `None` where somebody else made it: another pipeline, a
    callback, an evaluator.

    Args:
        depth: how many frames above this one to begin at.
    """
    frame: FrameType | None = sys._getframe(depth + 1)
    while frame is not None:
        names = frame.f_code.co_varnames[: frame.f_code.co_argcount]
        owner = frame.f_locals.get("self") if names[:1] == ("self",) else None
        if owner is pipe:
            return frame
        if isinstance(owner, DiffusionPipeline) or frame.f_globals.get("__name__", "").split(".")[0] not in BETWEEN:
            return None
        frame = frame.f_back
    return None


def known_to(frame: FrameType, pipe: Any) -> dict[str, Any]:
    """The local variables of `frame` and of the methods of `pipe` that called it, the nearest first."""
    found: dict[str, Any] = {}
    outer: FrameType | None = frame
    while outer is not None and outer.f_locals.get("self") is pipe:
        found = {**outer.f_locals, **found}
        outer = outer.f_back
    return found


def outside() -> int:
    """The `stacklevel` at which a warning names the line that called the pipeline, and none of a library."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in (*BETWEEN, __package__):
        level, frame = level + 1, frame.f_back
    return level
