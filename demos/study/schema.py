"""The tables of a study's votes, and those of older studies brought to them."""

import sqlite3

from ..manifest import transaction

ANSWERS_OF_OLD = ("left", "tie", "right")  # what studies were asked before both could be bad
VOTES = """
CREATE TABLE {name} (
    assignment INTEGER NOT NULL REFERENCES assignments, question TEXT NOT NULL,
    choice TEXT NOT NULL CHECK (choice IN ('left', 'tie', 'bad', 'right')), created REAL NOT NULL,
    PRIMARY KEY (assignment, question)
)"""
SCHEMA = f"""
CREATE TABLE IF NOT EXISTS settings (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS raters (id TEXT PRIMARY KEY, name TEXT UNIQUE, created REAL NOT NULL);
CREATE TABLE IF NOT EXISTS consents (
    rater TEXT PRIMARY KEY REFERENCES raters, text TEXT NOT NULL, language TEXT NOT NULL, created REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS pairs (
    id INTEGER PRIMARY KEY, prompt TEXT NOT NULL, seed INTEGER NOT NULL,
    method_a TEXT NOT NULL, method_b TEXT NOT NULL, is_there INTEGER NOT NULL, voted INTEGER NOT NULL DEFAULT 0,
    UNIQUE (prompt, seed, method_a, method_b)
);
CREATE TABLE IF NOT EXISTS assignments (
    id INTEGER PRIMARY KEY, rater TEXT NOT NULL REFERENCES raters, pair INTEGER NOT NULL REFERENCES pairs,
    a_is_left INTEGER NOT NULL, is_check INTEGER NOT NULL, created REAL NOT NULL, voted INTEGER NOT NULL DEFAULT 0,
    UNIQUE (rater, pair, is_check)
);
{VOTES.format(name="IF NOT EXISTS votes")};
"""
# `voted`: raters of a pair, and whether this one is one of them. Counted with each vote, so that giving out the next
# pair looks at no vote.
VOTED = (
    "ALTER TABLE assignments ADD COLUMN voted INTEGER NOT NULL DEFAULT 0",
    "UPDATE assignments SET voted = EXISTS (SELECT 1 FROM votes WHERE assignment = assignments.id)",
    "ALTER TABLE pairs ADD COLUMN voted INTEGER NOT NULL DEFAULT 0",
    "UPDATE pairs SET voted = (SELECT count(*) FROM assignments WHERE pair = pairs.id AND voted AND NOT is_check)",
)
BAD = (
    VOTES.format(name="votes_new"),
    "INSERT INTO votes_new SELECT assignment, question, choice, created FROM votes",
    "DROP TABLE votes",
    "ALTER TABLE votes_new RENAME TO votes",
)
OPEN = "CREATE INDEX IF NOT EXISTS open ON assignments (created) WHERE NOT voted AND NOT is_check"


def upgrade(connection: sqlite3.Connection) -> None:
    """Brings the tables of an older version to `SCHEMA`, all of them or none."""
    with transaction(connection):
        columns = {row[1] for row in connection.execute("PRAGMA table_info(assignments)")}
        if "voted" not in columns:
            for statement in VOTED + BAD:
                connection.execute(statement)
        connection.execute(OPEN)
