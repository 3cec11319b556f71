"""The votes of a study, in SQLite beside its manifest: who sees which pair, and what was chosen."""

import dataclasses
import hashlib
import hmac
import itertools
import json
import random
import secrets
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..manifest import Manifest, open_database, transaction
from . import schema
from .settings import CHOICES, VOTES, Settings, kept
from .tasks import Task, View, is_text

__all__ = ["CHOICES", "VOTES", "Settings", "VoteStore", "kept"]

OPEN = 900  # seconds for which a pair that was shown counts as one that will be voted on
PACE, PACES = 8.0, 20  # seconds that a question takes, until so many votes say it


class VoteStore:
    """Votes on the pictures in `folder`; may be used by many threads and processes at once.

    Every pair of methods with the same prompt and seed is a pair to vote on. A rater gets, of those that they have not
    had, one that has the fewest raters so far, at random among equals and on random sides.

    Raises:
        ValueError: there is no study, or no two methods have a picture in common.
    """

    def __init__(self, folder: Path, settings: Settings | None = None) -> None:
        self.folder, self.settings = Path(folder), settings or Settings()
        with Manifest(self.folder, read_only=True) as manifest:
            images = [image for image in manifest.images() if (self.folder / image.file).is_file()]
        self.files = {(image.prompt, image.seed, image.method): image.file for image in images}
        methods = defaultdict(list)
        for image in images:
            methods[image.prompt, image.seed].append(image.method)
        pairs = [(*key, *pair) for key, made in methods.items() for pair in itertools.combinations(sorted(made), 2)]
        if not pairs:
            raise ValueError(f"no two methods have pictures of the same prompt and seed in {str(folder)!r}.")
        most = self.settings.pairs_per_rater
        self.pairs = min(len(pairs), most) if most else len(pairs)  # of one rater, at most
        self._lock = threading.RLock()  # of the one connection
        self._together = False
        self._connection = open_database(self.folder / VOTES, schema.SCHEMA)
        self._connection.row_factory = sqlite3.Row
        with self._lock:
            schema.upgrade(self._connection)
            with self._writing():
                self._connection.execute("UPDATE pairs SET is_there = 0")
                self._connection.executemany(
                    "INSERT INTO pairs (prompt, seed, method_a, method_b, is_there) VALUES (?, ?, ?, ?, 1) "
                    "ON CONFLICT (prompt, seed, method_a, method_b) DO UPDATE SET is_there = 1",
                    pairs,
                )
                add = "INSERT OR IGNORE INTO settings VALUES ('secret', ?)"
                self._connection.execute(add, (json.dumps(secrets.token_hex(16)),))
            row = self._connection.execute("SELECT value FROM settings WHERE key = 'secret'").fetchone()
        self._secret = json.loads(row[0]).encode()

    @contextmanager
    def _writing(self, durable: bool = True) -> Iterator[None]:
        with self._lock:
            if self._together:
                yield
                return
            with transaction(self._connection, durable):
                yield

    def together(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        """What each of `calls`, on this store, returns, or the ValueError that it raises before it writes: all in one
        transaction, on the disk when this returns. Waiting for the disk takes longer than all else."""
        results: list[Any] = []
        with self._lock, transaction(self._connection):
            self._together = True
            try:
                for call in calls:
                    try:
                        results.append(call())
                    except ValueError as error:
                        results.append(error)
            finally:
                self._together = False
        return results

    def signature(self, *what: object) -> str:
        """A secret that only this study makes of `what`, always the same."""
        return hmac.new(self._secret, repr(what).encode(), hashlib.sha256).hexdigest()[:32]

    def keep(self) -> None:
        """Writes down how this study is asked, for whoever serves it next."""
        rows = {name.name: getattr(self.settings, name.name) for name in dataclasses.fields(Settings)}
        with self._writing():
            self._connection.executemany(
                "INSERT OR REPLACE INTO settings VALUES (?, ?)", [(key, json.dumps(row)) for key, row in rows.items()]
            )

    def close(self) -> None:
        self._connection.close()

    def new_rater(self) -> str:
        """The id of a new, nameless rater."""
        rater = secrets.token_urlsafe(12)
        with self._writing():
            self._connection.execute("INSERT INTO raters (id, created) VALUES (?, ?)", (rater, time.time()))
        return rater

    def invite(self, name: str) -> str:
        """The id of the rater called `name`: the secret in their link. The same whenever it is asked for."""
        with self._writing():
            add = "INSERT OR IGNORE INTO raters (id, name, created) VALUES (?, ?, ?)"
            self._connection.execute(add, (secrets.token_urlsafe(12), name, time.time()))
            return self._connection.execute("SELECT id FROM raters WHERE name = ?", (name,)).fetchone()[0]

    def invited(self) -> dict[str, str]:
        """The ids of all raters with a name."""
        with self._lock:
            return dict(self._connection.execute("SELECT name, id FROM raters WHERE name IS NOT NULL ORDER BY created"))

    def knows(self, rater: str) -> bool:
        """Whether there is such a rater, and one with a name where the study is for the invited."""
        with self._lock:
            row = self._connection.execute("SELECT name FROM raters WHERE id = ?", (rater,)).fetchone()
        return row is not None and (row["name"] is not None or not self.settings.named)

    def has_name(self, rater: Any) -> bool:
        """Whether there is such a rater and they were invited."""
        with self._lock:
            found = self._connection.execute("SELECT name FROM raters WHERE id = ?", (rater,)).fetchone()
        return found is not None and found["name"] is not None

    def consent(self, rater: str, text: str, language: str) -> None:
        """Keeps what this rater agreed to, the first time."""
        with self._writing():
            self._connection.execute(
                "INSERT OR IGNORE INTO consents VALUES (?, ?, ?, ?)", (rater, text, language, time.time())
            )

    def agreed(self, rater: str) -> bool:
        with self._lock:
            return bool(self._connection.execute("SELECT 1 FROM consents WHERE rater = ?", (rater,)).fetchone())

    def task(self, rater: str, place: int | None = None) -> tuple[Task | None, int]:
        """The question at `place` among all that this rater has had, or the first without an answer; and its place.
        `None` after the last pair."""
        view = self._view(rater, lambda tasks: place)
        return view.task, view.place

    def view(self, rater: str, beside: tuple[int, str] | None = None, step: int = 0) -> View:
        """What comes `step` questions after `beside`, the key of a task; else the first without an answer."""

        def place(tasks: list[Task]) -> int | None:
            at = next((i for i, task in enumerate(tasks) if task.key == beside), None)
            if at is None and step < 0:  # back from behind the last
                at = len(tasks)
            return None if at is None else max(0, at + step)

        return self._view(rater, place)

    def _view(self, rater: str, where: Callable[[list[Task]], int | None]) -> View:
        with self._writing(durable=False):
            tasks = self._tasks(rater)
            place = where(tasks)
            if place is None:
                place = next((i for i, task in enumerate(tasks) if task.choice is None), len(tasks))
            if place >= len(tasks) and self._assign(rater):
                tasks = self._tasks(rater)
        place = max(0, min(place, len(tasks)))
        done = {task.assignment for task in tasks if task.choice is not None and task.check is None}
        return View(tasks[place] if place < len(tasks) else None, place, len(done), self.pairs)

    def vote(self, rater: str, assignment: int, question: str, choice: str) -> None:
        """Keeps a vote, in the place of an earlier one on the same question; it is on the disk when this returns.

        Raises:
            ValueError: this rater was not asked this.
        """
        answers, questions = self.settings.answers, self.settings.questions
        if choice not in answers or question not in questions:
            raise ValueError(f"`choice` must be one of {answers} and `question` one of {questions}.")
        with self._writing():
            asked = "SELECT pair, is_check, voted FROM assignments WHERE id = ? AND rater = ?"
            if (row := self._connection.execute(asked, (assignment, rater)).fetchone()) is None:
                raise ValueError("this rater was not shown this pair.")
            self._connection.execute(
                "INSERT INTO votes (assignment, question, choice, created) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (assignment, question) DO UPDATE SET choice = excluded.choice, created = excluded.created",
                (assignment, question, choice, time.time()),
            )
            if not row["voted"]:
                self._connection.execute("UPDATE assignments SET voted = 1 WHERE id = ?", (assignment,))
                if not row["is_check"]:
                    self._connection.execute("UPDATE pairs SET voted = voted + 1 WHERE id = ?", (row["pair"],))

    def picture(self, assignment: int, side: str) -> tuple[str, bool]:
        """The file of the ``left`` or the ``right`` picture, relative to the study's folder, and whether it is shown
        spoilt.

        Raises:
            ValueError: there is no such pair.
        """
        with self._lock:
            rater = self._connection.execute("SELECT rater FROM assignments WHERE id = ?", (assignment,)).fetchone()
            tasks = self._tasks(rater["rater"], assignment) if rater and side in ("left", "right") else []
        if not tasks:
            raise ValueError("there is no such picture.")
        return getattr(tasks[0], side), tasks[0].check == side

    def pace(self) -> float:
        """Seconds that a question takes: the median between two votes of a rater, of the last 400 votes."""
        query = (
            "SELECT created - lag(created) OVER (PARTITION BY rater ORDER BY created) FROM "
            "(SELECT votes.created, rater FROM votes JOIN assignments ON assignments.id = assignment "
            "ORDER BY votes.rowid DESC LIMIT 400)"
        )
        with self._lock:
            gaps = sorted(row[0] for row in self._connection.execute(query) if row[0] is not None)
        return gaps[len(gaps) // 2] if len(gaps) >= PACES else PACE

    def _tasks(self, rater: str, assignment: int | None = None) -> list[Task]:
        """All that this rater has had, or one of it, in this order."""
        rows = self._connection.execute(
            "SELECT assignments.id, prompt, seed, method_a, method_b, a_is_left, is_check FROM assignments "
            "JOIN pairs ON pairs.id = pair WHERE rater = ?1 AND (?2 IS NULL OR assignments.id = ?2) "
            "ORDER BY assignments.id",
            (rater, assignment),
        ).fetchall()
        choices = {
            (row["assignment"], row["question"]): row["choice"]
            for row in self._connection.execute(
                "SELECT assignment, question, choice FROM votes JOIN assignments ON assignments.id = assignment "
                "WHERE rater = ?",
                (rater,),
            )
        }
        tasks = []
        for row in rows:
            a, b = (self.files.get((row["prompt"], row["seed"], row[m])) for m in ("method_a", "method_b"))
            if row["is_check"]:
                b = a  # the same picture, spoilt
            if a is None or b is None:  # no longer in the study
                continue
            left, right = (a, b) if row["a_is_left"] else (b, a)
            check = ("right" if row["a_is_left"] else "left") if row["is_check"] else None
            every = self.settings.questions
            questions = ["overall" if "overall" in every else every[0]] if check else every
            for question in questions:
                if question != "text" or check or is_text(row["prompt"]) or len(every) == 1:
                    choice = choices.get((row["id"], question))
                    tasks.append(Task(row["id"], row["prompt"], question, left, right, check, choice))
        return tasks

    def _assign(self, rater: str) -> bool:
        """Gives this rater one more pair; says whether there was one."""
        most = self.settings.pairs_per_rater
        had = "SELECT count(*) FROM assignments WHERE rater = ? AND NOT is_check"
        if most and self._connection.execute(had, (rater,)).fetchone()[0] >= most:
            return False
        pick = (
            "SELECT pairs.id, voted + coalesce(shown, 0) AS raters FROM pairs LEFT JOIN "
            "(SELECT pair, count(*) AS shown FROM assignments WHERE NOT voted AND NOT is_check AND created > :open "
            "GROUP BY pair) ON pair = pairs.id WHERE is_there AND (raters < :most OR NOT :most) AND "
            "pairs.id NOT IN (SELECT pair FROM assignments WHERE rater = :rater AND is_check = :check) "
            "ORDER BY raters, random() LIMIT 1"
        )
        now, most = time.time(), self.settings.votes_per_pair
        values = {"rater": rater, "open": now - OPEN, "check": 0, "most": most}
        pair, check = self._connection.execute(pick, values).fetchone(), 0
        if pair is None:
            return False
        if self.settings.check_every > 0 and random.random() < 1 / self.settings.check_every:
            spoilt = self._connection.execute(pick, values | {"check": 1, "most": 0}).fetchone()
            pair, check = (spoilt, 1) if spoilt else (pair, 0)
        add = "INSERT INTO assignments (rater, pair, a_is_left, is_check, created) VALUES (?, ?, ?, ?, ?)"
        self._connection.execute(add, (rater, pair[0], random.random() < 0.5, check, now))
        return True
