"""Families of 2025 and 2026: other steps, other noise, pictures that are dropped; each with the grid of its knob."""

import tinyworld
from guidance import CFGPlusPlus, GreedySearch, NoiseSearch, Static
from guidance.panel import Panel

from ..provenance import weights_digest
from . import annealing
from .epsilon_greedy import EpsilonGreedy
from .foresight import Foresight
from .initial_noise import ZeroOrder
from .method import ANCESTRAL, STEPS, Method, named
from .rollover import Rollover

SCALES = (3.0, 4.5)
RUNGS = ((0.1, 0.8), (0.2, 0.6), (0.3, 0.4))  # of four pictures, which cost as much as two whole ones


def newer(search: GreedySearch, draws: NoiseSearch) -> dict[str, dict[str, Method]]:
    """The grids, by family, with the evaluators of `search` and with `draws`; ``annealing`` where it was trained for
    these weights."""
    panel = Panel(list(search.evaluators.values()), search.weights)
    table: dict[str, dict[str, Method]] = {
        "cfg_plus_plus": {
            named("cfg_plus_plus", s, *which): Method(CFGPlusPlus(s), options=options)
            for which, options in (((), {}), (("ancestral",), ANCESTRAL))
            for s in (0.2, 0.4, 0.6, 0.8, 1.0)
        },
        "foresight": {
            named("foresight", strength, scale, iterations): Method(
                sampler=Foresight(strength, scale, iterations), steps=STEPS - 3 * iterations // 2
            )
            for iterations in (2, 4)
            for strength in (0.4, 0.6, 1.0)
            for scale in SCALES
        },
        "epsilon_greedy": {
            named("epsilon_greedy", scale, epsilon, radius): Method(
                options=ANCESTRAL,
                sampler=EpsilonGreedy(draws.of_noise, scale, epsilon, radius, rounds=4, candidates=4),
            )
            for scale in SCALES
            for epsilon in (0.4, 1.0)
            for radius in (0.15, 0.5)
        },
    }
    # Draws of a step, first latents, and the steps that 40 passes, and 160, are enough for.
    for label, plans in (
        ("rollover", ((2, 4, 9), (4, 4, 5), (3, 2, 7))),
        ("rollover_160", ((4, 4, 20), (8, 8, 10), (6, 8, 13))),
    ):
        table[label] = {
            named(label, scale, quota, initial): Method(
                sampler=Rollover(panel, scale, quota, initial), steps=steps, options=ANCESTRAL
            )
            for scale in SCALES
            for quota, initial, steps in plans
        }
    for label, plans in (
        ("zero_order_equal_nfe", ((1, 1, 10), (3, 1, 5), (1, 3, 5))),
        ("zero_order_4", ((3, 1, 20), (1, 3, 20))),
    ):
        table[label] = {
            named(label, scale, radius, rounds, n): Method(
                sampler=ZeroOrder(panel, scale, radius, rounds, n), steps=steps
            )
            for scale in SCALES
            for radius in (0.3, 0.7)
            for rounds, n, steps in plans
        }
    # Four pictures begun: of all steps, 80 passes, and of half of them 40.
    for suffix, steps in (("", STEPS), ("_equal_nfe", STEPS // 2)):
        for label, guidance in (("halving_4", None), ("noise_search_halving_4", draws)):
            table[label + suffix] = {
                named(label + suffix, scale, *rungs): Method(
                    guidance or Static(scale), 4, True, steps, ANCESTRAL | {"guidance_scale": scale}, rungs
                )
                for scale in SCALES
                for rungs in RUNGS
            }
    if (network := annealing.trained(weights_digest(tinyworld.WEIGHTS / "text_to_image"))) is not None:
        table["annealing"] = {
            named("annealing", balance): Method(annealing.Annealing(network, balance))
            for balance in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
        }
    return table
