"""Judges of pictures on the embedded world, whose truth is known: what they add to evaluators of latents, and at what
cost.

    online-guidance benchmark judges --json -n 200
    online-guidance benchmark judges -n 50 --only static best_of_2:vqa

The embedded vision-language model answers questions about a preview (`tinyworld.asking`), whole or with a third of its
visual tokens, and rapidocr reads it. They choose the better of two pictures of half the steps, one of four that are
begun, or the scale at every fifth step; the same by evaluators of latents, at equal passes of the denoiser, stands
beside them. The judge that counts (`tinyworld.judge`, classical vision) never takes part. Everything samples with DDIM
that draws noise, at the scale that was best for it (docs/results.md), from the same noise.
"""

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import tinyworld
from commands.arguments import positive
from commands.parser import Parser
from evaluators.pixel.ocr import OCRScore
from evaluators.pixel.vqa import VQAScore
from guidance import GreedySearch, NoiseSearch, Static
from pipelines import TinyWorldPipeline
from pipelines.prune import prune
from pipelines.successive_halving import HALVING, steps_within
from tinyworld.asking import questions_about
from tinyworld.captions import parse_caption
from training.loop import hardware

from . import embedded
from .metrics import (
    CATEGORIES,
    Features,
    by_category,
    diversity_where_right,
    paired_bootstrap,
    real_images,
    win_rate,
)
from .pictures import make
from .provenance import commit
from .quality import held_out_prompts
from .rivals import ANCESTRAL, NOISES, STEPS, Method, noise_search

SCALE = 3.0  # the best static one of a sampler that draws noise
KEEP = 1 / 3  # of the visual tokens
BATCH = 32


def judges() -> dict[str, Any]:
    """The judges of pictures, by name."""
    vqa = VQAScore.from_pretrained(tinyworld.WEIGHTS / "lvlm", questions_about, read_once=True)
    return {"vqa": vqa, "ocr": OCRScore()}


@dataclass(frozen=True)
class Row:
    """A method, the evaluators that keep the best of its pictures, the share of the visual tokens that the
    vision-language model sees (`None` for all), and who chooses among finished ones in their place."""

    method: Method
    evaluators: list[Any]
    keep: float | None = None
    final: list[Any] | None = None


