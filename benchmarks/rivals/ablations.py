"""The searches with one thing changed each."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

import tinyworld
from evaluators import Calibration, Evaluator, FunctionEvaluator, load_evaluator
from guidance import GreedySearch, NoiseSearch

from .families import changed, noise_search
from .method import ANCESTRAL, Method


def ablations(search: GreedySearch) -> dict[str, Method]:
    """The search over scales with one thing changed (unchanged, it is ``dynamic``), and so that over noise alone
    (``noise``)."""
    panel = list(search.evaluators.values())
    noise = noise_search(search)
    low, high = min(search.scales), max(search.scales)
    table = {
        f"candidates:{count}": changed(search, scales=tuple(np.geomspace(low, high, count).round(3).tolist()))
        for count in (2, 16)
    }
    table["weights:fixed"] = changed(search, [but_for(e, calibration=_constant(e.calibration)) for e in panel])
    table |= {f"weights:{kind}": changed(search, weighting=kind) for kind in ("adaptive", "adaptive_abs")}
    if noisy := [e for e in panel if e.space == "noisy"]:
        clean = {e.name: but_for(e, space="denoised", function=as_clean(e)) for e in noisy}
        table["space:denoised"] = changed(search, [clean.get(e.name, e) for e in panel])
    table["noise"] = noise
    table |= {f"noise:draws:{count}": changed(noise, noises=count) for count in (2, 4, 16)}
    for prefix, base in (("", search), ("noise:", noise)):
        table |= {f"{prefix}every:{n}": changed(base, every=n) for n in (1, 2, 4) if n != base.every}
        table[f"{prefix}weights:uniform"] = changed(base, [but_for(e, calibration=None) for e in panel], weights={})
        if len(panel) > 1:
            table |= {f"{prefix}only:{e.name}": changed(base, [e], weights={}) for e in panel}
    if "counting" not in search.evaluators:
        counting = load_evaluator("counting", tinyworld.WEIGHTS / "counting", search.evaluators.get("clip"))
        table["noise:with:counting"] = changed(noise, [*panel, counting])
    ancestral = ANCESTRAL | {"guidance_scale": 3.0}
    options = lambda guidance: ancestral if isinstance(guidance, NoiseSearch) else {}  # noqa: E731
    return {f"ablation:{name}": Method(guidance, options=options(guidance)) for name, guidance in table.items()}


def but_for(evaluator: Evaluator, **changes: Any) -> FunctionEvaluator:
    """The same evaluator but for `changes`."""
    names = ("name", "space", "needs_prompt", "in_channels", "calibration")
    same = FunctionEvaluator(evaluator, **{name: getattr(evaluator, name) for name in names})
    return replace(same, **changes)


def _constant(calibration: Calibration | None) -> Calibration | None:
    """One reliability for all noise levels, the mean."""
    if calibration is None:
        return None
    mean = sum(calibration.reliability) / len(calibration.reliability)
    return replace(calibration, reliability=(mean,) * len(calibration.reliability))


def as_clean(evaluator: Evaluator) -> Callable:
    """Reads predictions of the clean latents as the clean latents that they are meant to be."""
    return lambda candidates, context: evaluator(candidates, replace(context, noise_level=0.0))
