"""The votes of a study, in SQLite beside its manifest: who sees which pair, and what was chosen."""

import itertools
import json
import random
import secrets
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..manifest import Manifest, open_database, transaction

VOTES = "votes.sqlite"
CHOICES = ("left", "tie", "right")
QUESTIONS = {
    "overall": "Which picture do you prefer?",
    "alignment": "Which picture shows more exactly what the text says?",
    "quality": "Which picture is better made, whatever the text says?",
    "text": "In which picture are the written words more correct?",
}
OPEN = 900  # seconds for which a pair that was shown counts as one that will be voted on
SCHEMA = """
CREATE TABLE IF NOT EXISTS settings (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS raters (id TEXT PRIMARY KEY, name TEXT UNIQUE, created REAL NOT NULL);
CREATE TABLE IF NOT EXISTS pairs (
    id INTEGER PRIMARY KEY, prompt TEXT NOT NULL, seed INTEGER NOT NULL,
    method_a TEXT NOT NULL, method_b TEXT NOT NULL,
    is_there INTEGER NOT NULL, UNIQUE (prompt, seed, method_a, method_b)
);
CREATE TABLE IF NOT EXISTS assignments (
    id INTEGER PRIMARY KEY, rater TEXT NOT NULL REFERENCES raters, pair INTEGER NOT NULL REFERENCES pairs,
    a_is_left INTEGER NOT NULL, is_check INTEGER NOT NULL, created REAL NOT NULL,
    UNIQUE (rater, pair, is_check)
);
CREATE INDEX IF NOT EXISTS by_pair ON assignments (pair);
CREATE TABLE IF NOT EXISTS votes (
    assignment INTEGER NOT NULL REFERENCES assignments, question TEXT NOT NULL,
    choice TEXT NOT NULL CHECK (choice IN ('left', 'tie', 'right')), created REAL NOT NULL,
    PRIMARY KEY (assignment, question)
);
"""


@dataclass(frozen=True)
class Task:
    """A question about a pair.

    Attributes:
        assignment: of this pair to this rater.
        left, right: files, relative to the study's folder.
        check: the side of the spoilt picture in an attention check, `None` for a pair that counts.
        choice: what this rater chose before, `None` for nothing yet.
    """

    assignment: int
    prompt: str
    question: str
    left: str
    right: str
    check: str | None = None
    choice: str | None = None