def methods(pipe: TinyWorldPipeline, made: dict[str, Any]) -> dict[str, Row]:
    """What is compared, by name."""
    search: GreedySearch = pipe.guidance
    panel = list(search.evaluators.values())
    own = ANCESTRAL | {"guidance_scale": SCALE}
    half = {"n": 2, "best": True, "steps": STEPS // 2, "options": ANCESTRAL}
    table = {
        "static": Row(Method(Static(SCALE), options=ANCESTRAL), panel),
        "noise_search": Row(Method(noise_search(search), options=own), panel),
    }
    for label, evaluators in (("panel", panel), ("vqa", [made["vqa"]]), ("panel+vqa", [*panel, made["vqa"]])):
        weights = search.weights if label != "vqa" else None
        table[f"search:{label}"] = Row(Method(GreedySearch(evaluators, search.scales, weights), options=own), panel)
        if label != "vqa":  # draws of the noise are told apart by those that read latents alone, scales by all
            both = NoiseSearch(evaluators, search.scales, NOISES, weights)
            table[f"noise_search_scales:{label}"] = Row(Method(both, options=own), panel)
    for label, evaluators, keep in (
        ("panel", panel, None),
        ("vqa", [made["vqa"]], None),
        ("vqa_pruned", [made["vqa"]], KEEP),
        ("ocr", [made["ocr"]], None),
        ("panel+vqa", [*panel, made["vqa"]], None),
    ):
        table[f"best_of_2:{label}"] = Row(Method(Static(SCALE), **half), evaluators, keep)
    for label, evaluators in (("panel", panel), ("vqa", [made["vqa"]])):
        kept = Method(noise_search(search), options=own, n=2, best=True, steps=STEPS // 2)
        table[f"noise_search_best_of_2:{label}"] = Row(kept, evaluators)
    each = {**HALVING, "best": True, "steps": steps_within(**HALVING, asked=STEPS)}
    scales = NoiseSearch(panel, search.scales, NOISES, search.weights)
    vqa: list[Any] = [made["vqa"]]
    for label, *who in (
        ("panel", panel),
        ("vqa", vqa),
        ("vqa_pruned", vqa, KEEP),
        ("panel_then_vqa_pruned", panel, KEEP, vqa),
    ):
        for name, guidance in (
            ("halving", Static(SCALE)),
            ("noise_search_halving", noise_search(search)),
            ("noise_search_scales_halving", scales),
        ):
            table[f"{name}_{HALVING['n']}:{label}"] = Row(Method(guidance, options=own, **each), *who)
        # Twice the passes.
        whole, long = half | {"steps": STEPS}, each | {"steps": steps_within(**HALVING, asked=2 * STEPS)}
        if "then" not in label:
            table[f"best_of_2_whole:{label}"] = Row(Method(Static(SCALE), **whole), *who)
        name = f"noise_search_scales_halving_{HALVING['n']}_long:{label}"
        table[name] = Row(Method(scales, options=own, **long), *who)
    return table


def measure(
    prompts: list[str],
    seeds: int,
    only: list[str] | None,
    kept: dict[str, Any],
    say: Callable[[str], None],
    keep_report: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """The report, told to `keep_report` as it grows; methods in `kept`, an earlier one of the same prompts and `seeds`,
    are taken from there.

    Raises:
        ValueError: `only` names a method that there is not, or `kept` is of other prompts.
    """
    code = commit()  # which may be another one when it is done
    if kept and (kept["prompts"], kept.get("seeds", 1), kept["steps"]) != (len(prompts), seeds, STEPS):
        held = f"{kept['prompts']} captions and {kept.get('seeds', 1)} seeds"
        raise ValueError(f"`out` holds a report of {held}, this is one of {len(prompts)} and {seeds}.")
    pipe = embedded.load()
    pipe.preview = "vae"  # this one is as quick as a tiny one
    made = judges()
    table = methods(pipe, made)
    if unknown := set(only or ()) - set(table):
        raise ValueError(f"`only` must name some of {', '.join(table)}; got {', '.join(sorted(unknown))}.")
    drawn = [(text, seed * 1_000_003 + i) for i, text in enumerate(prompts) for seed in range(seeds)]
    features = Features(real_images(max(500, len(drawn))))
    categories = [parse_caption(text).category for text, _ in drawn]
    about = {"commit": code, "hardware": hardware(), "prompts": len(prompts), "seeds": seeds, "steps": STEPS}
    rows = dict(kept.get("methods", {}))
    for name, row in table.items():
        if name in rows or (only is not None and name not in ("static", *only)):
            continue
        start, parts = time.monotonic(), []
        whole, batch = row.keep is None, BATCH // row.method.n
        with contextlib.nullcontext() if whole else prune(made["vqa"].model, "visionzip", keep=row.keep):
            for first in range(0, len(drawn), batch):
                parts.append(make(pipe, row.method, drawn[first : first + batch], row.evaluators, row.final))
        found = {key: np.concatenate([part[key] for part in parts]) for key in ("correct", "score", "images", "nfe")}
        rows[name] = {
            "accuracy": round(float(found["correct"].mean()), 4),
            "by_category": by_category(found["correct"], categories, CATEGORIES),
            "frechet_distance": features.frechet_distance(found["images"]),
            "nfe": float(found["nfe"].mean()),
            "seconds_per_image": round((time.monotonic() - start) / len(drawn), 3),
            "right": "".join(map(str, found["correct"].tolist())),
            "score": [round(score, 4) for score in found["score"].tolist()],
        }
        if seeds > 1:
            rows[name]["distance"] = features.distances(found["images"], seeds).round(4).tolist()
        say(f"{name}: {rows[name]['accuracy']:.3f} right, {rows[name]['seconds_per_image']} s a picture")
        keep_report(about | {"methods": rows})
    compare(rows, seeds)
    keep_report(about | {"methods": rows})
    return about | {"methods": rows}


def compare(rows: dict[str, dict[str, Any]], seeds: int = 1) -> None:
    """Adds to each row what it is right more often than static guidance, than the same method by the panel, and, of
    twice the passes, than whole pictures of which the same judge keeps one; how often the judge that counts scores it
    above static guidance; and with several seeds how much two right pictures of a prompt differ, beside others'."""
    right = {
        name: np.array([int(digit) for digit in row["right"]], float).reshape(-1, seeds) for name, row in rows.items()
    }
    scores = {name: np.array(row["score"]).reshape(-1, seeds) for name, row in rows.items() if "score" in row}
    for name, row in rows.items():
        row["minus_static"] = paired_bootstrap(right[name] - right["static"])
        if name in scores and "static" in scores:  # which a report of before has not
            row["win_rate"] = win_rate(scores[name], scores["static"])
        method, _, judge = name.partition(":")
        rival = f"{method}:panel"
        if method.endswith("_long"):
            rival = f"best_of_2_whole:{judge.removeprefix('panel_then_')}"
        if rival in rows and rival != name:
            row["minus_rival"] = {"of": rival} | paired_bootstrap(right[name] - right[rival])
        if "distance" in row:
            row["diversity_where_right"] = {
                other: where_both_are_right(rows, right, name, other)
                for other in rows
                if other != name and other.startswith(("static", "best_of"))
            }


def where_both_are_right(
    rows: dict[str, dict[str, Any]], right: dict[str, np.ndarray], name: str, other: str
) -> dict[str, Any]:
    """The diversity of both on prompts all of whose pictures are right by both, and how many they are."""
    own, theirs = ({"correct": right[n], "distance": np.array(rows[n]["distance"])} for n in (name, other))
    found = diversity_where_right(own, theirs, own["correct"].shape[1])
    return {"own": found["mean"], "other": found["best_static"], "prompts": found["prompts"], "minus": found["minus"]}


def main(argv: list[str] | None = None) -> int:
    parser = Parser("benchmark judges", __doc__)
    parser.add_argument("-n", type=positive, default=100, help="held-out captions, the categories in turn")
    parser.add_argument("--seeds", type=positive, default=1, help="pictures of each; with two it tells how they differ")
    parser.add_argument("--only", nargs="+", metavar="METHOD", help="besides static; default: all")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument(
        "--out", type=Path, help="write the JSON there, method by method; those that it holds already are kept"
    )
    args: argparse.Namespace = parser.parse_args(argv)
    kept = json.loads(args.out.read_text()) if args.out and args.out.is_file() else {}

    def keep_report(report: dict[str, Any]) -> None:
        if args.out:
            args.out.write_text(json.dumps(report, indent=1) + "\n")

    try:
        report = measure(
            held_out_prompts(args.n),
            args.seeds,
            args.only,
            kept,
            lambda text: print(text, file=sys.stderr, flush=True),
            keep_report,
        )
    except ValueError as error:
        parser.error(str(error))
    lines = (f"{name}: {row}" for name, row in report["methods"].items())
    print(json.dumps(report, indent=1) if args.json else "\n".join(lines))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
