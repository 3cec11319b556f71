"""The work of a batch: who makes which pictures, and how they get into the study's folder."""

import argparse
import hashlib
import math
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from commands import arguments

from . import cut, generate, panel
from .denoising import rows_of
from .manifest import Image, Manifest, pictures, publish
from .searches import searching

Job = tuple[str, int]  # prompt and seed
Batch = tuple[str, list[Job]]  # by which method
Finished = tuple[Batch, list[list[Path]]]  # the files of each picture of a batch


def plan(jobs: list[Job], methods: list[str], batch_size: int, rank: int, world: int) -> list[Batch]:
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


def remaining(args: argparse.Namespace, done: set[tuple[str, str, int]]) -> list[Batch]:
    """The batches of this process without the pictures that are `done`: ``(prompt, method, seed)``."""
    jobs = [(prompt.text, seed) for prompt in args.prompts for seed in args.seeds]
    batches = []
    for method, chunk in plan(jobs, args.methods, args.batch_size, args.rank, args.world):
        left = [(prompt, seed) for prompt, seed in chunk if (prompt, method, seed) not in done]
        batches += [(method, left)] if left else []
    return batches


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
    guidances = {method: searching(method, search, args) for method in searched}
    return pipe, fixed | guidances, search if searched else None


def settings(args: argparse.Namespace, search: Any) -> dict[str, Any]:
    """What all pictures of a study have in common; of the search, where there is one."""
    common = {"model": str(args.model or "embedded"), "steps": args.steps, "dtype": args.dtype}
    if search is None:
        return common
    calibration = {"calibration": str(args.calibration)} if args.calibration else {}
    return common | {"scales": list(search.scales), "evaluators": list(search.evaluators)} | calibration


def warnings_of(pipe: Any, search: Any, prompts: list[str]) -> list[str]:
    """What of `prompts` goes unheard: by an evaluator, or by the text encoder."""
    lost = cut.warning(pipe, prompts)
    return panel.silent_ones(search, prompts) + [lost] * bool(lost)


def paint(
    pipe: Any, guidances: dict[str, Any], batch: Batch, steps: int, common: dict[str, Any], folder: Path
) -> list[list[Path]]:
    """Makes the pictures of a batch; the files of each, in `folder`.

    Raises:
        ValueError: what only the pipeline can tell, such as an evaluator of another VAE.
    """
    method, jobs = batch
    guidance, files = guidances[method], []
    size = max(1, len(jobs) // rows_of(guidance))
    for first in range(0, len(jobs), size):
        part = jobs[first : first + size]
        prompts, seeds = zip(*part, strict=True)
        made = generate.denoise(pipe, guidance, list(prompts), list(seeds), steps)
        for place, (prompt, seed) in enumerate(part):
            data = common | {"prompt": prompt, "seed": seed, "method": method}
            target = folder / str(first + place)
            files.append(generate.save(target, made.images[place], made.trace_of(place), data))
    return files


def painted(
    args: argparse.Namespace, pipe: Any, guidances: dict[str, Any], batches: Iterable[Batch], common: dict[str, Any]
) -> Iterator[Finished]:
    """Makes `batches` here, one after another."""
    for batch in batches:
        try:
            yield batch, paint(pipe, guidances, batch, args.steps, common, partial(args))
        except ValueError as error:
            args.error(str(error))


def partial(args: argparse.Namespace) -> Path:
    """Where this process's pictures are before they are whole."""
    return args.out / f".partial-{args.rank}"


def while_there_is_room(args: argparse.Namespace, batches: Iterable[Batch]) -> Iterator[Batch]:
    """`batches`, each looked at before it is begun. Stops where it would go beyond ``--limit-disk``."""
    for batch in batches:
        room(args, len(batch[1]))
        yield batch


def keep(
    args: argparse.Namespace,
    manifest: Manifest,
    finished: Iterable[Finished],
    total: int,
    done: set[tuple[str, str, int]],
) -> None:
    """Puts `total` pictures into the study as they come, each of which is then `done`."""
    from tqdm import tqdm

    # tqdm's own format turns slow rates into seconds an image
    shown = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}]"
    name = f"process {args.rank}" if args.world > 1 else None
    shutil.rmtree(partial(args), ignore_errors=True)  # of a process that was stopped
    partial(args).mkdir()
    with tqdm(total=total, unit=" images", desc=name, bar_format=shown) as bar:
        for (method, jobs), made in finished:
            left = room(args)
            for (prompt, seed), files in zip(jobs, made, strict=True):
                left -= sum(file.stat().st_size for file in files)
                if left < 0:  # larger than those before, or there were none
                    no_room(args)
                stem = f"images/{folder_of(prompt)}/{method.replace(':', '-')}_{seed:04d}"
                targets = [stem + ".png", stem + "_trace.json"]
                size = sum(publish(file, args.out / target) for file, target in zip(files, targets, strict=True))
                # After its files: what the manifest has is there. Before the next: a kill loses one that was published.
                manifest.add(images=[Image(prompt, method, seed, *targets, size)])
                done.add((prompt, method, seed))
            bar.update(len(jobs))
    shutil.rmtree(partial(args))


def folder_of(prompt: str) -> str:
    """A name to read, and different for every prompt."""
    return f"{generate.slug(prompt, 40)}-{hashlib.sha256(prompt.encode()).hexdigest()[:8]}"


def room(args: argparse.Namespace, count: int = 0) -> float:
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