class VoteStore:
    """Votes on the pictures in `folder`; may be used by many threads and processes at once.

    Every pair of methods with the same prompt and seed is a pair to vote on. A rater gets, of those that they have not
    had, one that has the fewest raters so far, at random among equals and on random sides.

    Args:
        questions: those of `QUESTIONS` that are asked about each pair, in this order; ``text`` only where the prompt
            has words in quotation marks.
        check_every: one in about so many pairs is an attention check; 0 for none.

    Raises:
        ValueError: there is no study, no two methods have a picture in common, or an argument is not as said here.
    """

    def __init__(self, folder: Path, questions: Sequence[str] = ("overall",), check_every: int = 12) -> None:
        if not questions or set(questions) - set(QUESTIONS) or len(set(questions)) != len(questions):
            raise ValueError(f"`questions` must be distinct and of {', '.join(QUESTIONS)}, got {list(questions)}.")
        self.folder, self.questions, self.check_every = Path(folder), tuple(questions), check_every
        with Manifest(self.folder, read_only=True) as manifest:
            images = [image for image in manifest.images() if (self.folder / image.file).is_file()]
        self.files = {(image.prompt, image.seed, image.method): image.file for image in images}
        methods = defaultdict(list)
        for image in images:
            methods[image.prompt, image.seed].append(image.method)
        pairs = [(*key, *pair) for key, made in methods.items() for pair in itertools.combinations(sorted(made), 2)]
        if not pairs:
            raise ValueError(f"no two methods have pictures of the same prompt and seed in {str(folder)!r}.")
        self._lock = threading.Lock()  # of the one connection
        self._connection = open_database(self.folder / VOTES, SCHEMA)
        self._connection.row_factory = sqlite3.Row
        with self._lock, transaction(self._connection):
            self._connection.execute("UPDATE pairs SET is_there = 0")
            self._connection.executemany(
                "INSERT INTO pairs (prompt, seed, method_a, method_b, is_there) VALUES (?, ?, ?, ?, 1) "
                "ON CONFLICT (prompt, seed, method_a, method_b) DO UPDATE SET is_there = 1",
                pairs,
            )

    def keep(self, named: bool) -> None:
        """Writes down how this study is asked, and whether only the `named` may vote, for whoever serves it next."""
        rows = {"questions": self.questions, "check_every": self.check_every, "named": named}
        with self._lock, transaction(self._connection):
            self._connection.executemany(
                "INSERT OR REPLACE INTO settings VALUES (?, ?)", [(key, json.dumps(row)) for key, row in rows.items()]
            )

    def close(self) -> None:
        self._connection.close()

    def new_rater(self) -> str:
        """The id of a new, nameless rater."""
        rater = secrets.token_urlsafe(12)
        with self._lock, transaction(self._connection):
            self._connection.execute("INSERT INTO raters (id, created) VALUES (?, ?)", (rater, time.time()))
        return rater

    def invite(self, name: str) -> str:
        """The id of the rater called `name`: the secret in their link. The same whenever it is asked for."""
        with self._lock, transaction(self._connection):
            add = "INSERT OR IGNORE INTO raters (id, name, created) VALUES (?, ?, ?)"
            self._connection.execute(add, (secrets.token_urlsafe(12), name, time.time()))
            return self._connection.execute("SELECT id FROM raters WHERE name = ?", (name,)).fetchone()[0]

    def invited(self) -> dict[str, str]:
        """The ids of all raters with a name."""
        with self._lock:
            return dict(self._connection.execute("SELECT name, id FROM raters WHERE name IS NOT NULL ORDER BY created"))

    def knows(self, rater: str, named: bool = False) -> bool:
        """Whether there is such a rater, and one with a name where they must be `named`."""
        with self._lock:
            row = self._connection.execute("SELECT name FROM raters WHERE id = ?", (rater,)).fetchone()
        return row is not None and (row["name"] is not None or not named)

    def task(self, rater: str, place: int | None = None) -> tuple[Task | None, int]:
        """The question at `place` among all that this rater has had, or the first without an answer; and its place.
        `None` after the last pair."""
        with self._lock, transaction(self._connection, durable=False):
            tasks = self._tasks(rater)
            if place is None:
                place = next((i for i, task in enumerate(tasks) if task.choice is None), len(tasks))
            if place >= len(tasks) and self._assign(rater):
                tasks = self._tasks(rater)
        place = max(0, min(place, len(tasks)))
        return (tasks[place] if place < len(tasks) else None), place

    def vote(self, rater: str, assignment: int, question: str, choice: str) -> None:
        """Keeps a vote, in the place of an earlier one on the same question; it is on the disk when this returns.

        Raises:
            ValueError: this rater was not asked this.
        """
        if choice not in CHOICES or question not in QUESTIONS:
            raise ValueError(f"`choice` must be one of {CHOICES} and `question` one of {tuple(QUESTIONS)}.")
        with self._lock, transaction(self._connection):
            asked = "SELECT 1 FROM assignments WHERE id = ? AND rater = ?"
            if self._connection.execute(asked, (assignment, rater)).fetchone() is None:
                raise ValueError("this rater was not shown this pair.")
            self._connection.execute(
                "INSERT INTO votes (assignment, question, choice, created) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (assignment, question) DO UPDATE SET choice = excluded.choice, created = excluded.created",
                (assignment, question, choice, time.time()),
            )

    def progress(self, rater: str) -> tuple[int, int]:
        """How many pairs this rater has voted on, and how many there are."""
        with self._lock:
            done = self._connection.execute(
                "SELECT count(DISTINCT assignment) FROM votes JOIN assignments ON assignments.id = assignment "
                "WHERE rater = ? AND NOT is_check",
                (rater,),
            ).fetchone()[0]
            return done, self._connection.execute("SELECT count(*) FROM pairs").fetchone()[0]

    def _tasks(self, rater: str) -> list[Task]:
        rows = self._connection.execute(
            "SELECT assignments.id, prompt, seed, method_a, method_b, a_is_left, is_check FROM assignments "
            "JOIN pairs ON pairs.id = pair WHERE rater = ? ORDER BY assignments.id",
            (rater,),
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
            questions = ["overall" if "overall" in self.questions else self.questions[0]] if check else self.questions
            for question in questions:
                if question != "text" or check or is_text(row["prompt"]) or len(self.questions) == 1:
                    choice = choices.get((row["id"], question))
                    tasks.append(Task(row["id"], row["prompt"], question, left, right, check, choice))
        return tasks

    def _assign(self, rater: str) -> bool:
        """Gives this rater one more pair; says whether there was one."""
        pick = (
            "SELECT pairs.id FROM pairs LEFT JOIN assignments ON pair = pairs.id AND NOT is_check AND "
            "(created > :open OR EXISTS (SELECT 1 FROM votes WHERE assignment = assignments.id)) "
            "WHERE is_there AND pairs.id NOT IN "
            "(SELECT pair FROM assignments WHERE rater = :rater AND is_check = :check) "
            "GROUP BY pairs.id ORDER BY count(assignments.id), random() LIMIT 1"
        )
        now = time.time()
        values = {"rater": rater, "open": now - OPEN, "check": 0}
        pair, check = self._connection.execute(pick, values).fetchone(), 0
        if pair is None:
            return False
        if self.check_every > 0 and random.random() < 1 / self.check_every:
            spoilt = self._connection.execute(pick, values | {"check": 1}).fetchone()
            pair, check = (spoilt, 1) if spoilt else (pair, 0)
        add = "INSERT INTO assignments (rater, pair, a_is_left, is_check, created) VALUES (?, ?, ?, ?, ?)"
        self._connection.execute(add, (rater, pair[0], random.random() < 0.5, check, now))
        return True


def kept(folder: Path) -> dict[str, Any]:
    """What `VoteStore.keep` wrote down in `folder`: ``questions``, ``check_every`` and ``named``; nothing where nobody
    has opened the study for votes."""
    if not (Path(folder) / VOTES).is_file():
        return {}
    with closing(open_database(Path(folder) / VOTES, None)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'settings'").fetchone():
            return {}
        return {key: json.loads(value) for key, value in connection.execute("SELECT key, value FROM settings")}


def is_text(prompt: str) -> bool:
    """Whether `prompt` has words in quotation marks, as those have that ask for writing."""
    return prompt.count('"') >= 2 or any(mark in prompt for mark in "“”«»„")
