"""Evaluators score: each takes candidates and a context and returns ``(batch, candidates)``, higher is better."""

from pathlib import Path

from .base import Calibration, Context, Evaluator, FunctionEvaluator, as_evaluator, score
from .clip import LatentCLIP
from .combine import combine
from .discriminator import LatentDiscriminator

EVALUATORS = {"clip": LatentCLIP, "discriminator": LatentDiscriminator}


def load_evaluator(name: str, folder: str | Path) -> Evaluator:
    """Loads the evaluator registered as `name` from its folder (or hub id).

    Raises:
        ValueError: no evaluator has this name, or the folder holds another one.
    """
    if name not in EVALUATORS:
        raise ValueError(f"`evaluators` names {name!r}, which is unknown; there are {', '.join(sorted(EVALUATORS))}.")
    cls = EVALUATORS[name]
    if (held := cls.load_config(folder).get("_class_name")) != cls.__name__:
        raise ValueError(f"`evaluators` wants a {cls.__name__} for {name!r}, and {str(folder)!r} holds a {held}.")
    return cls.from_pretrained(folder).eval()


__all__ = [
    "EVALUATORS",
    "Calibration",
    "Context",
    "Evaluator",
    "FunctionEvaluator",
    "LatentCLIP",
    "LatentDiscriminator",
    "as_evaluator",
    "combine",
    "load_evaluator",
    "score",
]
