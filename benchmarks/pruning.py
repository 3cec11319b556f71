"""What pruning costs and what it saves: answers, FLOPs, time and KV cache at every budget, for every method.

    online-guidance benchmark pruning --json --quick
    online-guidance benchmark pruning --shape llava-1.5-7b --methods transprune visionzip --budgets 33 --json
    online-guidance benchmark pruning --shape clip-vit-b-16 --json
    online-guidance benchmark pruning --judge --json

A budget is the share of visual tokens left after a method's last pruning; staged methods keep more in earlier layers,
so compare methods by their FLOPs too. Questions are about combinations that training never saw, the same ones with and
without pruning, and intervals are over resampled questions. They are about two kinds of picture: scenes that captions
tell, each object a good part of the picture, and clutter, where few of the tokens matter to a question. Every time is a
ratio of runs with and without pruning in turns, with the least and the largest of them as range. ``--shape`` measures a
genuine configuration with random numbers: cost does not depend on them (answers do, and are not looked at). Language
models of that size take a GPU. ``--judge`` asks the embedded model about pictures of captions, as a judge does, and
counts how often it prefers the same of two pictures with part of its tokens.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tqdm.auto import tqdm

import tinyworld
from commands.parser import Parser
from guidance import TOKEN_PRESETS
from pipelines.prune.cache import cache_of
from pipelines.prune.pruner import prune
from tinyworld import lvlm
from training.loop import hardware

from .answers import Exam
from .provenance import commit
from .pruned_judge import measure_judge
from .pruning_shapes import ENCODERS, SHAPES, build, inputs

BUDGETS = ("100", "50", "33", "22", "11")  # percent
ROWS = 8  # prompts in a batch whose costs are counted
IMAGES = 2  # in each of them: 512 visual tokens in the embedded model
RENUMBERED = ("transprune", "fastv")  # methods whose answers are also counted with contiguous positions
NEW_TOKENS = 16  # over which decoding is timed


def usable(model: Any, batch: Any, methods: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Those of `methods`, names of presets, that can prune `model`, and why each of the others cannot."""
    names, skipped = [], {}
    for name in methods:
        try:
            with prune(model, name, keep=0.5), torch.inference_mode():
                model(**batch, use_cache=False)
            names.append(name)
        except ValueError as error:
            skipped[name] = str(error)
    return names, skipped


@torch.inference_mode()
def cache_bytes(model: Any, batch: Any) -> int:
    """Bytes of the KV cache after the prompt."""
    return lvlm.kv_bytes(cache_of(model(**batch, use_cache=True)))


def seconds(function: Callable[[], Any]) -> float:
    """Wall clock of calling `function`, all of the GPU's work included."""
    start = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


@torch.inference_mode()
def time_ratio(
    model: Any, spent: Callable[[], float], method: dict[str, Any], repeats: int, name: str
) -> dict[str, float | list[float]]:
    """What `spent` returns with pruning over what it does without, in turns: ``{name}_ratio``, the median over
    `repeats`, and ``{name}_range``, the least and the largest."""

    def pruned() -> float:
        with prune(model, **method):
            return spent()

    runs: dict[str, Callable[[], float]] = {"pruned": pruned, "whole": spent}
    ratios = []
    for repeat in range(-1, repeats):  # -1 warms up
        times = {run: runs[run]() for run in sorted(runs, reverse=bool(repeat % 2))}  # neither is always the first
        if repeat >= 0:
            ratios.append(round(times["pruned"] / times["whole"], 4))
    return {f"{name}_ratio": round(statistics.median(ratios), 4), f"{name}_range": [min(ratios), max(ratios)]}


