"""The line in front of a model that visitors share: who is next, and how long that takes."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

ROOM = 32  # visitors waiting, at most


@dataclass(eq=False)
class Ticket:
    """A place in the line. `cost` is how much work it stands for, in any unit; `done` how much of it is, in [0, 1]."""

    cost: float
    done: float = 0.0
    began: float = 0.0


class Turns:
    """One works, the others wait in the order in which they came, and whoever gives up leaves at once."""

    def __init__(self, room: int = ROOM) -> None:
        self.room = room
        self._line: list[Ticket] = []  # the first has the turn
        self._moved = threading.Condition()
        self._pace: float | None = None  # seconds for a unit of work, once some was done

    def join(self, cost: float = 1.0) -> Ticket:
        """A place at the end of the line.

        Raises:
            ValueError: the line is full, in words for the visitor.
        """
        with self._moved:
            if len(self._line) > self.room:
                raise ValueError("Too many visitors are waiting; please try again in a minute")
            ticket = Ticket(cost)
            self._line.append(ticket)
            self._called()
            return ticket

    def leave(self, ticket: Ticket) -> None:
        """Its work is done, or it waits no longer."""
        with self._moved:
            if ticket.began and ticket.done > 0:
                took = (time.monotonic() - ticket.began) / (ticket.cost * ticket.done)
                self._pace = took if self._pace is None else (self._pace + took) / 2
            self._line.remove(ticket)
            self._called()
            self._moved.notify_all()

    def wait(self, ticket: Ticket, seconds: float) -> bool:
        """Whether it is the turn of `ticket`, after at most so many seconds."""
        with self._moved:
            return self._moved.wait_for(lambda: self._line[0] is ticket, seconds)

    def ahead(self, ticket: Ticket) -> tuple[int, float | None]:
        """How many come before `ticket`, and the seconds that they take, `None` where nothing is known of the pace."""
        with self._moved:
            before = self._line[: self._line.index(ticket)]
            pace = self._pace
            if before and before[0].done > 0:  # what is under way says most of how it goes today
                pace = (time.monotonic() - before[0].began) / (before[0].cost * before[0].done)
            work = sum(other.cost * (1 - other.done) for other in before)
            return len(before), None if pace is None else pace * work

    @contextmanager
    def turn(self, cost: float = 1.0) -> Iterator[Ticket]:
        """Waits for a turn, however long, and has it."""
        ticket = self.join(cost)
        try:
            self.wait(ticket, threading.TIMEOUT_MAX)
            yield ticket
        finally:
            self.leave(ticket)

    def _called(self) -> None:
        if self._line and not self._line[0].began:
            self._line[0].began = time.monotonic()
