"""The report of a study: its votes as a table, what they say, and the files that go on from here."""

import csv
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from commands.pairs import Pair, write_pairs

from ..manifest import Manifest, open_database, publish, write_text
from . import judges, preference
from .report_page import page
from .scores import read_scores
from .votes import VOTES

CHECKS = 2  # a rater is judged by at least so many attention checks
PASSED = 2 / 3  # of them
SCORES = {"a": 1.0, "tie": 0.5, "b": 0.0}  # of the first method, by what is preferred
QUERY = """
SELECT prompt, seed, question, method_a, method_b, choice, a_is_left, is_check, assignments.rater, name AS rater_name,
       votes.created AS voted_at
FROM votes JOIN assignments ON assignments.id = assignment JOIN pairs ON pairs.id = pair
JOIN raters ON raters.id = assignments.rater ORDER BY votes.created, assignments.id
"""


def read_votes(folder: Path) -> pd.DataFrame:
    """Every vote, one a row: ``prompt, category, seed, question, method_a, method_b, preferred`` (``a``, ``b``,
    ``tie``, or ``bad`` for both), ``choice`` (``left``, ``right``, ``tie`` or ``bad``), ``rater`` (a name, or r1, r2, …
    for the nameless), ``is_check``, ``counts`` (no check, and by a rater who passed theirs), ``file_a, file_b,
    voted_at``. Changes nothing in the folder.

    Raises:
        ValueError: there is no study, or nobody has opened it for votes.
    """
    folder = Path(folder)
    with Manifest(folder, read_only=True) as manifest:
        images = {(image.prompt, image.seed, image.method): image.file for image in manifest.images()}
        categories = {prompt.text: prompt.category for prompt in manifest.prompts()}
    if not (folder / VOTES).is_file():
        raise ValueError(f"nobody has voted in {str(folder)!r} yet: there is no {VOTES} in it")
    with closing(open_database(folder / VOTES, None)) as connection:
        try:
            votes = pd.read_sql_query(QUERY, connection)
        except (pd.errors.DatabaseError, sqlite3.DatabaseError) as error:
            raise ValueError(f"{str(folder / VOTES)!r} cannot be read: {error}") from None
    sides = votes["a_is_left"].map({1: "left", 0: "right"})
    decided = np.where(votes["choice"] == sides, "a", "b")
    votes["preferred"] = votes["choice"].where(~votes["choice"].isin(["left", "right"]), decided)
    votes["is_check"] = votes["is_check"].astype(bool)
    votes["category"] = votes["prompt"].map(categories).fillna("")
    for letter in "ab":
        votes[f"file_{letter}"] = [
            images.get(key, "") for key in zip(votes["prompt"], votes["seed"], votes[f"method_{letter}"], strict=True)
        ]
    # A rater's id is the secret in their link: it leaves the database for no file and no page.
    nameless = {rater: f"r{number}" for number, rater in enumerate(dict.fromkeys(votes["rater"]), 1)}
    votes["rater"] = votes["rater_name"].fillna(votes["rater"].map(nameless))
    votes["counts"] = ~votes["is_check"] & ~votes["rater"].isin(careless(votes))
    votes["voted_at"] = pd.to_datetime(votes["voted_at"], unit="s", utc=True)
    return votes.drop(columns=["a_is_left", "rater_name"])


def careless(votes: pd.DataFrame) -> list[str]:
    """The raters who preferred the spoilt picture, or none, in too many attention checks. Method a is the whole one."""
    checks = votes[votes["is_check"]]
    right = (checks["preferred"] == "a").groupby(checks["rater"]).agg(["count", "mean"])
    return sorted(right.index[(right["count"] >= CHECKS) & (right["mean"] < PASSED)])


def compare(votes: pd.DataFrame) -> dict[str, Any]:
    """Method a against method b, from the votes on the two. That both are bad says nothing of which is better: it is in
    no rate, nor half for each anywhere."""
    counts = votes["preferred"].value_counts()
    a, b, tie, bad = (int(counts.get(key, 0)) for key in ("a", "b", "tie", "bad"))
    ranked = votes[votes["preferred"].isin(SCORES)]
    scores = ranked["preferred"].map(SCORES).to_numpy(float)
    interval = preference.clustered_interval(scores, ranked["prompt"].to_numpy()) if len(ranked) else None
    return {
        "votes": len(votes),
        "raters": int(votes["rater"].nunique()),
        "a_wins": a,
        "ties": tie,
        "b_wins": b,
        "bad": bad,
        "decided": preference.sign_test(a, b),
        "anytime": preference.anytime(a, b),
        "with_ties": {"rate": float(scores.mean()) if len(ranked) else None, "interval": interval},
    }


