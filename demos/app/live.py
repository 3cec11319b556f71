"""Work in a thread that reports while it runs, one at a time, and stops when it is told to or nobody listens."""

import argparse
import html
import logging
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gradio as gr

from .turns import Turns

logger = logging.getLogger(__name__)

TICK = 0.1  # seconds until a visitor's cancelling is noticed
TOLD = 1.0  # seconds between two lines about the waiting


class Cancelled(Exception):
    """Raised inside the work by its next report once it is to stop, and by `live` in its place."""


class Stop(threading.Event):
    """What stops a run. It is `replaced` where the same visitor started another, which has the word from then on."""

    replaced = False


@dataclass(frozen=True)
class Waiting:
    """So many come first, and take so many seconds, as far as that is known."""

    before: int
    seconds: float | None

    def __str__(self) -> str:
        if not self.before:
            return "Starting …"
        about = f", about {max(1, round(self.seconds))} s" if self.seconds is not None else ""
        return f"{self.before} before you{about}"


def live(turns: Turns, stop: Stop, work: Callable[[Callable[[Any], None]], Any], cost: float = 1.0) -> Iterator[Any]:
    """Runs ``work(report)`` when its turn comes and yields `Waiting`, what it reports, and at last what it returns.

    `guide` and `prune` patch the model while it runs, so the turn is the thread's that does the work and not the
    listener's. Setting `stop`, or closing this generator, ends waiting and listening at once, the work at its next
    report, and only then is the model free again.

    Args:
        cost: how much work it is, in a unit of its `turns`. A report with a ``share`` says how much of it is done.

    Raises:
        Cancelled: `stop` was set. ValueError: too many wait. Whatever else the work raises.
    """
    messages: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    ticket = turns.join(cost)

    def report(value: Any) -> None:
        if stop.is_set():
            raise Cancelled
        ticket.done = getattr(value, "share", ticket.done)
        messages.put(("reported", value))

    def run() -> None:
        try:
            while not turns.wait(ticket, TICK):
                if stop.is_set():
                    raise Cancelled
            if stop.is_set():
                raise Cancelled
            value = work(report)
            ticket.done = 1.0
        except BaseException as error:
            turns.leave(ticket)
            messages.put(("raised", error))
        else:
            turns.leave(ticket)
            messages.put(("returned", value))

    threading.Thread(target=run, daemon=True).start()
    told, since = None, 0.0
    try:
        while True:
            try:
                kind, value = messages.get(timeout=TICK)
            except queue.Empty:
                if stop.is_set():
                    raise Cancelled from None
                since += TICK
                if not ticket.began and (told is None or since >= TOLD):
                    told, since = Waiting(*turns.ahead(ticket)), 0.0
                    yield told
                continue
            if stop.is_set():
                raise Cancelled
            if kind == "raised":
                raise value
            yield value
            if kind == "returned":
                return
    finally:
        stop.set()


def begin(previous: Stop | None) -> Stop:
    """What stops a visitor's new run; their previous one, if it still waits or works, gives way without a word."""
    if previous is not None:
        previous.replaced = True
        previous.set()
    return Stop()


def cancel(stop: Stop | None) -> None:
    """Stops a visitor's run. Unlike Gradio's own cancelling it lets the run say so as its last word, which then cannot
    be overtaken by one before it."""
    if stop is not None:
        stop.set()


def button(
    triggers: Sequence[Any], stopper: gr.Button, run: Callable, inputs: Sequence[Any], outputs: Sequence[Any]
) -> Any:
    """Wires a generator ``run(stop, *inputs)`` to what starts it and to the button that stops it; returns the event of
    its end. Visitors wait in the line of the model and not in Gradio's, which nobody can leave."""
    stop = gr.State()
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "trigger_mode": "multiple"}
    ran = gr.on(triggers, begin, stop, stop, queue=False, **quiet).then(
        run, [stop, *inputs], outputs, concurrency_limit=None, **quiet
    )
    stopper.click(cancel, stop, None, queue=False, **quiet)
    return ran


def can_start() -> gr.Button:
    """The button that starts a run, once it is known whose run it will be."""
    return gr.Button(interactive=True)


@contextmanager
def errors_as_messages() -> Iterator[None]:
    """What goes wrong inside is shown to the visitor as one sentence; what they could not have caused is logged too."""
    try:
        yield
    except (gr.Error, Cancelled):
        raise
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise message(str(error)) from error
    except Exception as error:
        logger.exception("a visitor's request failed")
        raise message(f"This did not work ({type(error).__name__}); the server's log says more.") from error


def message(text: str) -> gr.Error:
    """`text` as an error that Gradio shows; it renders HTML there, and `text` may quote what a visitor wrote."""
    return gr.Error(html.escape(text, quote=False), print_exception=False)
