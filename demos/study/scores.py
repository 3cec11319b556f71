"""What judges said of the pictures of a study, in SQLite beside its manifest."""

import math
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pandas as pd

from ..manifest import open_database, transaction

SCORES = "scores.sqlite"
KEY = ["prompt", "method", "seed"]
SCHEMA = """
CREATE TABLE IF NOT EXISTS judges (name TEXT PRIMARY KEY, source TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS scores (
    judge TEXT NOT NULL REFERENCES judges, prompt TEXT NOT NULL, method TEXT NOT NULL, seed INTEGER NOT NULL,
    score REAL, PRIMARY KEY (judge, prompt, method, seed)
);
"""


class ScoreStore:
    """The scores in `folder`, to be added to."""

    def __init__(self, folder: Path) -> None:
        self._connection = open_database(Path(folder) / SCORES, SCHEMA)

    def __enter__(self) -> "ScoreStore":
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.close()

    def source(self, judge: str) -> str | None:
        """Where this judge's scores in this study come from, `None` where there are none."""
        row = self._connection.execute("SELECT source FROM judges WHERE name = ?", (judge,)).fetchone()
        return None if row is None else str(row[0])

    def settle(self, judge: str, source: str) -> None:
        """Notes where this judge's scores come from, for those of another are not to be mixed with them."""
        with transaction(self._connection):
            self._connection.execute("INSERT OR REPLACE INTO judges VALUES (?, ?)", (judge, source))

    def done(self, judge: str) -> set[tuple[str, str, int]]:
        """The pictures that this judge has scored: ``(prompt, method, seed)``."""
        return set(self._connection.execute("SELECT prompt, method, seed FROM scores WHERE judge = ?", (judge,)))

    def add(self, judge: str, scored: Iterable[tuple[tuple[str, str, int], float]]) -> None:
        """All of these at once, on the disk when this returns. A score that is not finite is kept as none."""
        rows = [(judge, *key, score if math.isfinite(score) else None) for key, score in scored]
        with transaction(self._connection):
            self._connection.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?, ?)", rows)


def read_scores(folder: Path) -> pd.DataFrame | None:
    """A row for every picture that a judge scored: ``prompt, method, seed`` and a column for each judge, NaN where it
    gave no score; `None` where nothing was scored. Changes nothing in the folder."""
    if not (Path(folder) / SCORES).is_file():
        return None
    with closing(open_database(Path(folder) / SCORES, None)) as connection:
        rows = pd.read_sql_query("SELECT judge, prompt, method, seed, score FROM scores ORDER BY rowid", connection)
    if rows.empty:
        return None
    table = rows.pivot(index=KEY, columns="judge", values="score").astype(float)
    return table[list(dict.fromkeys(rows["judge"]))].rename_axis(columns=None).reset_index()
