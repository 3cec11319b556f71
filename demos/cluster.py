"""A batch on a Ray cluster: every node makes pictures, and this process alone writes the study.

Nodes need this package and the model, by its hub id or at the same path; they share no folder, for pictures come back
as bytes. What a node was making when it was lost is handed to another, and a node that joins takes part.
"""

import argparse
import socket
import tempfile
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .painting import Batch, Finished, load, paint, partial, settings, warnings_of

REACHED = 10.0  # seconds in which a cluster must answer
WAIT = 5.0  # seconds after which it is looked whether a node has joined
LOSSES = 3  # painters that a node may lose before it gets no other


class Painter:
    """What runs on a node, with a pipeline of its own.

    Args:
        given: the arguments of the batch, as `vars`.
        fixed: the fixed schedules among its methods.
    """

    def __init__(self, given: dict[str, Any], fixed: dict[str, Any]) -> None:
        self.args, self.fixed = argparse.Namespace(**given, error=_refuse), fixed

    def describe(self, prompts: list[str]) -> tuple[dict[str, Any], list[str]]:
        """Loads the pipeline; the settings of the pictures, and what is to be said of the prompts."""
        self.pipe, self.guidances, search = load(self.args, self.fixed)
        return settings(self.args, search), warnings_of(self.pipe, search, prompts)

    def paint(self, batch: Batch, common: dict[str, Any]) -> list[list[tuple[str, bytes]]]:
        """The files of each picture, by name."""
        with tempfile.TemporaryDirectory() as folder:
            made = paint(self.pipe, self.guidances, batch, self.args.steps, common, Path(folder))
            return [[(file.name, file.read_bytes()) for file in files] for files in made]


def _refuse(message: str) -> None:
    raise ValueError(message)


class Cluster:
    """The painters of a cluster: one for each GPU, and one on a node that has none, where it takes all cores.

    Ends with `args.error` where there is no Ray, or no cluster at ``args.ray``.
    """

    def __init__(self, args: argparse.Namespace, fixed: dict[str, Any]) -> None:
        try:
            import ray
        except ImportError:
            args.error("argument --ray: needs Ray: pip install online-guidance[ray]")
        self.ray, self.args, self.fixed = ray, args, fixed
        try:
            if ":" in args.ray:  # Ray itself would try for a minute
                socket.create_connection(args.ray.removeprefix("ray://").rsplit(":", 1), REACHED).close()
            ray.init(args.ray, log_to_driver=False, include_dashboard=False if args.ray == "local" else None)
        except (OSError, ValueError, RuntimeError) as error:
            args.error(f"argument --ray: there is no cluster at {args.ray!r}: {error}")
        self._prompts: list[str] = []
        self._painters: dict[Any, str] = {}  # painter to its node
        self._lost: Counter[str] = Counter()  # how many painters each node has lost
        self._idle: list[Any] = []
        self._running: dict[Any, tuple[Any, Batch | None]] = {}  # result to its painter and what that is to make

    def _recruit(self) -> None:
        """Starts painters where there is room for one."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = Counter(self._painters.values())
        for node in self.ray.nodes():
            number, cores, gpus = node["NodeID"], *(int(node["Resources"].get(name, 0)) for name in ("CPU", "GPU"))
            places = (gpus or bool(cores)) if node["Alive"] and self._lost[number] < LOSSES else 0
            for _ in range(places - here[number]):
                options = {"num_gpus": 1, "num_cpus": 0} if gpus else {"num_cpus": cores}
                strategy = NodeAffinitySchedulingStrategy(number, soft=False)
                painter = self.ray.remote(Painter).options(**options, scheduling_strategy=strategy)
                painter = painter.remote({k: v for k, v in vars(self.args).items() if k != "error"}, self.fixed)
                self._painters[painter] = number
                self._running[painter.describe.remote(self._prompts)] = painter, None
        if not self._painters:
            raise ValueError("no node of the cluster is left")

    def _finished(self) -> Iterator[tuple[Batch | None, Any]]:
        """What was to be made and what was, of a painter that is done within `WAIT`: `None` of one that was lost."""
        ready, _ = self.ray.wait(list(self._running), num_returns=1, timeout=WAIT)
        for result in ready:
            painter, batch = self._running.pop(result)
            try:
                made = self.ray.get(result)
            except self.ray.exceptions.RayActorError:
                self._lost[self._painters.pop(painter)] += 1
                yield batch, None
            except self.ray.exceptions.RayTaskError as error:
                raise error.cause from None
            else:
                self._idle.append(painter)
                yield batch, made

    def describe(self, prompts: list[str]) -> tuple[dict[str, Any], list[str]]:
        """What the first painter that has loaded its pipeline says of the settings and of `prompts`.

        Raises:
            OSError, ValueError: the pipeline cannot be loaded, or all nodes were lost.
        """
        self._prompts = prompts
        while True:
            self._recruit()
            for _, made in self._finished():
                if made is not None:
                    return made

    def painted(self, batches: Iterator[Batch], common: dict[str, Any]) -> Iterator[Finished]:
        """Hands out `batches` and gives back what is made, in the order in which it comes."""
        again: deque[Batch] = deque()
        try:
            while True:
                while self._idle and (batch := again.popleft() if again else next(batches, None)) is not None:
                    painter = self._idle.pop()
                    self._running[painter.paint.remote(batch, common)] = painter, batch
                if not again and not any(batch for _, batch in self._running.values()):
                    return
                for batch, made in self._finished():
                    if batch is not None and made is None:
                        again.append(batch)
                    elif batch is not None:
                        yield batch, [self._written(files) for files in made]
                self._recruit()
        except (OSError, ValueError) as error:
            self.args.error(str(error))
        finally:
            self.ray.shutdown()

    def _written(self, files: list[tuple[str, bytes]]) -> list[Path]:
        """Writes what came from a node."""
        paths = [partial(self.args) / name for name, _ in files]
        for path, (_, content) in zip(paths, files, strict=True):
            path.write_bytes(content)
        return paths
