"""Judges beside people: which method each prefers, and how often it agrees with the votes."""

from typing import Any

import numpy as np
import pandas as pd

from . import preference
from .scores import KEY

PAIR = ["prompt", "seed", "method_a", "method_b"]


def judges_of(scores: pd.DataFrame) -> list[str]:
    return [str(column) for column in scores.columns if column not in KEY]


def preferences(scores: pd.DataFrame, judge: str) -> pd.DataFrame:
    """For every pair of methods with the same prompt and seed which one has the higher score: `PAIR` and ``preferred``
    (``a``, ``b`` or ``tie``). `scores` as `read_scores` returns them."""
    own = scores[[*KEY, judge]].dropna().rename(columns={judge: "score"})
    pairs = own.merge(own, on=["prompt", "seed"], suffixes=("_a", "_b"))
    pairs = pairs[pairs["method_a"] < pairs["method_b"]]
    better = np.sign(pairs["score_a"] - pairs["score_b"]).map({1.0: "a", 0.0: "tie", -1.0: "b"})
    return pairs[PAIR].assign(preferred=better).reset_index(drop=True)


def summarize(scores: pd.DataFrame, votes: pd.DataFrame | None) -> dict[str, Any]:
    """What the judges say as plain numbers; `votes` as `report.read_votes` returns them, `None` where there are none.

    Returns:
        ``judges``: of each its ``pairs`` (``a``, ``b``, ``pictures`` pairs of them, ``ties`` among these, the win
        ``rate`` of a, ties as halves, and its ``interval`` over prompts) and its ``agreement`` with the decided votes
        on each question (``votes``, ``rate``, a judge's tie half, and ``interval``). ``people``: how often two raters
        who decided on the same pair agree, for each question, `None` where no two did.
    """
    empty = votes is None or votes.empty
    decided = None if empty else votes[votes["counts"] & votes["preferred"].isin(["a", "b"])]
    rows = []
    for judge in judges_of(scores):
        own = preferences(scores, judge)
        pairs = [
            {"a": a, "b": b, "pictures": len(group), "ties": int((group["preferred"] == "tie").sum())}
            | _rate(group["preferred"].map({"a": 1.0, "tie": 0.5, "b": 0.0}), group["prompt"])
            for (a, b), group in own.groupby(["method_a", "method_b"])
        ]
        agreement = {}
        if decided is not None:
            both = decided.merge(own, on=PAIR, suffixes=("", "_judge"))
            same = np.where(both["preferred_judge"] == "tie", 0.5, both["preferred_judge"] == both["preferred"])
            for question, part in both.assign(same=same).groupby("question", sort=False):
                agreement[str(question)] = {"votes": len(part)} | _rate(part["same"], part["prompt"])
        rows.append({"judge": judge, "pairs": pairs, "agreement": agreement})
    people = {} if decided is None else {str(q): _alike(part) for q, part in decided.groupby("question", sort=False)}
    return {"judges": rows, "people": people}


def _rate(values: pd.Series, prompts: pd.Series) -> dict[str, Any]:
    interval = preference.clustered_interval(values.to_numpy(float), prompts.to_numpy())
    return {"rate": float(values.mean()), "interval": interval}


def _alike(votes: pd.DataFrame) -> float | None:
    """How often two votes on the same pair are the same."""
    counts = votes.groupby(PAIR)["preferred"].value_counts().unstack(fill_value=0)
    total = counts.sum(axis=1)
    chances = (total * (total - 1)).sum()
    return float((counts * (counts - 1)).to_numpy().sum() / chances) if chances else None


def text(found: dict[str, Any]) -> list[str]:
    """A line for each judge and pair of methods, and for each judge and question."""
    lines = []
    for row in found["judges"]:
        for pair in row["pairs"]:
            a, b, rate, interval = pair["a"], pair["b"], pair["rate"], pair["interval"]
            if rate < 0.5:
                a, b, rate, interval = b, a, 1 - rate, interval and (1 - interval[1], 1 - interval[0])
            lines.append(
                f"{row['judge']}: {a} has the higher score than {b} in {_percent(rate, interval)}, "
                f"{pair['pictures']} pairs of pictures, {pair['ties']} ties"
            )
        for question, with_votes in row["agreement"].items():
            alike = found["people"].get(question)
            beside = "" if alike is None else f"; two raters agree in {100 * alike:.1f} %"
            lines.append(
                f"{row['judge']}: agrees with people ({question}) in "
                f"{_percent(with_votes['rate'], with_votes['interval'])}, {with_votes['votes']} decided votes{beside}"
            )
    return lines


def _percent(rate: float, interval: tuple[float, float] | None) -> str:
    around = "" if interval is None else f", 95 % {100 * interval[0]:.1f}–{100 * interval[1]:.1f}"
    return f"{100 * rate:.1f} %{around}"


def beside(votes: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """`votes` with the scores of both pictures by every judge, as ``NAME_a`` and ``NAME_b``."""
    for letter in "ab":
        named = {judge: f"{judge}_{letter}" for judge in judges_of(scores)}
        own = scores.rename(columns=named | {"method": f"method_{letter}"})
        votes = votes.merge(own, how="left", on=["prompt", "seed", f"method_{letter}"])
    return votes