def summarize(votes: pd.DataFrame) -> dict[str, Any]:
    """All that the report says, as plain numbers."""
    counted = votes[votes["counts"]]
    questions = {}
    for question, asked in counted.groupby("question", sort=False):
        pairs = []
        for (a, b), group in asked.groupby(["method_a", "method_b"]):
            rows = group.assign(category=group["category"].str.split("; ")).explode("category")
            categories = {name: compare(part) for name, part in rows.groupby("category") if name}
            pairs.append({"a": a, "b": b, **compare(group), "categories": categories})
        questions[question] = {"alpha": alpha(asked), "pairs": pairs, "strengths": _strengths(asked)}
    rows = [pair for found in questions.values() for pair in found["pairs"]]
    for family in (rows, [part for pair in rows for part in pair["categories"].values()]):
        tests = [row["decided"] for row in family]
        for test, adjusted in zip(tests, preference.holm([test["p"] for test in tests]), strict=True):
            test["p_holm"] = adjusted
    decided = counted[counted["preferred"].isin(["a", "b"])]["choice"]
    left = int((decided == "left").sum())
    return {
        "votes": len(counted),
        "raters": int(counted["rater"].nunique()),
        "prompts": int(counted["prompt"].nunique()),
        "excluded_raters": careless(votes),
        "excluded_votes": int((~votes["counts"] & ~votes["is_check"]).sum()),
        "left": preference.sign_test(left, len(decided) - left),
        "per_rater": [of_rater(name, group) for name, group in votes.groupby("rater", sort=False)],
        "questions": questions,
    }


def alpha(votes: pd.DataFrame) -> float | None:
    """How far raters agree on the pairs of one question: Krippendorff's alpha; that both are bad is an answer."""
    unit = [votes["prompt"], votes["seed"], votes["method_a"], votes["method_b"]]
    return preference.agreement(pd.crosstab(unit, votes["preferred"]).to_numpy())


def of_rater(name: str, votes: pd.DataFrame) -> dict[str, Any]:
    """How somebody voted; shares are `None` where there is nothing to share."""
    pairs, checks = votes[~votes["is_check"]], votes[votes["is_check"]]
    decided = pairs[pairs["preferred"].isin(["a", "b"])]
    pace = votes["voted_at"].diff().dt.total_seconds().median()  # votes are in the order of their times
    return {
        "rater": name,
        "votes": len(pairs),
        "ties": float((pairs["choice"] == "tie").mean()) if len(pairs) else None,
        "bad": float((pairs["choice"] == "bad").mean()) if len(pairs) else None,
        "left": float((decided["choice"] == "left").mean()) if len(decided) else None,
        "checks": len(checks),
        "checks_passed": int((checks["preferred"] == "a").sum()),
        "seconds": None if np.isnan(pace) else float(pace),
    }


def _strengths(votes: pd.DataFrame) -> list[dict[str, Any]]:
    methods = sorted({*votes["method_a"], *votes["method_b"]})
    votes = votes[votes["preferred"].isin(SCORES)]
    prompts = {prompt: row for row, prompt in enumerate(dict.fromkeys(votes["prompt"]))}
    wins = np.zeros((len(prompts), len(methods), len(methods)))
    for vote in votes.itertuples():
        a, b, row = methods.index(vote.method_a), methods.index(vote.method_b), prompts[vote.prompt]
        share = SCORES[vote.preferred]
        wins[row, a, b] += share
        wins[row, b, a] += 1 - share
    found = preference.strengths(wins)
    rows = [
        {"method": method} | {key: values and values[i] for key, values in found.items()}
        for i, method in enumerate(methods)
    ]
    return sorted(rows, key=lambda row: -row["strength"])


def guard(value: Any) -> Any:
    """A cell that a spreadsheet takes as text, and never as a formula."""
    return "'" + value if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else value


def pairs_of(votes: pd.DataFrame) -> list[Pair]:
    """The votes that count and compare as preference pairs; see docs/preference_pairs.md."""
    return [
        Pair(
            vote.prompt,
            *((vote.file_b, vote.file_a) if vote.preferred == "b" else (vote.file_a, vote.file_b)),
            rater=vote.rater,
            question=vote.question,
            tie=vote.preferred == "tie",
        )
        for vote in votes[votes["counts"]].itertuples()
        if vote.file_a and vote.file_b and vote.preferred in SCORES
    ]


def whole(folder: Path, votes: pd.DataFrame) -> dict[str, Any]:
    """`summarize`, and what judges say of the pictures where some were asked."""
    scores = read_scores(folder)
    return summarize(votes) | ({} if scores is None else judges.summarize(scores, votes))


def write(folder: Path) -> tuple[dict[str, Any], list[Path]]:
    """Writes ``report.html``, ``report.json``, ``votes.csv``, ``votes.parquet`` and ``pairs.jsonl`` into the study;
    returns the summary and their paths.

    Raises:
        ValueError: as `read_votes`.
    """
    folder = Path(folder)
    votes = read_votes(folder)
    summary = whole(folder, votes)
    if (scores := read_scores(folder)) is not None:
        votes = judges.beside(votes, scores)
    paths = [folder / name for name in ("report.html", "report.json", "votes.csv", "votes.parquet", "pairs.jsonl")]
    write_text(paths[0], page(summary))
    write_text(paths[1], json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    write_text(paths[2], votes.map(guard).to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC))
    for path, save in ((paths[3], votes.to_parquet), (paths[4], lambda to: write_pairs(to, pairs_of(votes)))):
        partial = path.with_name(f".{path.name}")
        save(partial)
        publish(partial, path)
    return summary, paths
