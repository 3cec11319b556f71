"""Preference pairs: the format that a study exports and the reward learns from (docs/preference_pairs.md)."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path


@dataclass(frozen=True)
class Pair:
    """One vote.

    Attributes:
        prompt: what both pictures were made for.
        chosen, rejected: image files, relative to the file of pairs; where `tie`, in any order.
        rater: who voted, `None` where unknown.
        question: what was asked, e.g. ``"overall"``.
        tie: whether neither was preferred.
        weight: of this vote in training, above 0.
    """

    prompt: str
    chosen: str
    rejected: str
    rater: str | None = None
    question: str = "overall"
    tie: bool = False
    weight: float = 1.0


def write_pairs(path: Path, pairs: Iterable[Pair]) -> None:
    """Writes one JSON object a line."""
    lines = [json.dumps(asdict(pair), ensure_ascii=False) + "\n" for pair in pairs]
    Path(path).write_text("".join(lines), encoding="utf-8")


def read_pairs(path: Path) -> list[Pair]:
    """Reads what `write_pairs` wrote.

    Raises:
        ValueError: there is no such file, or a line is no pair, or names a picture that is not there or lies outside
            the file's folder; says which line.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"`pairs` must be a .jsonl file, got {str(path)!r}.")
    known, root = {f.name for f in fields(Pair)}, path.parent.resolve()
    pairs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"`pairs` line {number} is no JSON: {error}.") from None
        missing = {"prompt", "chosen", "rejected"} - set(row) if isinstance(row, dict) else {"prompt"}
        if missing or set(row) - known:
            raise ValueError(f"`pairs` line {number} must be an object of {sorted(known)}, got {line[:200]!r}.")
        pair = Pair(**row)
        if not all(isinstance(v, str) for v in (pair.prompt, pair.chosen, pair.rejected, pair.question)):
            raise ValueError(f"`pairs` line {number}: prompt, chosen, rejected and question must be strings.")
        if not isinstance(pair.tie, bool) or not isinstance(pair.rater, (str, type(None))):
            raise ValueError(f"`pairs` line {number}: `tie` must be true or false, `rater` a string or null.")
        if (
            isinstance(pair.weight, bool)
            or not isinstance(pair.weight, (int, float))
            or not 0 < pair.weight < float("inf")
        ):
            raise ValueError(f"`pairs` line {number}: `weight` must be a finite number above 0, got {pair.weight!r}.")
        for file in (pair.chosen, pair.rejected):
            target = (root / file).resolve()
            if not target.is_relative_to(root) or not target.is_file():
                raise ValueError(f"`pairs` line {number}: no picture {file!r} in the folder of the pairs.")
        pairs.append(pair)
    return pairs
