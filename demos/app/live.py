"""Work in a thread that reports while it runs, one at a time, and stops when it is told to or nobody listens."""

import argparse
import html
import logging
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import gradio as gr

logger = logging.getLogger(__name__)


class Cancelled(Exception):
    """Raised inside the work by its next report once it is to stop, and by `live` in its place."""


def live(lock: threading.Lock, stop: threading.Event, work: Callable[[Callable[[Any], None]], Any]) -> Iterator[Any]:
    """Runs ``work(report)`` under `lock` and yields what it reports, and at last what it returns.

    `guide` and `prune` patch the model while it runs, so the lock is held by the thread that does the work and not by
    the listener. Setting `stop`, or closing this generator, ends the work at its next report, and only then is the
    model free again.

    Raises:
        Cancelled: `stop` was set, also while waiting for the lock. Whatever else the work raises.
    """
    messages: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

    def report(value: Any) -> None:
        if stop.is_set():
            raise Cancelled
        messages.put(("reported", value))

    def run() -> None:
        try:
            while not lock.acquire(timeout=0.1):
                if stop.is_set():
                    raise Cancelled
            try:
                if stop.is_set():
                    raise Cancelled
                messages.put(("returned", work(report)))
            finally:
                lock.release()
        except BaseException as error:
            messages.put(("raised", error))

    threading.Thread(target=run, daemon=True).start()
    try:
        while True:
            kind, value = messages.get()
            if kind == "raised":
                raise value
            yield value
            if kind == "returned":
                return
    finally:
        stop.set()


def begin(previous: threading.Event | None) -> threading.Event:
    """What stops a visitor's new run; their previous one, if it still waits or works, gives way."""
    cancel(previous)
    return threading.Event()


def cancel(stop: threading.Event | None) -> None:
    """Stops a visitor's run. Unlike Gradio's own cancelling it lets the run say so as its last word, which then cannot
    be overtaken by one before it."""
    if stop is not None:
        stop.set()


def button(
    triggers: Sequence[Any],
    stopper: gr.Button,
    run: Callable,
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    line: gr.HTML,
    queue: str,
) -> None:
    """Wires a generator ``run(stop, *inputs)`` to what starts it and to the button that stops it.

    Args:
        line: of the outputs the one where waiting is shown.
        queue: name of the queue, in which one runs at a time.
    """
    stop = gr.State()
    quiet = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    gr.on(triggers, begin, stop, stop, **quiet).then(
        run,
        [stop, *inputs],
        outputs,
        concurrency_id=queue,
        concurrency_limit=1,
        show_progress="minimal",
        show_progress_on=[line],
        api_visibility="private",
    )
    stopper.click(cancel, stop, None, **quiet)


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
