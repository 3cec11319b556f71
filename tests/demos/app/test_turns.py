"""The line in front of the model, and work that reports, waits and stops."""

import threading
import time

import gradio as gr
import pytest

from demos.app import turns as line
from demos.app.live import Cancelled, Stop, Waiting, begin, cancel, errors_as_messages, live
from demos.app.turns import Turns

SHORT = 30  # seconds, for what takes none


def test_first_come_first_served():
    turns = Turns()
    first, second, third = (turns.join() for _ in range(3))
    assert [turns.wait(ticket, 0) for ticket in (first, second, third)] == [True, False, False]
    assert [turns.ahead(ticket)[0] for ticket in (first, second, third)] == [0, 1, 2]
    turns.leave(second)
    assert turns.ahead(third)[0] == 1
    turns.leave(first)
    assert turns.wait(third, 0)


def test_seconds_are_those_of_the_work_ahead(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(line.time, "monotonic", lambda: clock[0])
    turns = Turns()
    first, second, third = turns.join(10), turns.join(4), turns.join(1)
    assert turns.ahead(third) == (2, None)  # nothing was done yet
    clock[0] += 5
    first.done = 0.5  # so that a unit takes a second
    assert turns.ahead(third) == (2, 5 + 4)
    clock[0] += 5
    first.done = 1.0
    turns.leave(first)
    assert turns.ahead(third) == (1, 4)  # as it went before
    clock[0] += 4
    second.done = 0.5
    assert turns.ahead(third) == (1, 4)  # and as it goes now
    assert str(Waiting(1, 14.6)) == "1 before you, about 15 s" and str(Waiting(2, None)) == "2 before you"


def test_a_full_line():
    turns = Turns(room=1)
    turns.join(), turns.join()
    with pytest.raises(ValueError, match="Too many"):
        turns.join()


def test_one_who_waits_is_told_and_can_leave_at_once():
    turns, stop = Turns(), Stop()
    with turns.turn():
        waiting = live(turns, stop, pytest.fail)
        assert next(waiting) == Waiting(1, None)
        cancel(stop)
        with pytest.raises(Cancelled):
            list(waiting)
    with turns.turn():
        pass  # the one who left does not hold it


def test_cancelling_does_not_wait_for_the_work():
    turns, stop, told = Turns(), Stop(), threading.Event()

    def work(report):
        report("begun")
        assert told.wait(SHORT)
        report("too late")

    working = live(turns, stop, work)
    assert next(working) == "begun"
    cancel(stop)
    with pytest.raises(Cancelled):
        next(working)
    assert turns.ahead(after := turns.join())[0] == 1  # the model is still at it
    told.set()
    assert turns.wait(after, SHORT)


def test_a_new_run_replaces_the_one_before():
    old = begin(None)
    new = begin(old)
    assert old.is_set() and old.replaced and not new.is_set()


def test_leaving_ends_the_work():
    turns, seen = Turns(), []

    def work(report):
        for n in range(10**6):
            seen.append(n)
            report(n)
            time.sleep(0.001)

    working = live(turns, Stop(), work)
    next(working)
    working.close()
    with turns.turn():
        assert len(seen) < 10**6


def test_work_that_fails_is_a_message_and_frees_the_model():
    turns = Turns()

    def work(report):
        report(1)
        raise RuntimeError("<b>secret</b> /srv/path")

    def listen():
        with errors_as_messages():
            yield from live(turns, Stop(), work)

    updates = listen()
    assert next(updates) == 1
    with pytest.raises(gr.Error) as error:
        next(updates)
    assert "RuntimeError" in error.value.message and "secret" not in error.value.message
    assert turns.wait(turns.join(), SHORT)


def test_messages_are_escaped():
    with pytest.raises(gr.Error) as error, errors_as_messages():
        raise ValueError("no <img src=x onerror=alert(1)>")
    assert error.value.message == "no &lt;img src=x onerror=alert(1)&gt;"
