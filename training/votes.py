"""Votes on pairs of pictures: of files as a study exports them (docs/preference_pairs.md), or with the columns of
Pick-a-Pic (arXiv 2305.01569), in parquet files or a data set of the hub."""

import io
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from commands.pairs import read_pairs

from .pictures import DATA_SET, Picture, Pictures, load_split

PICTURES, TOLD = ("jpg_0", "jpg_1"), ("caption", "label_0", "label_1")  # columns of Pick-a-Pic


class Votes(Pictures):
    """Votes, and their pictures in a fixed order.

    Args:
        sources: ``.jsonl`` files of pairs, ``.parquet`` files or ``owner/name[:split]`` with the columns of Pick-a-Pic.
        question: which votes of the ``.jsonl`` files are meant.

    Attributes:
        prompts: of each vote.
        chosen, rejected: which of the pictures they are, ``(votes,)``.
        tie: where neither was preferred.
        weight: of each vote in training.

    Raises:
        ValueError: a source cannot be read.
    """

    def __init__(self, sources: Sequence[str | Path], question: str = "overall") -> None:
        self._sources: list[Any] = [[]]  # files of pictures, then tables
        self._files: dict[Path, int] = {}
        self._where: list[tuple[int, int, int]] = []  # of each picture: source, row, column
        rows: list[tuple[str, int, int, bool, float]] = []
        for source in map(str, sources):
            if source.endswith(".jsonl"):
                for pair in read_pairs(Path(source)):
                    if pair.question == question:
                        chosen, rejected = (self._file(Path(source).parent / x) for x in (pair.chosen, pair.rejected))
                        rows.append((pair.prompt, chosen, rejected, pair.tie, pair.weight))
            else:
                rows += self._table(source)
        self.prompts = [row[0] for row in rows]
        self.chosen, self.rejected = (np.array([row[i] for row in rows], np.int64) for i in (1, 2))
        self.tie, self.weight = np.array([row[3] for row in rows], bool), np.array([row[4] for row in rows], np.float32)
        self._places = np.array(self._where, np.int32).reshape(-1, 3)

    def _file(self, path: Path) -> int:
        """The number of a picture, which may be in many pairs."""
        if path not in self._files:
            self._files[path] = len(self._where)
            self._where.append((0, len(self._sources[0]), 0))
            self._sources[0].append(path)
        return self._files[path]

    def _table(self, source: str) -> list[tuple[str, int, int, bool, float]]:
        table = _Parquet(source) if Path(source).is_file() else _Rows(source)
        self._sources.append(table)
        rows = []
        for i, (caption, first, second) in enumerate(table.labels()):
            if not first and not second:  # nobody voted
                continue
            at = len(self._where)
            self._where += [(len(self._sources) - 1, i, 0), (len(self._sources) - 1, i, 1)]
            chosen, rejected = (at, at + 1) if first >= second else (at + 1, at)
            rows.append((" ".join(str(caption).split()), chosen, rejected, first == second, 1.0))
        return rows

    def __len__(self) -> int:
        """Pictures."""
        return len(self._places)

    def __getitem__(self, number: int) -> Picture:
        source, row, column = map(int, self._places[number])
        table = self._sources[source]
        if source == 0:
            return Picture(str(table[row]), (str(table[row]),), (), lambda: Image.open(table[row]))
        name = f"{PICTURES[column]} of row {row} of {table.source}"
        return Picture(name, (name,), (), lambda: table.image(row, PICTURES[column]))


class _Parquet:
    """A parquet file, of which one group of rows is in memory."""

    def __init__(self, source: str) -> None:
        from pyarrow import ArrowInvalid
        from pyarrow.parquet import ParquetFile

        try:
            self.file = ParquetFile(source)
        except (OSError, ArrowInvalid) as error:
            raise ValueError(f"{source!r} cannot be read: {error}") from None
        self.source = source
        missing(source, self.file.schema_arrow.names)
        groups = range(self.file.num_row_groups)
        self.ends = np.cumsum([self.file.metadata.row_group(group).num_rows for group in groups])
        self.group = lru_cache(maxsize=1)(lambda group: self.file.read_row_group(group, list(PICTURES)))

    def labels(self) -> Iterator[tuple]:
        columns = self.file.read(list(TOLD)).to_pydict()
        return zip(*(columns[name] for name in TOLD), strict=True)

    def image(self, row: int, column: str) -> Image.Image:
        group = int(np.searchsorted(self.ends, row, side="right"))
        return opened(self.group(group)[column][row - (int(self.ends[group - 1]) if group else 0)].as_py())


class _Rows:
    """A split of a data set of the hub."""

    def __init__(self, source: str) -> None:
        if Path(source).exists() or not DATA_SET.fullmatch(source):
            raise ValueError(f"{source!r} is no .jsonl or .parquet file, and no id of a data set (owner/name:split)")
        self.source, rows = source, load_split(source)
        missing(source, rows.column_names)
        self.told = rows.select_columns(list(TOLD))
        self.pictures = {name: rows.select_columns([name]) for name in PICTURES}

    def labels(self) -> Iterator[tuple]:
        return (tuple(row[name] for name in TOLD) for row in self.told)

    def image(self, row: int, column: str) -> Image.Image:
        return opened(self.pictures[column][row][column])


def missing(source: str, names: Sequence[str]) -> None:
    """Raises ValueError where a column of Pick-a-Pic is not among `names`."""
    if lacking := [name for name in TOLD + PICTURES if name not in names]:
        raise ValueError(f"{source!r} has no column {', '.join(lacking)}: there are {', '.join(names)}")


def opened(value: Any) -> Image.Image:
    """A picture from its bytes, or as `datasets` has them."""
    if isinstance(value, dict):
        value = value["bytes"]
    return Image.open(io.BytesIO(value)) if isinstance(value, bytes) else value


def by_prompt(votes: Votes, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Votes to train on and votes to test on, the latter of a sixth of the prompts; ties are no test."""
    prompts = sorted(set(votes.prompts))
    held_out = set(np.random.default_rng(seed).permutation(prompts)[: max(1, len(prompts) // 6)].tolist())
    test = np.array([prompt in held_out for prompt in votes.prompts], bool)
    return np.flatnonzero(~test), np.flatnonzero(test & ~votes.tie)
