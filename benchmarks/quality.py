"""How right are the pictures? Dynamic guidance against its rivals, on the same prompts and the same noise.

    online-guidance benchmark quality --json --compile --work runs/quality > results.json
    online-guidance benchmark quality --json --quick --prompts prompts.txt

The judge (`tinyworld.judge`, classical vision) and the Fréchet distance's classifier never take part in guidance.
Static scales are reported in full and the best of them is chosen *on the prompts reported*, which favours the baseline.
Every other family (`benchmarks.rivals`) is tuned on captions of the training split, and the best of it there is
reported; with ``--quick`` there are only the schedules, untuned. ``clip_score`` is by the evaluator that guides, of the
finished picture: it tells how far the search got what it looked for.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tinyworld
from commands.parser import Parser
from evaluators import EVALUATORS, Context, LatentCLIP, load_evaluator
from guidance import GreedySearch
from pipelines import TinyWorldPipeline
from tinyworld.captions import CATEGORIES, caption, parse_caption, sample_spec
from tinyworld.recipes.data import captions_of
from training.loop import hardware

from . import embedded, rivals
from .metrics import (
    Features,
    best_per_category,
    by_category,
    diversity_where_right,
    hindsight,
    mean,
    paired_bootstrap,
    per_step,
    real_images,
    win_rate,
)
from .pictures import folder, pending, run, settings
from .progress import progress
from .provenance import commit
from .rivals import STEPS, Method
from .workers import Cell, filling

VALIDATION_SEED = 1  # 0 is that of the calibration


def held_out_prompts(n: int, seed: int = 0) -> list[str]:
    """`n` captions of combinations that training never saw, the categories in turn."""
    rng = np.random.default_rng((seed, 20))
    return [caption(sample_spec(rng, "test", CATEGORIES[i % len(CATEGORIES)]), rng) for i in range(n)]


@torch.no_grad()
def clip_scores(clip: LatentCLIP, latents: np.ndarray, prompts: Sequence[str], seeds: int) -> np.ndarray:
    """What `clip` says of finished pictures ``(images, 4, 16, 16)``, in prompt-major order."""
    texts = np.repeat(prompts, seeds)
    return torch.cat(
        [
            clip(torch.from_numpy(latents[i : i + 256])[:, None], Context(texts[i : i + 256].tolist(), 0.0, 0.0))[:, 0]
            for i in range(0, len(latents), 256)
        ]
    ).numpy()


def tune(
    pipe: TinyWorldPipeline, grid: dict[str, Method], prompts: Sequence[str], work: Path | None, bar: Any = None
) -> tuple[str, dict[str, dict[str, float]]]:
    """The name of the method that is right most often, the judge's score deciding between equals, and all of them."""
    table = {}
    for name, method in grid.items():
        result = run(pipe, method, prompts, range(1), folder(work, "validation", name), bar)
        table[name] = {
            key: round(float(result[k].mean()), 4) for key, k in (("accuracy", "correct"), ("score", "score"))
        }
    return max(table, key=lambda name: (table[name]["accuracy"], table[name]["score"])), table


def summary(
    name: str,
    results: dict[str, dict[str, np.ndarray]],
    against: dict[str, str | None],
    categories: Sequence[str],
    seeds: int,
    features: Features,
) -> dict[str, Any]:
    """What is reported of the method called `name`. `against` are the names of those that it is compared with, as of
    `comparisons`; for each, ``minus_…`` has the difference in accuracy."""
    result, best = results[name], results[against["best_static"]]
    paired = lambda r, key: r[key].reshape(-1, seeds).astype(float)  # noqa: E731
    right = paired(result, "correct")
    others = {other for other in against.values() if other}  # several columns may be compared with the same
    less = {other: paired_bootstrap(right - paired(results[other], "correct")) for other in others}
    return {
        "accuracy": round(float(result["correct"].mean()), 4),
        "categories": by_category(result["correct"], categories, CATEGORIES),
        "score": round(float(result["score"].mean()), 4),
        **{f"minus_{key}": other and {"of": other} | less[other] for key, other in against.items()},
        "win_rate": win_rate(paired(result, "score"), paired(best, "score")),
        "frechet_distance": features.frechet_distance(result["images"]),
        "diversity": mean(result["distance"]),
        "diversity_where_right": diversity_where_right(result, best, seeds),
        "clip_score": round(float(result["clip"].mean()), 3),
        "nfe": round(float(result["nfe"].mean()), 2),
        "scale": {
            "mean": round(float(result["scale"].mean()), 3),
            "per_step": result["scale"].mean(0).round(2).tolist(),
            "per_category": per_step(result["scale"], categories, CATEGORIES),
        },
    }


