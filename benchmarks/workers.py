"""Batches of pictures made by several processes at once, in the folder where `pictures.run` looks for them."""

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from guidance import GreedySearch
from pipelines import TinyWorldPipeline

from . import embedded
from .pictures import batches, finished, make
from .rivals import Method

Methods = Callable[[GreedySearch], dict[str, Method]]  # by name; a function of a module, which processes can find


class Cell(NamedTuple):
    """What `pictures.run` is asked for: a method by its name, and where its batches are kept."""

    name: str
    prompts: Sequence[str]
    seeds: Sequence[int]
    folder: Path | None


@contextlib.contextmanager
def filling(
    pipe: TinyWorldPipeline, methods: Methods, workers: int, compile: bool
) -> Iterator[Callable[[Iterable[Cell], Any], None]]:
    """``fill(cells, bar)``, which makes the batches that are not there yet by so many processes, each with a pipeline
    as `pipe`, and tells `bar` (tqdm) the passes; with none it does nothing, and `pictures.run` makes them."""
    if not workers:
        yield lambda cells, bar: None
        return
    table, threads = methods(pipe.guidance), max(1, (os.cpu_count() or 1) // workers)
    started = (methods, pipe.device.type, compile, threads)

    def fill(cells: Iterable[Cell], bar: Any) -> None:
        jobs = [
            (name, rows, file)
            for name, prompts, seeds, folder in cells
            for rows, file in batches(pipe, table[name], prompts, seeds, folder)
            if file is not None and not file.exists()
        ]
        jobs.sort(key=lambda job: -table[job[0]].passes * len(job[1]))  # none of the long ones last and alone
        for passes in pool.imap_unordered(_make, jobs):
            bar.update(passes)

    with multiprocessing.get_context("spawn").Pool(workers, _start, started) as pool:
        yield fill
        pool.close()
        pool.join()  # so that each leaves as it would alone; what is interrupted is ended at once


_own: dict[str, Any] = {}  # of this process


def _start(methods: Methods, device: str, compile: bool, threads: int) -> None:
    torch.set_num_threads(threads)
    pipe = embedded.load().to(device)
    embedded.prepare(pipe, compile)
    _own.update(pipe=pipe, methods=methods(pipe.guidance))


def _make(job: tuple[str, list[tuple[str, int]], Path]) -> int:
    name, rows, file = job
    method = _own["methods"][name]
    finished(file, lambda: make(_own["pipe"], method, rows))
    return method.passes * len(rows)
