"""The one evaluator interface.

An evaluator is called with candidates and a context and returns ``scores`` ``(batch, candidates)``, higher is better.
What the candidates are is declared by its `space`:

========== ============================================ ===================================================
space      candidates                                   what they are
========== ============================================ ===================================================
noisy      ``(batch, candidates, C, H, W)`` latents     the scheduler's next latents, brought to unit variance
denoised   ``(batch, candidates, C, H, W)`` latents     the predictions of the clean latents (x0)
pixels     ``(batch, candidates, 3, H, W)`` in [0, 1]   previews of these, decoded once for all, see `pixel.preview`
tokens     ``(batch, tokens, dim)`` states              visual tokens at one depth of a model, see `tokens`
========== ============================================ ===================================================

Latents of a video are ``(batch, candidates, C, F, H, W)``. An evaluator that says ``video = True`` gets them so; any
other gets its frames, as if each were a candidate, and a candidate's score is their mean. Latents of sound have a
height of 1.
"""

import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

SPACES = ("noisy", "denoised", "pixels")


@dataclass(frozen=True)
class Context:
    """What the host knows about the candidates.

    Attributes:
        prompt: one per row of the batch, `None` where the caller gave only embeddings.
        timestep: the scheduler's timestep of the step being decided.
        noise_level: share of noise in the candidates, ``sigma / sqrt(alpha² + sigma²)`` in [0, 1]. The same number for
            variance preserving, sigma and flow-matching schedulers, so one evaluator serves them all.
    """

    prompt: Sequence[str] | None
    timestep: torch.Tensor | float
    noise_level: float


@dataclass(frozen=True)
class Calibration:
    """How an evaluator behaves at each noise level, measured offline.

    Attributes:
        noise_level: increasing, in [0, 1].
        spread: typical standard deviation of the scores over the candidates of one sample.
        reliability: accuracy in [0, 1] of ranking a right and a wrong candidate; 0.5 is chance.
    """

    noise_level: tuple[float, ...]
    spread: tuple[float, ...]
    reliability: tuple[float, ...]

    def at(self, noise_level: float) -> tuple[float, float]:
        """`spread` and `reliability` at a noise level, linearly interpolated."""
        spread, reliability = (np.interp(noise_level, self.noise_level, y) for y in (self.spread, self.reliability))
        return float(spread), float(reliability)

    @classmethod
    def from_json(cls, path: str | Path) -> "Calibration":
        """Reads what `to_json` wrote.

        Raises:
            OSError: it cannot be read. ValueError: it holds no calibration.
        """
        try:
            values = json.loads(Path(path).read_text())
            made = cls(**{key: tuple(map(float, row)) for key, row in values.items()})
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{str(path)!r} holds no calibration: {error}.") from error
        levels, *others = made.noise_level, made.spread, made.reliability
        ordered = (
            bool(levels) and levels[0] >= 0 and levels[-1] <= 1 and all(a < b for a, b in itertools.pairwise(levels))
        )
        if not ordered or any(len(row) != len(levels) or not all(0 <= x < math.inf for x in row) for row in others):
            raise ValueError(f"{str(path)!r} holds no calibration: three lists of one length, noise levels increasing.")
        return made

    def to_json(self, path: str | Path) -> None:
        """Writes it."""
        Path(path).write_text(json.dumps({key: list(row) for key, row in vars(self).items()}, indent=1) + "\n")


@runtime_checkable
class Evaluator(Protocol):
    """What guidance needs of an evaluator. Any object with these is one; a plain function becomes one by
    `as_evaluator`.

    Attributes:
        name: its key in traces and in `weights`.
        space: one of `SPACES`.
        needs_prompt: whether it reads `Context.prompt`.
        in_channels: latent channels it takes, `None` for any.
        calibration: `None` where it was never measured.
        video: optional, whether it takes the frames of a video together; without it, or where it is False, it does not.
        speaks_of: optional, ``speaks_of(prompt)``, whether it has anything to say of a prompt; without it, of every.
        every, start, stop: optional, it is asked at every n-th step between these shares of the steps; else always.
    """

    @property
    def name(self) -> str: ...
    @property
    def space(self) -> str: ...
    @property
    def needs_prompt(self) -> bool: ...
    @property
    def in_channels(self) -> int | None: ...
    @property
    def calibration(self) -> Calibration | None: ...

    # `context` is a `Context`, of tokens a `TokenContext`.
    def __call__(self, candidates: torch.Tensor, context: Any) -> torch.Tensor: ...


@dataclass(frozen=True)
class FunctionEvaluator:
    """A plain ``function(candidates, context) -> scores`` as an evaluator."""

    function: Callable[[torch.Tensor, Any], torch.Tensor]
    name: str
    space: str = "denoised"
    needs_prompt: bool = False
    in_channels: int | None = None
    calibration: Calibration | None = None
    video: bool = False
    every: int = 1
    start: float = 0.0
    stop: float = 1.0

    def __call__(self, candidates: torch.Tensor, context: Any) -> torch.Tensor:
        return self.function(candidates, context)


def as_evaluator(evaluator: Evaluator | Callable) -> Evaluator:
    """Passes an evaluator through and completes a plain function, or an object with only some of the attributes, with
    the defaults of `FunctionEvaluator`; its own name is the default `name`.

    Raises:
        TypeError: `evaluator` is not callable.
        ValueError: its `space` is not one of `SPACES`.
    """
    if not isinstance(evaluator, Evaluator):
        if not callable(evaluator):
            raise TypeError(f"`evaluators` must hold evaluators or functions, got {type(evaluator).__name__}.")
        name = getattr(evaluator, "__name__", type(evaluator).__name__)
        own = {f.name: getattr(evaluator, f.name) for f in fields(FunctionEvaluator) if hasattr(evaluator, f.name)}
        evaluator = FunctionEvaluator(**{"name": name, **own, "function": evaluator})
    if evaluator.space not in SPACES:
        raise ValueError(f"`space` of evaluator {evaluator.name!r} must be one of {SPACES}, got {evaluator.space!r}.")
    return evaluator


def calibrated(evaluator: Any, calibration: Calibration) -> Evaluator:
    """`evaluator` with `calibration`: itself, where that can be set, or a function with it."""
    evaluator = as_evaluator(evaluator)
    if isinstance(evaluator, FunctionEvaluator):
        return replace(evaluator, calibration=calibration)
    if hasattr(evaluator, "calibrate"):
        evaluator.calibrate(calibration)
    else:
        evaluator.calibration = calibration
    return evaluator


def score(evaluator: Evaluator, candidates: torch.Tensor, context: Any) -> torch.Tensor:
    """Calls an evaluator; returns float32 scores ``(batch, candidates)``. One that takes no videos scores their frames,
    of which the mean counts.

    Raises:
        ValueError: the evaluator returned anything but a tensor of that shape.
    """
    if candidates.ndim == 6 and not getattr(evaluator, "video", False):
        frames = candidates.transpose(2, 3)
        return score(evaluator, frames.flatten(1, 2), context).unflatten(1, frames.shape[1:3]).mean(2)
    if candidates.ndim == 4:  # sound
        candidates = candidates.unsqueeze(3)
    scores = evaluator(candidates, context)
    shape = tuple(candidates.shape[:2])
    if not isinstance(scores, torch.Tensor) or tuple(scores.shape) != shape:
        got = tuple(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
        raise ValueError(f"evaluator {evaluator.name!r} must return scores (batch, candidates) = {shape}, got {got}.")
    return scores.float()