def comparisons(
    results: dict[str, dict[str, np.ndarray]], methods: dict[str, Method], static: Sequence[str]
) -> dict[str, dict[str, str | None]]:
    """Of every method the names of: the ``best_static`` scale; the ``best_of_sampler``, the best static scale with a
    sampler that draws noise, or draws none, as the method's; the ``best_rival`` of no more passes (`None` for a rival,
    or where there is none); and of an ablation the search ``unchanged``."""
    eta = lambda name: methods[name].options.get("eta", 0.0)  # noqa: E731
    passes = {name: result["nfe"].mean() for name, result in results.items()}

    def top(names: Iterable[str]) -> str | None:
        return max(names, key=lambda name: results[name]["correct"].mean(), default=None)

    ours = [name for name in results if name.startswith((*rivals.OURS, "ablation:"))]
    others = [name for name in results if name not in ours]
    best, table = top(static), {}
    for name in results:
        table[name] = {
            "best_static": best,
            "best_of_sampler": top(o for o in static if eta(o) == eta(name)),
            "best_rival": top(o for o in others if passes[o] <= passes[name]) if name in ours else None,
        }
        if name.startswith("ablation:"):
            table[name]["unchanged"] = "ablation:noise" if name.startswith("ablation:noise") else "dynamic"
    return table


def by_name(search: GreedySearch) -> dict[str, Method]:
    """All methods, those of ``--quick`` as well."""
    tables = [*rivals.families(search).values(), rivals.quick_rivals(), rivals.ablations(search)]
    return {k: v for table in tables for k, v in table.items()} | rivals.static(False) | rivals.ours(search, False)


