"""Pictures of many prompts by several methods from the same noise, to look at and to vote on.

    online-guidance batch prompts.txt --methods static:7.5 dynamic interval:5 --seeds 0:4 --out study
    online-guidance batch --study study.yaml
    accelerate launch -m demos.batch prompts.csv --methods static:4.5 dynamic --out study

Prompts come from a .txt (one a line), .csv, .tsv, .jsonl or .parquet file, or a data set of the hub (``owner/name`` or
``owner/name:split``). The same command again goes on where the last one stopped, or was stopped; it may name more
prompts, methods and seeds.
"""

import argparse
import hashlib
import math
import shutil
import sqlite3
import sys
from pathlib import Path
from typing import Any

from commands import arguments
from commands.parser import Parser, stop
from commands.prompts import read

from . import cut, gallery, generate, panel
from .manifest import Image, Manifest, pictures, present, publish

Job = tuple[str, int]  # prompt and seed
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


def plan(jobs: list[Job], methods: list[str], batch_size: int, rank: int, world: int) -> list[tuple[str, list[Job]]]:
    """The batches of one process: every job by every method, all methods of the same jobs one after another.

    What falls to a process depends on nothing that has happened, so that no two ever do the same.
    """
    chunks = [jobs[first : first + batch_size] for first in range(0, len(jobs), batch_size)]
    return [
        (method, chunk)
        for number, chunk in enumerate(chunks)
        for column, method in enumerate(methods)
        if (number + column) % world == rank  # each process gets its share of the slow methods
    ]


def schedules(args: argparse.Namespace) -> dict[str, Any]:
    """The fixed schedules among the methods."""
    from guidance import SCHEDULES

    found = {}
    for method in args.methods:
        name, *values = method.split(":")
        try:
            if name in arguments.SCHEDULES:
                found[method] = SCHEDULES[name](*map(float, values))
        except ValueError as error:
            args.error(f"argument --methods: {method}: {error}")
    return found


def load(args: argparse.Namespace, fixed: dict[str, Any]) -> tuple[Any, dict[str, Any], Any]:
    """The pipeline, the guidance of every method, and the search, `None` where no method has one."""
    searched = [method for method in args.methods if method not in fixed]
    first = "dynamic" if searched else "static"
    pipe, search = generate.load(argparse.Namespace(**vars(args), guidance=first, guidance_scale=None))
    pipe.set_progress_bar_config(disable=True)
    guidances = {method: generate.searching(method, search) for method in searched}
    return pipe, fixed | guidances, search if searched else None


def settings(args: argparse.Namespace, search: Any) -> dict[str, Any]:
    """What all pictures of a study have in common; of the search, where there is one."""
    common = {"model": str(args.model or "embedded"), "steps": args.steps, "dtype": args.dtype}
    if search is None:
        return common
    calibration = {"calibration": str(args.calibration)} if args.calibration else {}
    return common | {"scales": list(search.scales), "evaluators": list(search.evaluators)} | calibration


def refuse(args: argparse.Namespace, differing: dict[str, tuple[Any, Any]]) -> None:
    """Ends where the study was made with other settings, `differing` as `Manifest.settle` returns them."""
    for key, (its, ours) in differing.items():
        args.error(f"argument --{key}: the study in {str(args.out)!r} was made with {its}, not {ours}")


def is_made(args: argparse.Namespace, manifest: Manifest) -> bool:
    """Whether the study's settings are what the arguments ask for, as far as can be told without loading anything."""
    asked = settings(args, None) | {key: getattr(args, key) for key in ("scales", "evaluators") if getattr(args, key)}
    kept = manifest.settings()
    return all(kept.get(key) == (list(value) if key == "evaluators" else value) for key, value in asked.items())


def remaining(args: argparse.Namespace, done: set[tuple[str, str, int]]) -> list[tuple[str, list[Job]]]:
    """The batches of this process without the pictures that are `done`: ``(prompt, method, seed)``."""
    jobs = [(prompt.text, seed) for prompt in args.prompts for seed in args.seeds]
    batches = []
    for method, chunk in plan(jobs, args.methods, args.batch_size, args.rank, args.world):
        left = [(prompt, seed) for prompt, seed in chunk if (prompt, method, seed) not in done]
        batches += [(method, left)] if left else []
    return batches


