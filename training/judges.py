"""The judge of finished pictures that a recipe learns from, by name."""

import importlib
import re
from typing import Any

from evaluators import Evaluator, load_evaluators

OWN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def load_judge(source: str) -> Evaluator:
    """A judge of pictures: a name or ``name=source`` as `load_evaluators` takes it, or ``package.module:function``,
    which is called and returns one.

    Raises:
        ValueError: there is none of this name, or it reads no pictures.
        OSError: it cannot be read.
    """
    if OWN.fullmatch(source):
        module, _, name = source.partition(":")
        try:
            made: Any = getattr(importlib.import_module(module), name)()
        except (ImportError, AttributeError) as error:
            raise ValueError(f"{source!r} is no function of a module: {error}") from None
    else:
        (made,) = load_evaluators([source])
    if getattr(made, "space", None) != "pixels":
        raise ValueError(f"{source!r} reads no pictures: a judge of finished pictures is wanted (docs/judges.md)")
    return made