def measure(
    folder: Path, questions: int, repeats: int, methods: Sequence[str], budgets: dict[str, float]
) -> dict[str, Any]:
    """Everything that is said of a model with weights.

    Raises:
        OSError, ValueError: `folder` holds no LLaVA with its processor.
    """
    model, processor = lvlm.load(folder)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    scenes, clutter = (Exam(model, processor, questions, clutter) for clutter in (False, True))
    images = scenes.images
    shown = [[images[(row + i) % len(images)] for i in range(IMAGES)] for row in range(min(ROWS, len(images)))]
    batch = lvlm.encode(processor, shown, scenes.texts[:ROWS]).to(model.device)
    names, skipped = usable(model, batch, methods)
    flops, cache = lvlm.prefill_flops(model, batch), cache_bytes(model, batch)

    def prefill_seconds() -> float:
        return seconds(lambda: model(**batch, use_cache=True))

    presets: dict[str, dict[str, Any]] = {name: {} for name in names}
    for name, budget in tqdm([(name, budget) for name in names for budget in budgets], mininterval=5):
        method = {"method": name, "keep": budgets[budget]}
        with prune(model, **method):
            given, given_in_clutter = scenes.answers(), clutter.answers()
            pruned_flops, pruned_cache = lvlm.prefill_flops(model, batch), cache_bytes(model, batch)
        presets[name][budget] = {
            **scenes.compare(given),
            "clutter": clutter.compare(given_in_clutter),
            "prefill_flops_ratio": round(pruned_flops / flops, 4),
            **time_ratio(model, prefill_seconds, method, repeats, "prefill_wall_clock"),
            "kv_bytes_ratio": round(pruned_cache / cache, 4),
        }
        if name in RENUMBERED:
            with prune(model, **method, positions="renumbered"):
                given, given_in_clutter = scenes.answers(), clutter.answers()
            renumbered = scenes.compare(given) | {"clutter": clutter.compare(given_in_clutter)}
            presets[name][budget]["renumbered"] = renumbered
    return {
        "model": "embedded" if folder == tinyworld.WEIGHTS / "lvlm" else str(folder),
        "questions": questions,
        "batch_size": len(batch["input_ids"]),
        "repeats": repeats,
        "whole": {
            **scenes.unpruned(),
            "clutter": clutter.unpruned(),
            "prefill_flops": flops,
            "kv_bytes": cache,
        },
        "presets": presets,
        "skipped": skipped,
    }


@torch.inference_mode()
def peak_bytes(function: Callable[[], Any]) -> int:
    """Most memory that the GPU held during `function` beyond what it held before; 0 without a GPU."""
    if not torch.cuda.is_available():
        return 0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def measure_shape(
    shape: str, repeats: int, device: str, methods: Sequence[str], budgets: dict[str, float]
) -> dict[str, Any]:
    """Everything that is said of a genuine configuration with random weights, at batch sizes 1 and 8."""
    model = build(shape, device)
    names, skipped = usable(model, inputs(model, 1), methods)
    presets: dict[str, dict[str, Any]] = {name: {budget: {} for budget in budgets} for name in names}
    for size in (1, 8):
        costs = (encoder_costs if shape in ENCODERS else model_costs)(model, inputs(model, size), repeats)
        for name, budget in tqdm([(name, budget) for name in names for budget in budgets], mininterval=5):
            presets[name][budget][f"batch_{size}"] = costs({"method": name, "keep": budgets[budget]})
    return {"shape": shape, "device": device, "repeats": repeats, "presets": presets, "skipped": skipped}


