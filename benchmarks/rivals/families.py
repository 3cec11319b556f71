"""The families that the quality benchmark compares, and the grids that they are tuned on."""

from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from typing import Any

from evaluators import Evaluator
from guidance import (
    GUIDERS,
    SCHEDULES,
    Budget,
    Exponential,
    FeynmanKac,
    GreedySearch,
    Guider,
    Interval,
    NoiseSearch,
    Static,
)
from pipelines.successive_halving import HALVING, steps_within
from tinyworld.pipeline import SCALE, default_guidance

from .method import ANCESTRAL, STEPS, Method, named
from .searches import newer

STATIC = (1.5, 2.0, 3.0, 4.5, 6.0, 8.0, 10.0, 13.0)
SCALES = (3.0, 4.5, 6.0, 8.0)  # at which every other family is tuned
WINDOWS = ((0.15, 0.8), (0.0, 0.8), (0.15, 1.0), (0.3, 0.8))
TOLERANCES = (0.1, 0.2)
NOISES = 8  # draws of each step's noise
# What the names of methods that are no rivals begin with.
OURS = ("default", "dynamic", "budget", "noise_search", "halving")
STRENGTHS = (0.1, 0.5, 2.0)  # of Feynman–Kac, in spreads between scales, of which particles lie several apart


def ours(search: GreedySearch, quick: bool) -> dict[str, Method]:
    """The search, and what else is built on it."""
    table = {"dynamic": Method(search)}
    table |= {f"budget:{t:g}": Method(Budget(search, t)) for t in (TOLERANCES[1:] if quick else TOLERANCES)}
    if quick:
        return table
    default = default_guidance(list(search.evaluators.values()))
    return table | {
        "default": Method(default, options=ANCESTRAL),
        "default:halving": halved(search, STEPS),
        "default:halving:16": halved(search, 16),
        "default:halving:40": halved(search, 40),
        "dynamic:ancestral": Method(search, options=ANCESTRAL),
    }


def halved(search: GreedySearch, steps: int, n: int = HALVING["n"]) -> Method:
    """What `generate` does unasked, in the passes of one picture of `steps`; or with another number that is begun."""
    plan = HALVING | {"n": n}
    default, each = default_guidance(list(search.evaluators.values())), steps_within(**plan, asked=steps)
    return Method(default, best=True, steps=each, options=ANCESTRAL | {"guidance_scale": SCALE}, asked=True, **plan)


def static(quick: bool) -> dict[str, Method]:
    """The baseline, which is reported in full."""
    table = {f"static:{s:g}": Method(Static(s)) for s in (STATIC[1::2] if quick else STATIC)}
    if not quick:  # with which those that draw noise have to be compared
        table |= {f"static:{s:g}:ancestral": Method(Static(s), options=ANCESTRAL) for s in SCALES}
    return table


