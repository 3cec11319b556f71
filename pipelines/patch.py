"""Methods of single instances replaced and put back, and calls of a denoiser cut down to some of its rows."""

import functools
from collections.abc import Callable
from typing import Any

import torch

# Arguments of denoisers without a row for each sample, whose length may happen to be the number of rows.
SHARED = ("img_ids", "txt_ids", "image_rotary_emb")


def patch(owner: Any, name: str, replacement: Callable) -> Callable[[], None]:
    """Puts ``replacement(stock, *args, **kwargs)`` in the place of one instance's method, whose signature it keeps, for
    pipelines inspect it. Returns what undoes it."""
    before, stock = owner.__dict__.get(name), getattr(owner, name)
    ours = owner.__dict__[name] = functools.wraps(stock)(functools.partial(replacement, stock))

    def undo() -> None:
        if owner.__dict__.get(name) is not ours:  # offloading, for one, renews the forward of models after every call
            return
        if before is None:
            del owner.__dict__[name]
        else:
            owner.__dict__[name] = before

    return undo


def take_rows(value: Any, rows: int, keep: torch.Tensor) -> Any:
    """`value`, an argument of a denoiser called with so many `rows`, for the rows `keep` alone."""
    if isinstance(value, torch.Tensor):
        return value[keep.to(value.device)] if value.ndim and value.shape[0] == rows else value
    if isinstance(value, dict):
        return {k: v if k in SHARED else take_rows(v, rows, keep) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        if len(value) == rows and not any(isinstance(v, torch.Tensor) for v in value):
            return type(value)(value[i] for i in keep.tolist())
        return type(value)(take_rows(v, rows, keep) for v in value)
    return value
