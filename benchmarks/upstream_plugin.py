"""A plugin of pytest for diffusers' own pipeline tests: `benchmarks.upstream` tells what it does and runs them by it.

It stands alone, for it is loaded into the process of these tests.
"""

import copy
import functools
import inspect
import json
import os
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import PIL.Image
import torch

from guidance import Decision, Static
from pipelines.dynamic import CLASSES, PREFIX, DynamicGuidanceMixin, dynamic_class, with_true_cfg

# Variables of this process: the file of records, a line for each call and each test that ended, and the commit.
RECORDS, COMMIT = "ONLINE_GUIDANCE_RECORDS", "ONLINE_GUIDANCE_COMMIT"
SCALES = ("true_cfg_scale", "guidance_scale", "cfg_scale", "decoder_guidance_scale", "prior_guidance_scale")
ON = 4.0
SAME, DIFFERENT, FAILED = "identical", "different", "failed"
REFUSED, OFF, RAISES, UNSTEADY = "refused", "unguided", "both raise", "not reproducible"
STATES = (SAME, DIFFERENT, FAILED, REFUSED, OFF, RAISES, UNSTEADY)


class Leave:
    """Guidance that leaves every scale to the pipeline."""

    def decide(self, step: Any) -> Decision:
        return Decision(None, {})


def generators(value: Any) -> list[torch.Generator]:
    """All there are in the arguments of a call."""
    if isinstance(value, (list, tuple, dict)):
        return [g for v in (value.values() if isinstance(value, dict) else value) for g in generators(v)]
    return [value] if isinstance(value, torch.Generator) else []


def fresh(value: Any) -> Any:
    """Lists and dictionaries anew, in which some pipelines replace what they were given (Z-Image its prompts)."""
    if isinstance(value, dict):
        return {key: fresh(inner) for key, inner in value.items()}
    return [fresh(inner) for inner in value] if isinstance(value, list) else value


def remember(pipe: Any, arguments: Any) -> Callable[[], None]:
    """Returns what brings randomness, the scheduler and the pipeline's attributes back to what they are now."""
    states: list[tuple[Callable, Any]] = [(g.set_state, g.get_state()) for g in generators(arguments)]
    states += [(torch.set_rng_state, torch.get_rng_state()), (np.random.set_state, np.random.get_state())]
    states.append((random.setstate, random.getstate()))
    scheduler, attributes = vars(getattr(pipe, "scheduler", None) or Leave()), dict(vars(pipe))
    kept = copy.deepcopy(scheduler)

    def restore() -> None:
        for put, state in states:
            put(state)
        scheduler.clear()
        scheduler.update(copy.deepcopy(kept))
        vars(pipe).update(attributes)

    return restore


def equal(a: Any, b: Any) -> bool:
    """Bit for bit, whatever a pipeline returns."""
    if isinstance(a, dict):
        return all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, (torch.Tensor, np.ndarray, PIL.Image.Image)):
        x, y = (torch.as_tensor(value if isinstance(value, torch.Tensor) else np.array(value)) for value in (a, b))
        same = x.shape == y.shape and x.dtype == y.dtype
        return same and torch.equal(*(value.contiguous().flatten().view(torch.uint8) for value in (x, y)))
    return bool(a == b)