def families(search: GreedySearch) -> dict[str, dict[str, Method]]:
    """The rivals, and what makes several pictures or fewer steps of the search: for each family the grid of which one
    is chosen."""
    table: dict[str, dict[str, Method]] = {
        "interval": _grid("interval", Interval, SCALES, WINDOWS),
        "linear": _grid("linear", SCHEDULES["linear"], SCALES),
        "cosine": _grid("cosine", SCHEDULES["cosine"], SCALES),
        "exponential": _grid("exponential", Exponential, SCALES, [(r,) for r in (0.2, 0.7, 1.0, 2.0)]),
    }
    arguments: dict[str, Iterable[dict[str, Any]]] = {
        "apg": [
            {"eta": 0.0, "adaptive_projected_guidance_momentum": m, "adaptive_projected_guidance_rescale": r}
            for m in (0.0, -0.5)
            for r in (0.0, 5.0)
        ],
        "cfg_zero_star": [{"zero_init_steps": steps} for steps in (0, 1)],
        "tcfg": [{}],
        "mambo_g": [{"alpha": alpha} for alpha in (1.0, 3.0, 8.0)],
    }
    for name, rest in arguments.items():
        table[name] = {
            named(name, scale, *values.values()): Method(Guider(GUIDERS[name](guidance_scale=scale, **values)))
            for scale in SCALES
            for values in rest
        }
    if find_spec("kornia"):
        pairs = [(high, low) for high in (4.5, 6.0, 8.0, 13.0) for low in (1.5, 3.0, 6.0) if low < high]
        table["fdg"] = {named("fdg", *p): Method(Guider(GUIDERS["fdg"](guidance_scales=list(p)))) for p in pairs}
    half = STEPS // 2
    table["half_steps"] = {named("half_steps", s): Method(Static(s), steps=half) for s in SCALES}
    for label, n in (("dynamic_half_steps", 1), ("dynamic_best_of_2_equal_nfe", 2)):
        table[label] = {
            named(label, every): Method(changed(search, every=every), n, best=n > 1, steps=half) for every in (1, 2)
        }
    for label, n, steps in (
        ("noise_search", 1, STEPS),
        ("noise_search_best_of_2", 2, STEPS),
        ("noise_search_best_of_2_equal_nfe", 2, STEPS // 2),
    ):
        table[label] = {
            named(label, scale, *which): Method(
                noise_search(search, scales), n, n > 1, steps, ANCESTRAL | {"guidance_scale": scale}
            )
            for scale, which, scales in (
                (3.0, (), None),
                (3.0, ("scales",), search.scales),
                (4.5, ("scales",), search.scales),
            )
        }
    for label, n, steps in (  # kept by whom the default asks
        ("best_of_2_asked", 2, STEPS),
        ("best_of_2_asked_equal_nfe", 2, STEPS // 2),
        ("best_of_4_asked_equal_nfe", 4, STEPS // 4),
    ):
        table[label] = {
            named(label, s, *which): Method(Static(s), n, True, steps, options, asked=True)
            for which, options in (((), {}), (("ancestral",), ANCESTRAL))
            for s in SCALES
        }
    for n in (2, 4):
        for suffix, steps in (("", STEPS), ("_equal_nfe", STEPS // n)):
            label = f"best_of_{n}{suffix}"
            table[label] = {
                named(label, s, *which): Method(Static(s), n, True, steps, options)
                for which, options in (((), {}), (("ancestral",), ANCESTRAL))
                for s in SCALES
            }
            label = f"feynman_kac_{n}{suffix}"
            table[label] = {
                named(label, scale, strength): Method(
                    FeynmanKac(list(search.evaluators.values()), n, strength, weights=search.weights),
                    n=n,
                    best=True,
                    steps=steps,
                    # The pipeline's own scale is steered by; copies part only where the sampler draws noise.
                    options=ANCESTRAL | {"guidance_scale": scale},
                )
                for scale in SCALES
                for strength in STRENGTHS
            }
    return table | newer(search, noise_search(search))


def quick_rivals() -> dict[str, Method]:
    """One of each schedule, untuned."""
    return {f"{name}:6": Method(schedule(6.0)) for name, schedule in SCHEDULES.items() if name != "static"}


def noise_search(search: GreedySearch, scales: Sequence[float] | None = None, noises: int = NOISES) -> NoiseSearch:
    """The evaluators of `search` at every step over the sampler's draws, then over `scales`."""
    return NoiseSearch(list(search.evaluators.values()), scales, noises, search.weights)


def changed(search: GreedySearch, evaluators: Sequence[Evaluator] | None = None, **changes: Any) -> GreedySearch:
    """The same search but for its evaluators or other `changes`."""
    evaluators = list(search.evaluators.values()) if evaluators is None else evaluators
    known = {e.name for e in evaluators}
    settings = {name: getattr(search, name) for name in ("start", "stop", "every", "pull")}
    settings |= {"scales": search.scales or None}
    settings |= {"noises": search.noises} if isinstance(search, NoiseSearch) else {}
    settings["weights"] = {name: weight for name, weight in search.weights.items() if name in known}
    return type(search)(evaluators, **settings | changes)


def _grid(name: str, schedule: Callable, scales: Iterable[float], rest: Iterable[tuple] = ((),)) -> dict[str, Method]:
    return {named(name, s, *values): Method(schedule(s, *values)) for s in scales for values in rest}