def evaluate(pipe: TinyWorldPipeline, prompts: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """Everything that ``--json`` prints."""
    started, code = time.monotonic(), commit()  # which may be another one when it is done
    search, validation = pipe.guidance, captions_of("train", args.validation, VALIDATION_SEED)
    wanted = lambda name: args.only is None or name.split(":")[0] in args.only  # noqa: E731
    methods, tuned = rivals.static(args.quick), {}
    grids = {} if args.quick else {k: v for k, v in rivals.families(search).items() if wanted(k)}
    if args.quick:
        methods |= rivals.quick_rivals()
    ours = {k: v for k, v in rivals.ours(search, args.quick).items() if k.split(":")[0] == "dynamic" or wanted(k)}
    if args.ablations is not None:
        table = rivals.ablations(search)
        ours |= {f"ablation:{name}": table[f"ablation:{name}"] for name in args.ablations} or table
    seeds, test = range(args.seeds), lambda name: folder(args.work, "test", name)
    tried = lambda name: folder(args.work, "validation", name)  # noqa: E731
    passes = sum(
        pending(pipe, method, validation, range(1), tried(name))
        for grid in grids.values()
        for name, method in grid.items()
    )
    passes += sum(pending(pipe, method, prompts, seeds, test(k)) for k, method in (methods | ours).items())
    # Which of a grid will be chosen is not known yet: as if it were the one of which most is there.
    passes += sum(min(pending(pipe, m, prompts, seeds, test(k)) for k, m in grid.items()) for grid in grids.values())
    bar = progress(pipe, passes, prompts, args.workers)
    with filling(pipe, by_name, args.workers, args.compile) as fill:
        names = [name for grid in grids.values() for name in grid]
        asked_for = [Cell(name, prompts, seeds, test(name)) for name in methods | ours]
        fill([Cell(name, validation, range(1), tried(name)) for name in names] + asked_for, bar)
        for name, grid in grids.items():
            bar.set_description(f"tuning {name}")
            chosen, tuned[name] = tune(pipe, grid, validation, args.work, bar)
            methods[chosen] = grid[chosen]
        fill([Cell(name, prompts, seeds, test(name)) for name in methods], bar)
    methods |= ours
    results, clip = {}, load_evaluator("clip", tinyworld.WEIGHTS / "clip")
    for name, method in methods.items():
        bar.set_description(name)
        results[name] = run(pipe, method, prompts, seeds, test(name), bar)
        results[name]["clip"] = clip_scores(clip, results[name]["latents"], prompts, args.seeds)
    bar.close()
    categories = np.repeat([parse_caption(p).category for p in prompts], args.seeds)
    features = Features(real_images(600 if args.quick else 2000))
    for result in results.values():
        result["distance"] = features.distances(result["images"], args.seeds)
    static = {name: results[name]["correct"] for name in rivals.static(args.quick)}
    against = comparisons(results, methods, list(static))
    table = {name: summary(name, results, against[name], categories, args.seeds, features) for name in results}
    deterministic = [name for name in static if not methods[name].options]
    return {
        "methods": {name: row for name, row in table.items() if not name.startswith("ablation:")},
        "ablations": {name: row for name, row in table.items() if name.startswith("ablation:")},
        "best_static": against["dynamic"]["best_static"],
        "best_static_per_category": best_per_category(static, categories, CATEGORIES),
        "best_static_in_hindsight": hindsight(
            *(np.stack([results[name][key] for name in deterministic]) for key in ("correct", "clip")), args.seeds
        ),
        "dynamic_minus_best_static": table["dynamic"]["minus_best_static"],
        "validation": tuned,
        "prompts": len(prompts),
        "seeds": args.seeds,
        "steps": STEPS,
        "timesteps": results["dynamic"]["timestep"][0].tolist(),
        "search": settings(pipe),
        "calibration": {
            name: cls.load_config(tinyworld.WEIGHTS / name)["calibration"]
            for name, cls in EVALUATORS.items()
            if (tinyworld.WEIGHTS / name).is_dir()
        },
        "precision": "bfloat16, compiled" if args.compile else "float32",
        "hardware": hardware(),
        "commit": code,
        "minutes": round((time.monotonic() - started) / 60, 1),
    }


def read_prompts(args: argparse.Namespace) -> list[str]:
    """The captions to evaluate; ValueError where they cannot be, or another argument is wrong."""
    for name in ("n", "seeds", "validation"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ValueError(f"`{name}` must be at least 1, got {getattr(args, name)}.")
    if args.workers < 0 or (args.workers and args.work is None):
        raise ValueError(f"`--workers` must be 0, or processes that share the folder of `--work`; got {args.workers}.")
    if args.prompts is None:
        return held_out_prompts(args.n or (60 if args.quick else 300))
    if not args.prompts.is_file():
        raise ValueError(f"`--prompts` must be a text file, got {str(args.prompts)!r}.")
    prompts = [line.strip() for line in args.prompts.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not prompts:
        raise ValueError(f"`--prompts` {str(args.prompts)!r} holds no captions.")
    for prompt in prompts:
        parse_caption(prompt)
    return prompts


def check_families(names: Sequence[str] | None, search: GreedySearch) -> None:
    """ValueError where ``--only`` names what there is not."""
    known = {*rivals.families(search), *(name.split(":")[0] for name in rivals.ours(search, False))}
    if unknown := set(names or ()) - known:
        raise ValueError(f"`--only` must name some of {', '.join(sorted(known))}; got {', '.join(sorted(unknown))}.")


def check_ablations(names: Sequence[str] | None, search: GreedySearch) -> None:
    """ValueError where ``--ablations`` names what there is not."""
    known = [name.removeprefix("ablation:") for name in rivals.ablations(search)]
    if unknown := set(names or ()) - set(known):
        raise ValueError(f"`--ablations` must name some of {', '.join(known)}; got {', '.join(sorted(unknown))}.")


def parse(parser: Parser, argv: list[str] | None) -> argparse.Namespace:
    """The arguments of `parser` and those of every benchmark of pictures that tunes what it compares."""
    parser.add_argument("--prompts", type=Path, help="captions to evaluate instead of the held-out ones, one a line")
    parser.add_argument("--seeds", type=int, default=1, help="images per prompt")
    parser.add_argument("--validation", type=int, default=200, help="captions that everything else is tuned on")
    parser.add_argument("--work", type=Path, help="folder that keeps what is finished; a second run goes on from there")
    parser.add_argument("--workers", type=int, default=0, help="processes that make pictures at once, in --work")
    parser.add_argument("--compile", action="store_true", help="bfloat16 and torch.compile, in half the time")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    args = parser.parse_args(argv)
    args.work = folder(args.work, "compiled") if args.compile else args.work
    return args


def main(argv: list[str] | None = None) -> int:
    parser = Parser("benchmark quality", __doc__)
    parser.add_argument("--quick", action="store_true", help="fewer prompts and methods; within 8 minutes on 2 cores")
    parser.add_argument("-n", type=int, help="number of held-out prompts (default 300, with --quick 60)")
    parser.add_argument("--ablations", nargs="*", metavar="NAME", help="the search with one thing changed; default all")
    parser.add_argument("--only", nargs="+", metavar="FAMILY", help="besides dynamic and static: fdg, budget, …")
    args = parse(parser, argv)
    try:
        prompts = read_prompts(args)
        pipe = embedded.load().to(args.device)
        check_families(args.only, pipe.guidance)
        check_ablations(args.ablations, pipe.guidance)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    embedded.prepare(pipe, args.compile)
    report = evaluate(pipe, prompts, args)
    if args.json:
        print(json.dumps(report, indent=1))
        return 0
    for name, row in sorted((report["methods"] | report["ablations"]).items(), key=lambda item: -item[1]["accuracy"]):
        figures = f"accuracy {row['accuracy']:.3f}  Fréchet {row['frechet_distance']:8.3f}  NFE {row['nfe']:5.1f}"
        print(f"{name:28} {figures}  {row['categories']}")
    print(f"dynamic - {report['best_static']}: {report['dynamic_minus_best_static']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
