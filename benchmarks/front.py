"""Right pictures against passes of the denoiser, from 10 to 160, for every family: who is best at which cost?

    online-guidance benchmark front --json --compile --work runs/quality > front.json
    online-guidance benchmark front -n 60 --only static best_of halving
    online-guidance benchmark plots front.json --out docs

At each budget each family may spend its passes on steps, on pictures or on draws; the way that is right most often on
captions of the training split is reported, on held-out captions, with its 95 % interval, and less the best of others'
families at that budget. Noise, captions, judge and the folder ``--work`` are those of `benchmarks.quality`.
"""

import argparse
import json
import sys
import time
from typing import Any

from commands.parser import Parser
from guidance import CFGPlusPlus, FeynmanKac, GreedySearch, Static
from guidance.panel import Panel
from pipelines import TinyWorldPipeline
from tinyworld.recipes.data import captions_of
from training.loop import hardware

from . import embedded, rivals
from .metrics import paired_bootstrap
from .pictures import folder, pending, run
from .progress import progress
from .provenance import commit
from .quality import VALIDATION_SEED, parse, read_prompts, tune
from .rivals import ANCESTRAL, Method, named
from .rivals.epsilon_greedy import EpsilonGreedy
from .rivals.foresight import Foresight
from .rivals.initial_noise import ZeroOrder
from .rivals.rollover import Rollover
from .rivals.searches import RUNGS
from .workers import Cell, filling

BUDGETS = (10, 20, 40, 80, 160)  # passes for each picture that is kept
SCALE = 3.0
FEWEST = 5  # steps of a picture
MOST = 80
Grids = dict[str, dict[int, dict[str, Method]]]