def run(
    args: argparse.Namespace,
    pipe: Any,
    guidances: dict[str, Any],
    manifest: Manifest,
    batches: list[tuple[str, list[Job]]],
    done: set[tuple[str, str, int]],
) -> None:
    """Makes the pictures of `batches`, each of which is then `done`."""
    from tqdm import tqdm

    common = manifest.settings()
    total = sum(len(left) for _, left in batches)
    partial = args.out / f".partial-{args.rank}"
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was stopped
    partial.mkdir()
    # tqdm's own format turns slow rates into seconds an image
    shown = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}]"
    name = f"process {args.rank}" if args.world > 1 else None
    with tqdm(total=total, unit=" images", desc=name, bar_format=shown) as bar:
        for method, left in batches:
            room = disk_room(args, len(left))
            prompts, numbers = zip(*left, strict=True)
            try:
                made, trace = generate.denoise(pipe, guidances[method], list(prompts), list(numbers), args.steps)
            except ValueError as error:  # what only the pipeline can tell, such as an evaluator of another VAE
                args.error(str(error))
            for row, (prompt, seed) in enumerate(left):
                data = common | {"prompt": prompt, "seed": seed, "method": method}
                files = generate.save(partial / str(row), made[row], trace.sample(row), data)
                room -= sum(file.stat().st_size for file in files)
                if room < 0:  # larger than those before, or there were none
                    no_room(args)
                stem = f"images/{folder_of(prompt)}/{method.replace(':', '-')}_{seed:04d}"
                targets = [stem + ".png", stem + "_trace.json"]
                size = sum(publish(file, args.out / target) for file, target in zip(files, targets, strict=True))
                # After its files: what the manifest has is there. Before the next: a kill loses one that was published.
                manifest.add(images=[Image(prompt, method, seed, *targets, size)])
                done.add((prompt, method, seed))
            bar.update(len(left))
    partial.rmdir()


def folder_of(prompt: str) -> str:
    """A name to read, and different for every prompt."""
    return f"{generate.slug(prompt, 40)}-{hashlib.sha256(prompt.encode()).hexdigest()[:8]}"


def disk_room(args: argparse.Namespace, count: int) -> float:
    """The bytes that ``--limit-disk`` leaves. Stops where `count` pictures of the size of those before are too much."""
    if args.limit_disk is None:
        return math.inf
    made = pictures(args.out).values()  # of other machines too, which go on meanwhile
    images, size = len(made), sum(image.bytes for image in made)
    if size + count * (size / images if images else 0) > args.limit_disk:
        no_room(args)
    return args.limit_disk - size


def no_room(args: argparse.Namespace) -> None:
    """Stops at ``--limit-disk``."""
    sizes = [image.bytes for image in pictures(args.out).values()]
    args.error(
        f"argument --limit-disk: {len(sizes)} pictures take {sum(sizes) / 1e6:.1f} MB, and the next would not fit; a "
        "higher limit goes on from here"
    )


def main(argv: list[str] | None = None) -> None:
    """Exits with one line on stderr, and code 2 where an argument is wrong or the disk is full, 130 after Ctrl-C."""
    args = parse(argv)
    args.rank, args.world, local, machine = place()

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
        try:
            pipe, guidances, search = load(args, fixed)
        except (OSError, ValueError) as error:
            args.error(f"argument --model, --evaluators: cannot be loaded: {error}")
        refuse(args, manifest.settle(settings(args, search)))
        if args.rank == 0:
            texts = [prompt.text for prompt in args.prompts]
            panel.tell_silent(search, texts)
            if said := cut.warning(pipe, texts):
                print(said, file=sys.stderr)
    manifest.add(args.prompts)
    try:
        if batches:
            run(args, pipe, guidances, manifest, batches, done)
    finally:  # after --limit-disk and Ctrl-C too
        if machine == 0:
            print(gallery.write(args.out))


if __name__ == "__main__":
    main()
