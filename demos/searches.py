"""The guidance of a search by its name on the command line."""

import argparse
from typing import Any

from .denoising import GUIDANCE_SCALE, Several


def searching(method: str, search: Any, args: argparse.Namespace) -> Any:
    """The guidance of a method of `arguments.SEARCHES` (``noise:4``, ``halving:6``), built on `search`."""
    from guidance import Budget, NoiseSearch, Static
    from tinyworld.pipeline import SCALE

    name, *values = method.split(":")
    panel = list(search.evaluators.values())
    if name == "halving":
        scale = float(values[0]) if values else GUIDANCE_SCALE if args.model else SCALE
        noisy = any(evaluator.space == "noisy" for evaluator in panel)  # who can tell draws apart
        scales = (scale,) if values else search.scales
        # Where none can, scales are searched only if asked for: judges of pictures are slow.
        alone = search if args.scales else Static(scale)
        each = NoiseSearch(panel, scales, weights=search.weights) if noisy else alone
        embedded = args.model is None and not args.evaluators
        final = [embedded_keeper(args.device)] if embedded else None
        return Several.halved(each, scale, panel, search.weights, final)
    if name == "budget":
        return Budget(search, *map(float, values))
    if name == "noise":
        scales = search.scales if args.scales or args.model else (SCALE,)
        return NoiseSearch(panel, scales, *map(int, values), weights=search.weights)
    return search


def embedded_keeper(device: Any) -> Any:
    """The embedded vision-language model, which chooses among finished pictures."""
    from tinyworld.asking import embedded_judge

    return embedded_judge().to(device)