def grids(search: GreedySearch) -> Grids:
    """Of each family, at each budget that it can be had for, the methods among which is chosen."""
    panel, table = Panel(list(search.evaluators.values()), search.weights), {}
    draws, scales = (rivals.noise_search(search, which) for which in (None, search.scales))
    own = ANCESTRAL | {"guidance_scale": SCALE}

    def family(name: str) -> dict[int, dict[str, Method]]:
        return table.setdefault(name, {budget: {} for budget in BUDGETS})

    def add(name: str, method: Method, *parts: Any) -> None:
        fits = FEWEST <= method.steps <= MOST and method.passes in BUDGETS
        if fits:
            family(name)[method.passes][named(name, method.n, method.steps, *parts)] = method

    for budget in BUDGETS:
        steps = budget // 2
        for scale in (SCALE, 4.5):
            add("static", Method(Static(scale), steps=steps), scale)
            add("static", Method(Static(scale), steps=steps, options=ANCESTRAL), scale, "ancestral")
        add("dynamic", Method(search, steps=steps))
        add("dynamic", Method(search, steps=steps, options=ANCESTRAL), "ancestral")
        add("noise_search", Method(draws, steps=steps, options=own), SCALE)
        add("noise_search", Method(scales, steps=steps, options=own), SCALE, "scales")
        for n in (4, 8, 16):
            add("default", rivals.halved(search, steps, n))
        for strength in (0.4, 0.8):
            add("cfg_plus_plus", Method(CFGPlusPlus(strength), steps=steps), strength)
        sampler: Any = EpsilonGreedy(draws.of_noise, SCALE, 0.4, 0.15, rounds=4, candidates=4)
        add("epsilon_greedy", Method(sampler=sampler, steps=steps))
        for iterations in (2, 4):
            sampler = Foresight(0.6, SCALE, iterations)
            add("foresight", Method(sampler=sampler, steps=steps - 3 * iterations // 2), iterations)
        for n in (2, 4, 8):
            each = steps // n
            add("best_of", Method(Static(SCALE), n, True, each, ANCESTRAL), SCALE)
            add("best_of_asked", Method(Static(SCALE), n, True, each, ANCESTRAL, asked=True), SCALE)
            add("noise_search_best_of", Method(draws, n, True, each, own), SCALE)
            steering = FeynmanKac(list(search.evaluators.values()), n, 0.5, weights=search.weights)
            add("feynman_kac", Method(steering, n, True, each, own), SCALE)
            add("zero_order", Method(sampler=ZeroOrder(panel, SCALE, 0.7, n - 1, 1), steps=each), n)
        for rungs in RUNGS:
            add("halving", Method(Static(SCALE), 4, True, steps // 2, ANCESTRAL, rungs), *rungs)
            add("noise_search_halving", Method(draws, 4, True, steps // 2, own, rungs), *rungs)
        for quota in (2, 4, 8):
            # As many first latents as make the passes come out, for as many steps as leave some.
            within = max(FEWEST, (steps - 2) // quota + 1)
            sampler = Rollover(panel, SCALE, quota, steps - quota * (within - 1))
            if sampler.initial >= 1:
                add("rollover", Method(sampler=sampler, steps=within), quota)
    return {name: {budget: grid for budget, grid in cells.items() if grid} for name, cells in table.items()}


def by_name(search: GreedySearch) -> dict[str, Method]:
    """All methods of `grids`."""
    return {k: v for budgets in grids(search).values() for grid in budgets.values() for k, v in grid.items()}


def evaluate(pipe: TinyWorldPipeline, prompts: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """Everything that ``--json`` prints."""
    started, code = time.monotonic(), commit()
    table = {k: v for k, v in grids(pipe.guidance).items() if args.only is None or k in args.only}
    validation, seeds = captions_of("train", args.validation, VALIDATION_SEED), range(args.seeds)
    tried = lambda name: folder(args.work, "validation", f"front:{name}")  # noqa: E731
    test = lambda name: folder(args.work, "test", f"front:{name}")  # noqa: E731
    cells = [(family, budget, grid) for family, budgets in table.items() for budget, grid in budgets.items()]
    passes = 0
    for _, _, grid in cells:
        if len(grid) > 1:
            passes += sum(pending(pipe, m, validation, range(1), tried(k)) for k, m in grid.items())
        passes += min(pending(pipe, m, prompts, seeds, test(k)) for k, m in grid.items())
    bar, names, told, right = progress(pipe, passes, prompts, args.workers), {}, {}, {}
    with filling(pipe, by_name, args.workers, args.compile) as fill:
        several = [name for _, _, grid in cells for name in grid if len(grid) > 1]
        fill([Cell(name, validation, range(1), tried(name)) for name in several], bar)
        for family, budget, grid in cells:
            bar.set_description(f"{family} {budget}")
            names[family, budget], told[family, budget] = next(iter(grid)), {}
            if len(grid) > 1:
                grid = {f"front:{k}": m for k, m in grid.items()}
                best, told[family, budget] = tune(pipe, grid, validation, args.work, bar)
                names[family, budget] = best.removeprefix("front:")
        fill([Cell(name, prompts, seeds, test(name)) for name in names.values()], bar)
    chosen = {}
    for family, budget, grid in cells:
        bar.set_description(f"{family} {budget}")
        name = names[family, budget]
        result = run(pipe, grid[name], prompts, seeds, test(name), bar)
        right[family, budget] = result["correct"].reshape(-1, args.seeds).astype(float)
        nfe, tries = round(float(result["nfe"].mean()), 2), told[family, budget]
        chosen[family, budget] = {"method": name, "nfe": nfe, "validation": tries}
    bar.close()
    return {
        "front": {
            family: [
                {"budget": budget} | chosen[family, budget] | measured(right, family, budget) for budget in budgets
            ]
            for family, budgets in table.items()
        },
        "ours": [family for family in table if family.startswith(rivals.OURS)],
        "budgets": list(BUDGETS),
        "prompts": len(prompts),
        "seeds": args.seeds,
        "captions tuned on": args.validation,
        "precision": "bfloat16, compiled" if args.compile else "float32",
        "hardware": hardware(),
        "commit": code,
        "minutes": round((time.monotonic() - started) / 60, 1),
    }


def measured(right: dict[tuple[str, int], Any], family: str, budget: int) -> dict[str, Any]:
    """The share that is right, and less that of the best family of the other side at this budget or below: rivals for
    what is ours, and ours for a rival; `None` where there is none."""
    ours = family.startswith(rivals.OURS)
    others = [key for key in right if key[1] <= budget and key[0].startswith(rivals.OURS) != ours]
    best = max(others, key=lambda key: right[key].mean(), default=None)
    less = best and {"of": named(*best)} | paired_bootstrap(right[family, budget] - right[best])
    return {"right": paired_bootstrap(right[family, budget]), "minus_other_side": less}


def main(argv: list[str] | None = None) -> int:
    parser = Parser("benchmark front", __doc__)
    parser.add_argument("-n", type=int, default=500, help="number of held-out prompts")
    parser.add_argument("--only", nargs="+", metavar="FAMILY", help="some of the families")
    args = parse(parser, argv)
    try:
        prompts = read_prompts(args)
        pipe = embedded.load().to(args.device)
        if unknown := set(args.only or ()) - set(known := grids(pipe.guidance)):
            raise ValueError(f"`--only` must name some of {', '.join(known)}; got {', '.join(sorted(unknown))}.")
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    embedded.prepare(pipe, args.compile)
    report = evaluate(pipe, prompts, args)
    if args.json:
        print(json.dumps(report, indent=1))
        return 0
    for family, points in report["front"].items():
        shares = "  ".join(f"{p['budget']}: {p['right']['mean']:.3f} ({p['method']})" for p in points)
        print(f"{family:22} {shares}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