def model_costs(model: Any, batch: Any, repeats: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What a method costs a vision-language model on `batch`, as shares of what the whole model takes."""

    def prefill_seconds() -> float:
        return seconds(lambda: model(**batch, use_cache=True))

    def write(n: int = NEW_TOKENS) -> Any:  # whatever the random model wants to end with
        return model.generate(**batch, do_sample=False, max_new_tokens=n, min_new_tokens=n)

    def decode_seconds() -> float:  # of `NEW_TOKENS` tokens after the first
        first, all_ = (seconds(lambda n=n: write(n)) for n in (1, 1 + NEW_TOKENS))
        return all_ - first

    flops, cache, peak = lvlm.prefill_flops(model, batch), cache_bytes(model, batch), peak_bytes(write)

    def costs(method: dict[str, Any]) -> dict[str, Any]:
        with prune(model, **method):
            pruned = lvlm.prefill_flops(model, batch), cache_bytes(model, batch), peak_bytes(write)
        return {
            "prefill_flops_ratio": round(pruned[0] / flops, 4),
            **time_ratio(model, prefill_seconds, method, repeats, "prefill_wall_clock"),
            **time_ratio(model, decode_seconds, method, repeats, "decode_wall_clock"),
            "kv_bytes_ratio": round(pruned[1] / cache, 4),
            "peak_memory_ratio": round(pruned[2] / peak, 4) if peak else None,
            "peak_memory_bytes": pruned[2],
        }

    return costs


def encoder_costs(model: Any, batch: Any, repeats: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The same of a vision encoder on its own, which has no cache and writes nothing."""
    flops = lvlm.prefill_flops(model, batch)

    def costs(method: dict[str, Any]) -> dict[str, Any]:
        with prune(model, **method):
            pruned = lvlm.prefill_flops(model, batch)
        times = time_ratio(model, lambda: seconds(lambda: model(**batch)), method, repeats, "wall_clock")
        return {"flops_ratio": round(pruned / flops, 4), **times}

    return costs


def show(report: dict[str, Any]) -> None:
    """The report as a table."""
    for name, budgets in report["presets"].items():
        for budget, row in budgets.items():
            for size, cells in row.items() if "batch_1" in row else [("", row)]:
                numbers = [f"{key.removesuffix('_ratio')} {cells[key]}" for key in cells if key.endswith("_ratio")]
                if "clutter" in cells:
                    numbers.insert(1, f"in clutter {cells['clutter']['exact_match_ratio']}")
                print(f"{name:15} {budget:>4} % {size:8} {'  '.join(numbers)}")
    for name, reason in report.get("skipped", {}).items():
        print(f"{name:15} skipped: {reason}")


def percent(text: str) -> str:
    """A whole number of percent above 0, as of ``--budgets``."""
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to 100, got {text!r}")
    return text


def main(argv: list[str] | None = None) -> int:
    parser = Parser("benchmark pruning", __doc__)
    parser.add_argument("--quick", action="store_true", help="fewer questions and repeats, of a shape fewer budgets")
    parser.add_argument(
        "-n", type=int, help="held-out questions about either kind of picture (default 600, with --quick 60)"
    )
    parser.add_argument("--repeats", type=int, help="of every timing (default 7, with --quick 3)")
    parser.add_argument("--model", type=Path, help="folder of a LLaVA with its processor; default: the embedded model")
    parser.add_argument("--shape", choices=tuple(SHAPES), help="a genuine configuration with random weights")
    parser.add_argument("--methods", nargs="+", choices=tuple(TOKEN_PRESETS), help="presets to measure; default: all")
    parser.add_argument(
        "--budgets", nargs="+", type=percent, help=f"percent left; default: {' '.join(BUDGETS)}, see --quick"
    )
    parser.add_argument("--judge", action="store_true", help="the embedded model as a judge of n / 10 pairs")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    args = parser.parse_args(argv)
    transformers.utils.logging.disable_progress_bar()
    repeats = (3 if args.quick else 7) if args.repeats is None else args.repeats
    questions = (60 if args.quick else 600) if args.n is None else args.n
    folder = args.model or tinyworld.WEIGHTS / "lvlm"
    methods = args.methods or tuple(TOKEN_PRESETS)
    names = args.budgets or (("33", "11") if args.quick and args.shape else BUDGETS)
    budgets = {name: int(name) / 100 for name in names}
    try:
        if min(repeats, questions) < 1:
            raise ValueError(f"`n` and `repeats` must be at least 1, got {questions} and {repeats}.")
        if args.shape and args.model:
            raise ValueError("`shape` has random weights: give it or `model`, not both.")
        if args.judge and (args.shape or args.model):
            raise ValueError("`judge` is the embedded model: give it without `shape` and `model`.")
        if args.shape and args.shape not in ENCODERS and not torch.cuda.is_available():
            raise ValueError(f"`shape` {args.shape} takes a CUDA GPU, and there is none.")
        if not args.shape and not (folder / "config.json").is_file():
            what = (
                "is no model folder" if args.model else "should hold the embedded model, which is not there: give one"
            )
            raise ValueError(f"`model` {str(folder)!r} {what}; there is no config.json in it.")
        if args.judge:
            report = measure_judge(max(1, questions // 10), repeats)
        elif args.shape:
            device = "cuda" if torch.cuda.is_available() else "cpu"
            report = measure_shape(args.shape, repeats, device, methods, budgets)
        else:
            report = measure(folder, questions, repeats, methods, budgets)
    except (OSError, ValueError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    report |= {"hardware": hardware(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    report |= {"commit": commit()}
    if args.json:
        print(json.dumps(report, indent=1))
    else:
        show(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
