"""What stands in for a model's or a scheduler's call while a guided call runs, and is gone after it.

A tap asks which guided call runs in this thread and hands it what its pipeline calls; everything else passes through.
Many guided calls may share a model; a scheduler, which has state, belongs to one at a time.
"""

import copyreg
import functools
import threading
from collections.abc import Callable
from typing import Any, Protocol

import torch


class Listener(Protocol):
    """A guided call."""

    def on_forward(self, module: torch.nn.Module, stock: Callable, args: tuple, kwargs: dict[str, Any]) -> Any: ...

    def on_step(self, stock: Callable, args: tuple, kwargs: dict[str, Any]) -> Any: ...


_LOCK = threading.Lock()
_STACKS = threading.local()


def _stack() -> list[Listener]:
    if not hasattr(_STACKS, "runs"):
        _STACKS.runs = []
    return _STACKS.runs


def push(run: Listener) -> None:
    """`run` is what runs in this thread from now on."""
    _stack().append(run)


def pop() -> None:
    """The one before is again."""
    _stack().pop()


class _ModuleTap:
    """In the place of what ``module(...)`` calls, outside of hooks, offloading and compilation, which all stay.

    nn.Module looks there for what ``module.compile()`` made, and leaves it out of copies and pickles.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self.module, self.users = module, 0
        self.before = module.__dict__.get("_compiled_call_impl")
        self.stock = self.before or module._call_impl

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        runs = _stack()
        return runs[-1].on_forward(self.module, self.stock, args, kwargs) if runs else self.stock(*args, **kwargs)


def tap_module(module: torch.nn.Module) -> Callable[[], None]:
    """Lets the guided call of this thread see the calls of `module`; returns what undoes it."""
    with _LOCK:
        present = module.__dict__.get("_compiled_call_impl")
        tap = present if isinstance(present, _ModuleTap) else _ModuleTap(module)
        module.__dict__["_compiled_call_impl"] = tap
        tap.users += 1

    def undo() -> None:
        with _LOCK:
            tap.users -= 1
            if tap.users == 0 and module.__dict__.get("_compiled_call_impl") is tap:
                if tap.before is None:
                    del module.__dict__["_compiled_call_impl"]
                else:
                    module.__dict__["_compiled_call_impl"] = tap.before

    return undo


class _SchedulerTap:
    """In the place of ``scheduler.step``, on the instance alone, whose class pipelines look at. In a deep copy or a
    pickle of the scheduler it is that one's own step."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler, self.stock = scheduler, scheduler.step
        functools.update_wrapper(self, self.stock)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        runs = _stack()
        return runs[-1].on_step(self.stock, args, kwargs) if runs else self.stock(*args, **kwargs)

    def __reduce__(self) -> Any:
        return functools.partial, (type(self.scheduler).step, self.scheduler)


def tap_scheduler(scheduler: Any) -> Callable[[], None]:
    """Lets the guided call of this thread see the steps of `scheduler`; returns what undoes it.

    Raises:
        ValueError: another guided call uses it.
    """
    with _LOCK:
        if isinstance(scheduler.__dict__.get("step"), _SchedulerTap):
            raise ValueError(
                "`pipe.scheduler` is in use by another guided call: give every pipeline a scheduler of its own "
                "(`type(scheduler).from_config(scheduler.config)`)."
            )
        before = scheduler.__dict__.get("step")
        tap = scheduler.__dict__["step"] = _SchedulerTap(scheduler)

    def undo() -> None:
        if scheduler.__dict__.get("step") is tap:
            if before is None:
                del scheduler.__dict__["step"]
            else:
                scheduler.__dict__["step"] = before

    return undo


def disguise(
    instance: Any, methods: dict[str, Callable], attributes: dict[str, Any] | None = None
) -> Callable[[], None]:
    """Gives one instance a class of its own, which goes by the name of the stock one, with some methods replaced by
    ``method(stock, *args, **kwargs)``. What is copied or pickled meanwhile is of the stock class. Returns what undoes
    it."""
    stock_class: Any = type(instance)

    def replaced(name: str, method: Callable) -> Callable:
        stock = getattr(stock_class, name)

        @functools.wraps(stock)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            return method(functools.partial(stock, self), *args, **kwargs)

        return call

    def reduce(self: Any, protocol: Any) -> Any:
        # As a plain object of the stock class: pickle insists that __newobj__ makes an object's own class.
        make = copyreg._reconstructor  # type: ignore[attr-defined]  # typeshed leaves it out
        return make, (stock_class, object, None), *stock_class.__reduce_ex__(self, protocol)[2:3]

    body = {"__module__": stock_class.__module__, "__qualname__": stock_class.__qualname__, "__reduce_ex__": reduce}
    body |= {"__doc__": stock_class.__doc__} | {name: replaced(name, method) for name, method in methods.items()}
    disguised = type(stock_class.__name__, (stock_class,), body | (attributes or {}))
    instance.__class__ = disguised

    def undo() -> None:
        instance.__class__ = stock_class

    return undo
