"""Methods of single instances replaced and put back, and calls of a denoiser cut down to some of its rows."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch

# Arguments of denoisers without a row for each sample, whose length may happen to be the number of rows.
SHARED = ("img_ids", "txt_ids", "image_rotary_emb", "visual_rope_pos")
# And those that may have several rows for each sample: one for each frame (AnimateDiff).
REPEATED = ("encoder_hidden_states", "down_block_additional_residuals", "mid_block_additional_residual")
# Those whose rows come second: one for each layer of an encoder before them (HiDream).
SECOND = ("encoder_hidden_states_llama3",)
# Those that remember all rows from step to step.
CACHES = ("kv_cache", "kv_caches")


def patch(owner: Any, name: str, replacement: Callable) -> Callable[[], None]:
    """Puts ``replacement(stock, *args, **kwargs)`` in the place of one instance's method, whose signature it keeps, for
    pipelines inspect it. Returns what undoes it."""
    stock = getattr(owner, name)
    ours: Any = functools.wraps(stock)(functools.partial(replacement, stock))
    ours.before = owner.__dict__.get(name)
    owner.__dict__[name] = ours

    def undo() -> None:
        top = owner.__dict__.get(name)
        if top is ours:
            if ours.before is None:
                del owner.__dict__[name]
            else:
                owner.__dict__[name] = ours.before
            return
        # Not on top any more: a later patch lies over it, or offloading, for one, has renewed a model's forward.
        while top is not None and getattr(top, "before", None) is not ours:
            top = getattr(top, "before", None)
        if top is not None:
            top.before = ours.before

    return undo


def take_rows(value: Any, rows: int, keep: torch.Tensor, listed: bool = False, repeated: bool = False) -> Any:
    """`value`, an argument of a denoiser called with so many `rows`, for the rows `keep` alone.

    Args:
        listed: whether the rows come as a list, so that every list as long holds one for each, whatever it is.
        repeated: whether so many neighbouring rows may belong to each.
    """
    if isinstance(value, torch.Tensor):
        if value.ndim and (value.shape[0] == rows or (repeated and value.shape[0] % rows == 0)):
            return value.unflatten(0, (rows, -1))[keep.to(value.device)].flatten(0, 1)
        return value
    if isinstance(value, dict):
        return {name: take_named(name, inner, rows, keep, listed) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        batched = all(isinstance(v, torch.Tensor) and v.ndim and v.shape[0] == rows for v in value)
        if len(value) == rows and (listed or not batched):
            return type(value)(value[i] for i in keep.tolist())
        return type(value)(take_rows(v, rows, keep, listed, repeated) for v in value)
    return value


def take_named(name: str, value: Any, rows: int, keep: torch.Tensor, listed: bool) -> Any:
    """The same of an argument of this name."""
    if name in SHARED:
        return value
    if name in SECOND and isinstance(value, torch.Tensor):
        return value[:, keep.to(value.device)]
    return take_rows(value, rows, keep, listed, name in REPEATED)


def indivisible(module: Any, call: inspect.BoundArguments, needed: torch.Tensor) -> bool:
    """Whether a `call` of `module` must run whole, though only the `needed` rows ``(rows,)`` are wanted: it remembers
    all of them from step to step, or has arguments without names."""
    nameless = any(p.kind is p.VAR_POSITIONAL and p.name in call.arguments for p in call.signature.parameters.values())
    cached = any(call.arguments.get(name) is not None for name in CACHES) and bool(needed.any())
    return nameless or cached or bool(getattr(module, "is_cache_enabled", False))


def named(scheduler: Any, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call of ``scheduler.step``, by the names that its class gives them: what stands in its place
    on the instance may take anything."""
    bound = inspect.signature(type(scheduler).step).bind(scheduler, *args, **kwargs).arguments
    arguments = dict(list(bound.items())[1:])
    return arguments | arguments.pop("kwargs", {})


def row_shape(first: Any) -> tuple[int, ...]:
    """The shape of one row of what a denoiser is called with, rows in a tensor or in a list."""
    row = first[0]
    while isinstance(row, (tuple, list)):
        row = row[0]
    return tuple(row.shape)