class Comparison:
    """One call from one state, made by the stock class and by ours."""

    def __init__(self, cls: type[Any], pipe: Any, given: dict[str, Any]) -> None:
        self.ours, self.stock = cls.__call__.stood.__get__(pipe), cls.__mro__[2].__call__.__get__(pipe)
        self.pipe, self.given, self.restore = pipe, fresh(given), remember(pipe, given)

    def run(self, arguments: dict[str, Any], guidance: Any = None) -> Any:
        """The output of the stock call, or of ours where there is guidance; an error of a type that both may raise."""
        self.restore()
        arguments = fresh(arguments)
        if guidance is None:
            return self.stock(**arguments)
        self.pipe.guidance = guidance
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return self.ours(**arguments)
        finally:
            self.pipe.guidance = None

    def with_these(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The state of the comparison, and the scales that guided."""
        try:
            expected = self.run(arguments)
        except Exception as error:  # negative embeddings of another shape; a callback that counts passes
            try:
                self.run(arguments, Leave())
            except type(error) as ours:
                return {"state": RAISES if str(ours) == str(error) else DIFFERENT, "words": str(error)}
            return {"state": DIFFERENT, "words": str(error)}
        try:
            found = self.run(arguments, Leave())
        except ValueError as error:
            return {"state": REFUSED, "words": str(error)}
        trace = self.pipe.guidance_trace
        scales = set(trace.scales.unique().tolist()) - {0.0, 1.0} if trace is not None else set()
        said = {"state": SAME if scales else OFF, "scales": sorted(scales)}
        if not equal(found, expected):
            return said | {"state": DIFFERENT if equal(self.run(arguments), expected) else UNSTEADY}
        bound = inspect.signature(self.stock).bind(**arguments)
        bound.apply_defaults()
        stated = [name for name in SCALES if [bound.arguments.get(name)] == said["scales"]]
        if stated:
            (scale,) = scales
            replaced = self.run(arguments | {stated[0]: scale + 1.5}, Static(scale))
            said |= {"replaced": True, "state": SAME if equal(replaced, expected) else DIFFERENT}
        return said

    def compare(self) -> dict[str, Any]:
        """As it was called, or with guidance where that is off by an argument."""
        try:
            arguments = dict(with_true_cfg(self.stock, (), self.given)[1])
            said = self.with_these(arguments)
            off = [name for name in SCALES if isinstance(s := arguments.get(name), (int, float)) and s <= 1]
            if said["state"] == OFF and off:
                return self.with_these(arguments | {off[0]: ON}) | {"switched_on": True}
            return said
        except Exception as error:  # whatever it is, it is what is looked for
            return {"state": FAILED, "words": f"{type(error).__name__}: {error}"}


def record(row: dict[str, Any]) -> None:
    """Appends a line to the records."""
    with open(os.environ[RECORDS], "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def compared(cls: type[Any], busy: list[Any]) -> Callable:
    """The ``__call__`` of one of our classes: what the stock one does, and a record of how ours compares with it."""
    stock = cls.__mro__[2].__call__

    @functools.wraps(cls.__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if busy:  # a pipeline may call others: the outermost is compared
            return stock(self, *args, **kwargs)
        busy.append(self)
        try:
            given = dict(inspect.signature(stock.__get__(self)).bind(*args, **kwargs).arguments)
            comparison = Comparison(cls, self, given | given.pop("kwargs", {}))
            output = stock(self, *args, **kwargs)  # what it raises is the test's affair
            after = remember(self, given)
            said = comparison.compare()
            after()
        finally:
            busy.pop()
        record(said | {"pipeline": cls.__name__, "test": os.environ["PYTEST_CURRENT_TEST"].rsplit(" (", 1)[0]})
        return output

    call.stood = cls.__call__
    return call


def pytest_configure(config: Any) -> None:
    """Puts our classes in the place of diffusers' own, before tests import these."""
    busy: list[Any] = []
    for name in dir(diffusers):
        stock = getattr(diffusers, name) if name.endswith("Pipeline") else None
        pipeline = inspect.isclass(stock) and issubclass(stock, diffusers.DiffusionPipeline)
        if pipeline and inspect.isfunction(stock.__call__):
            ours = dynamic_class(PREFIX + name) if name in CLASSES else type(name, (DynamicGuidanceMixin, stock), {})
            ours.__call__ = compared(ours, busy)
            setattr(diffusers, name, ours)


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """Leaves out what ran before."""
    rows = kept_of(Path(os.environ[RECORDS]))
    done = {row["test"] for row in rows}
    items[:] = [item for item in items if item.nodeid not in done]


def pytest_runtest_logreport(report: Any) -> None:
    if report.when == "teardown":
        record({"test": report.nodeid, "ended": os.environ[COMMIT]})


def kept_of(records: Path) -> list[dict[str, Any]]:
    """The rows of tests that ended."""
    rows = [json.loads(line) for line in records.read_text(encoding="utf-8").splitlines()]
    ended = {row["test"] for row in rows if "ended" in row}
    return [row for row in rows if row["test"] in ended]
