"""Work in a thread that reports while it runs, one at a time, and stops when nobody listens any more."""

import argparse
import html
import logging
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr

logger = logging.getLogger(__name__)


class Cancelled(Exception):
    """Raised inside the work by its next report after the listener has left."""


def live(lock: threading.Lock, work: Callable[[Callable[[Any], None]], Any]) -> Iterator[Any]:
    """Runs ``work(report)`` under `lock` and yields what it reports, and at last what it returns.

    `guide` and `prune` patch the model while it runs, so the lock is held by the thread that does the work and not by
    the listener: closing this generator stops the work at its next report, and only then is the model free again.

    Raises:
        whatever the work raises.
    """
    messages: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    left = threading.Event()

    def report(value: Any) -> None:
        if left.is_set():
            raise Cancelled
        messages.put(("reported", value))

    def run() -> None:
        try:
            with lock:
                if not left.is_set():
                    messages.put(("returned", work(report)))
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
        left.set()


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
