"""Latents of captioned pictures on the disk, as `training.latents` makes them, and how recipes draw from them."""

import logging
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .noise import noise_levels
from .shards import Shard, ShardFolder

KIND = "latents of captioned pictures"
OPEN = 1024  # shards, at most: 262,144 pictures, whose captions take some 200 MB
HELD_OUT = 10  # one in so many pictures is held out, by its first caption
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """Rows of one shape.

    Attributes:
        latents: fp16 ``(n, C, H, W)`` at unit variance.
        captions: paraphrases of each, at least one.
        wrong: captions that are wrong about each; may be none.
        teacher: embeddings of the pictures by the teacher, unit vectors fp16 ``(n, dim)``; `None` without one.
    """

    latents: torch.Tensor
    captions: list[list[str]]
    wrong: list[list[str]]
    teacher: torch.Tensor | None

    def __len__(self) -> int:
        return len(self.latents)

    def caption(self, rng: np.random.Generator) -> list[str]:
        """One of the paraphrases of each."""
        return [texts[rng.integers(len(texts))] for texts in self.captions]


class Cache:
    """Folders of `training.latents`, as one. Rows are read when they are drawn; of each only where it lies is kept.

    Attributes:
        path, what: the first folder, and the description that it was made with.
        held_out: which rows are, by their first caption, ``(rows,)``.
        numbers: which picture of the source each row is ``(rows,)``.

    Raises:
        ValueError: a folder is another, or empty, or has not the same autoencoder and teacher as the first.
    """

    def __init__(self, *folders: Path) -> None:
        paths: list[Path] = []
        for path in folders:
            folder = ShardFolder.open(path)
            if folder.what.get("kind") != KIND:
                raise ValueError(f"{str(path)!r} holds no {KIND}: `online-guidance train latents` makes them")
            made = [shard.path for shard in folder.shards()]
            if not made:
                raise ValueError(f"{str(path)!r} holds no finished shard")
            if (left := -(-folder.what["pictures"] // folder.what["shard_size"]) - len(made)) > 0:
                logger.warning("%s: %d shards are not made yet, the others are read", path, left)
            if not paths:
                self.path, self.what = folder.path, folder.what
            for name in ("vae", "teacher"):
                if folder.what[name] != self.what[name]:
                    raise ValueError(f"{str(path)!r} and {str(self.path)!r} were not made with the same {name}")
            paths += made
        self._open = lru_cache(maxsize=OPEN)(lambda number: Shard(paths[number]))
        self.shapes: list[tuple[int, int]] = []  # height and width of latents
        columns: list[np.ndarray] = []
        numbers: list[int] = []
        hashes: list[int] = []
        for number in range(len(paths)):
            about, first = self._open(number).about, 0
            for height, width, count in about["shapes"]:
                if (height, width) not in self.shapes:
                    self.shapes.append((height, width))
                shape = self.shapes.index((height, width))
                columns.append(np.stack(np.broadcast_arrays(number, np.arange(first, first + count), first, shape), 1))
                first += count
            numbers += about["numbers"]
            hashes += [zlib.crc32(texts[0].encode()) for texts in about["captions"]]
        self._shard, self._row, self._first, self._shape = np.concatenate(columns).astype(np.int32).T
        self.numbers, first = np.array(numbers), np.array(hashes)
        self.held_out = first % HELD_OUT == 0
        if not self.held_out.any():
            self.held_out = first == first.min()

    def __len__(self) -> int:
        return len(self.held_out)

    @property
    def channels(self) -> int:
        return self.what["channels"]

    @property
    def levels(self) -> torch.Tensor:
        """Noise shares that the checkpoint's sampler goes through, for `training.noise.noise_levels`."""
        return torch.tensor(self.what["levels"])

    def noise_levels(self, n: int, rng: np.random.Generator) -> torch.Tensor:
        """``(n,)`` of them, stratified."""
        return noise_levels(n, rng, self.levels)

    def take(self, rows: Sequence[int] | np.ndarray) -> Batch:
        """These rows, which are of one shape."""
        rows = np.asarray(rows)
        height, width = self.shapes[self._shape[rows[0]]]
        latents = torch.empty(len(rows), self.channels, height, width, dtype=torch.float16)
        captions: list[Any] = [None] * len(rows)
        wrong: list[Any] = [None] * len(rows)
        teacher: torch.Tensor | None = None
        for number in np.unique(self._shard[rows]):
            shard = self._open(int(number))
            at = np.flatnonzero(self._shard[rows] == number)
            inside = self._row[rows[at]]
            latents[at] = shard.rows(f"latents.{height}x{width}", (inside - self._first[rows[at]]).tolist())
            if self.what["teacher"] is not None:
                found = shard.rows("teacher", inside.tolist())
                teacher = found.new_empty(len(rows), found.shape[1]) if teacher is None else teacher
                teacher[at] = found
            for i, row in zip(at, inside, strict=True):
                captions[i], wrong[i] = shard.about["captions"][row], shard.about["wrong"][row]
        return Batch(latents, captions, wrong, teacher)

    def captions(self, rows: np.ndarray) -> Iterator[list[str]]:
        """Of these rows, which may be of any shape; quick where they are in order."""
        return (self._open(int(self._shard[row])).about["captions"][self._row[row]] for row in rows)

    def of_shape(self, rows: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """Those of `rows` whose latents are ``(C, H, W)``."""
        if shape[0] != self.channels or shape[1:] not in self.shapes:
            return rows[:0]
        return rows[self._shape[rows] == self.shapes.index(shape[1:])]

    def by_shape(self, rows: np.ndarray) -> list[np.ndarray]:
        """Rows of one shape each."""
        shapes = self._shape[rows]
        return [rows[shapes == shape] for shape in np.unique(shapes)]

    def batches(self, rows: np.ndarray, size: int) -> Iterator[Batch]:
        """All of these rows once, shape by shape."""
        for group in self.by_shape(rows):
            for first in range(0, len(group), size):
                yield self.take(group[first : first + size])


class Draws:
    """Random batches of some rows of a cache, each of one shape; shapes as often as their rows are."""

    def __init__(self, cache: Cache, rows: np.ndarray, size: int) -> None:
        self.cache, self.size, self.groups = cache, size, cache.by_shape(rows)
        self.share = np.array([len(group) for group in self.groups]) / len(rows)

    def __call__(self, rng: np.random.Generator) -> Batch:
        """`size` rows, no row twice; all of a shape that has fewer."""
        group = self.groups[rng.choice(len(self.groups), p=self.share)]
        return self.cache.take(rng.choice(group, min(self.size, len(group)), replace=False))


def split(cache: Cache, test: Cache | None) -> tuple[np.ndarray, tuple[Cache, np.ndarray]]:
    """Rows to train on, and the cache and rows to test on: those that are held out, or all of another cache.

    Raises:
        ValueError: there are none of either, or the other cache holds latents of another autoencoder.
    """
    if test is not None:
        if test.what["vae"] != cache.what["vae"]:
            raise ValueError(f"{str(test.path)!r} and {str(cache.path)!r} hold latents of different autoencoders")
        return np.arange(len(cache)), (test, np.arange(len(test)))
    train, held_out = (np.flatnonzero(cache.held_out == side) for side in (False, True))
    if not len(train) or not len(held_out):
        raise ValueError(f"{str(cache.path)!r} holds {len(cache)} pictures, too few to hold some out: give others")
    return train, (cache, held_out)
