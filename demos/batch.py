"""Pictures of many prompts by several methods from the same noise, to look at and to vote on.

    online-guidance batch prompts.txt --methods static:7.5 dynamic interval:5 --seeds 0:4 --out study
    online-guidance batch --study study.yaml
    online-guidance batch prompts.csv --methods static:4.5 dynamic --out study --ray auto
    accelerate launch -m demos.batch prompts.csv --methods static:4.5 dynamic --out study

Prompts come from a .txt (one a line), .csv, .tsv, .jsonl or .parquet file, or a data set of the hub (``owner/name`` or
``owner/name:split``). The same command again goes on where the last one stopped, or was stopped; it may name more
prompts, methods and seeds.
"""

import argparse
import sqlite3
import sys
from pathlib import Path
from typing import Any

from commands import arguments
from commands.parser import Parser, stop
from commands.prompts import read

from . import gallery, generate
from .cluster import Cluster
from .manifest import Manifest, present
from .painting import keep, load, painted, remaining, schedules, settings, warnings_of, while_there_is_room

MOST = 10_000_000  # pictures of a study: what is planned is held in memory


def from_yaml(parser: Parser, path: str) -> list[str]:
    """The arguments that a YAML file gives: a key is an option's name, ``prompts`` the prompts."""
    import yaml

    try:
        # The base loader makes strings of all values: the standard one reads 1:30 as ninety.
        study = yaml.load(Path(path).read_text(encoding="utf-8-sig"), Loader=yaml.BaseLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        parser.error(f"argument --study: {path!r} cannot be read as YAML: {error}")
    flat = isinstance(study, dict) and all(
        isinstance(value, str) or (isinstance(value, list) and all(isinstance(part, str) for part in value))
        for value in study.values()
    )
    if not flat or "study" in study:
        parser.error(f"argument --study: {path!r} must map the names of options to values or lists of values")
    prompts = study.pop("prompts", None)
    options = [f"--{key}={value}" for key, value in study.items() if isinstance(value, str)]
    lists = [part for key, value in study.items() if isinstance(value, list) for part in (f"--{key}", *value)]
    if isinstance(prompts, list):
        parser.error(f"argument --study: prompts must be one file or data set, got {prompts!r}")
    return ([prompts] if prompts else []) + options + lists


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments, with everything checked that can be without loading anything heavy."""
    parser = Parser("batch", __doc__)
    parser.add_argument("prompts", nargs="?", help="file or data set")
    parser.add_argument("--study", metavar="FILE", help="YAML of these arguments; the command line goes first")
    parser.add_argument("--methods", nargs="+", type=arguments.method, help="dynamic, static:SCALE, …")
    parser.add_argument(
        "--seeds", nargs="+", type=arguments.seeds, default=[range(1)], help="a seed or FIRST:STOP; default 0"
    )
    parser.add_argument("--out", type=Path, metavar="STUDY", help="folder")
    parser.add_argument(
        "--limit-disk", type=arguments.size, metavar="SIZE", help="stop before the pictures take more, as 20GB"
    )
    parser.add_argument("--ray", metavar="ADDRESS", help="a Ray cluster that makes them, or local; needs [ray]")
    generate.add_model_arguments(parser)
    args = parser.parse_args(argv)
    if args.study is not None:
        parser.set_defaults(**vars(parser.parse_args(from_yaml(parser, args.study))))
        args = parser.parse_args(argv)
    args.error = parser.error
    for name in ("prompts", "methods", "out"):
        if not getattr(args, name):
            parser.error(f"argument {'' if name == 'prompts' else '--'}{name}: is needed")
    args.methods = list(dict.fromkeys(args.methods))
    generate.check_model(args, searched=any(method.split(":")[0] in arguments.SEARCHES for method in args.methods))
    try:
        args.prompts = read(args.prompts)
    except ValueError as error:
        parser.error(f"argument prompts: {error}")
    if (count := len(args.prompts) * len(args.methods) * sum(map(len, args.seeds))) > MOST:
        parser.error(f"argument --seeds: with these prompts and methods they make {count:,} pictures, at most {MOST:,}")
    args.seeds = list(dict.fromkeys(seed for part in args.seeds for seed in part))
    return args


def place() -> tuple[int, int, int, int]:
    """This process and the number of processes, its number on its machine, and its machine: from what ``accelerate
    launch`` says. No process waits for another, so that one that dies stops none."""
    from accelerate.utils import get_int_from_env

    rank = get_int_from_env(["RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK"], 0)
    world = get_int_from_env(["WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE"], 1)
    local = get_int_from_env(["LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK"], 0)
    return rank, world, local, get_int_from_env(["GROUP_RANK"], 0)


def refuse(args: argparse.Namespace, differing: dict[str, tuple[Any, Any]]) -> None:
    """Ends where the study was made with other settings, `differing` as `Manifest.settle` returns them."""
    for key, (its, ours) in differing.items():
        args.error(f"argument --{key}: the study in {str(args.out)!r} was made with {its}, not {ours}")


def is_made(args: argparse.Namespace, manifest: Manifest) -> bool:
    """Whether the study's settings are what the arguments ask for, as far as can be told without loading anything."""
    asked = settings(args, None) | {key: getattr(args, key) for key in ("scales", "evaluators") if getattr(args, key)}
    kept = manifest.settings()
    return all(kept.get(key) == (list(value) if key == "evaluators" else value) for key, value in asked.items())


def main(argv: list[str] | None = None) -> None:
    """Exits with one line on stderr, and code 2 where an argument is wrong or the disk is full, 130 after Ctrl-C."""
    args = parse(argv)
    args.rank, args.world, local, machine = place()
    if args.ray and args.world > 1:
        args.error("argument --ray: hands the work out itself, and is started as one process")

    import torch
    from filelock import FileLock, Timeout

    if args.device is None and args.world > 1 and torch.cuda.is_available():
        args.device = f"cuda:{local}"
    generate.check_late(args)
    fixed = schedules(args)
    generate.check_out(args)
    lock = FileLock(args.out / f".batch-{args.rank}.lock")  # falls with the process, however that dies
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        args.error(f"argument --out: another batch is at work in {str(args.out)!r}")
    total, done = len(args.prompts) * len(args.methods) * len(args.seeds), set()
    try:
        with held, Manifest(args.out, part=machine) as manifest:
            if machine == 0:
                manifest.collect()
            done = present(args.out)
            work(args, fixed, manifest, machine, done)
    except KeyboardInterrupt:
        stop(f"stopped after {progress(args, done)} of {total} pictures; the same command goes on")
    except (OSError, sqlite3.OperationalError) as error:  # a full disk
        args.error(
            f"argument --out: {error}, after {progress(args, done)} of {total} pictures; the same command goes on"
        )


def progress(args: argparse.Namespace, done: set[tuple[str, str, int]]) -> int:
    """How many of the pictures that are asked for are `done`."""
    prompts, methods, seeds = {prompt.text for prompt in args.prompts}, set(args.methods), set(args.seeds)
    return sum(prompt in prompts and method in methods and seed in seeds for prompt, method, seed in done)


def work(
    args: argparse.Namespace,
    fixed: dict[str, Any],
    manifest: Manifest,
    machine: int,
    done: set[tuple[str, str, int]],
) -> None:
    """What `main` does once the folder is its own."""
    refuse(args, manifest.differing(settings(args, None)))
    batches = remaining(args, done)
    if batches or not is_made(args, manifest):
        texts = [prompt.text for prompt in args.prompts]
        try:
            if args.ray:
                cluster = Cluster(args, fixed)
                found, told = cluster.describe(texts)
            else:
                pipe, guidances, search = load(args, fixed)
                found, told = settings(args, search), warnings_of(pipe, search, texts)
        except (OSError, ValueError) as error:
            args.error(f"argument --model, --evaluators: cannot be loaded: {error}")
        refuse(args, manifest.settle(found))
        if args.rank == 0:
            print(*told, sep="\n", end="\n" * bool(told), file=sys.stderr)
    manifest.add(args.prompts)
    try:
        if batches:
            total, allowed = sum(len(jobs) for _, jobs in batches), while_there_is_room(args, batches)
            common = manifest.settings()
            finished = cluster.painted(allowed, common) if args.ray else painted(args, pipe, guidances, allowed, common)
            keep(args, manifest, finished, total, done)
    finally:  # after --limit-disk and Ctrl-C too
        if machine == 0:
            print(gallery.write(args.out))


if __name__ == "__main__":
    main()
