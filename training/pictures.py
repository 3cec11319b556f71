"""Captioned pictures: of a folder, of webdataset shards, or of a data set of the hub. In a fixed order, each read when
it is asked for, so that memory does not grow with how many there are.

=====================  ===============================================================================================
source                 what it holds
=====================  ===============================================================================================
folder of pictures     ``metadata.jsonl``, a picture a line: ``file_name``, a caption or several paraphrases under
                       ``text``, ``caption``, ``captions`` or ``prompt``, and optionally, under ``negative``, captions
                       that are wrong about it
folder of pictures     beside each the caption, ``NAME.txt``; folders in it are looked through
``.tar``, or a folder  webdataset shards: pictures with ``KEY.txt``, or ``KEY.json`` with the columns above
``owner/name[:split]`` a data set of the hub with a column of pictures and the columns above
=====================  ===============================================================================================
"""

import contextlib
import io
import json
import os
import re
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

TEXT = ("text", "caption", "captions", "prompt")
NEGATIVE = ("negative", "negatives")
ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
METADATA = "metadata.jsonl"
DATA_SET = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(:[\w.]+)?")


@dataclass(frozen=True)
class Picture:
    """One picture and what is said about it.

    Attributes:
        name: where it lies, for errors.
        captions: paraphrases, at least one.
        wrong: captions that are wrong about it; may be none.
        open: gives the picture as PIL has it, perhaps not decoded yet.
    """

    name: str
    captions: tuple[str, ...]
    wrong: tuple[str, ...]
    open: Callable[[], Image.Image]

    @cached_property
    def size(self) -> tuple[int, int]:
        """Width and height as it is looked at, from its head.

        Raises:
            ValueError: it cannot be read.
        """
        with _told(self.name), self.open() as image:
            on_its_side = image.getexif().get(0x0112, 1) >= 5  # EXIF's orientation
            return image.size[::-1] if on_its_side else image.size

    def image(self) -> Image.Image:
        """RGB, upright, what is transparent on white.

        Raises:
            ValueError: it cannot be read.
        """
        with _told(self.name), self.open() as opened:
            image = ImageOps.exif_transpose(opened)
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return image.convert("RGB")


@contextlib.contextmanager
def _told(name: str) -> Iterator[None]:
    """Says which picture it was that PIL could not read."""
    try:
        yield
    # PIL raises these of what is cut off, of another format, or larger than it dares to decode.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"picture {name!r} cannot be read: {' '.join(str(error).split())}") from error


class Pictures(ABC):
    """A sequence of `Picture`."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, number: int) -> Picture:
        """Raises ValueError where there is no caption, or no picture; names it."""

    def __iter__(self) -> Iterator[Picture]:
        return (self[number] for number in range(len(self)))


def read(source: str) -> Pictures:
    """The pictures of a source, see the table above.

    Raises:
        ValueError: it is none, or what it says about its pictures cannot be read; says where.
    """
    path = Path(source).expanduser()
    if path.is_file() and path.suffix == ".tar":
        return _Tars([path])
    if path.is_dir():
        if (path / METADATA).is_file():
            return _Folder(path)
        if tars := sorted(path.glob("*.tar")):
            return _Tars(tars)
        return _Beside(path)
    if path.exists() or not DATA_SET.fullmatch(source):
        raise ValueError(f"{source!r} is no folder, .tar file or id of a data set (owner/name or owner/name:split)")
    return _DataSet(source)


def texts(row: dict[str, Any], names: tuple[str, ...], where: str) -> tuple[str, ...]:
    """The strings in the first of these columns that `row` has.

    Raises:
        ValueError: something else is in it.
    """
    for name in names:
        if (value := row.get(name)) is not None:
            found = [value] if isinstance(value, str) else value
            if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
                raise ValueError(f"{where}: {name!r} must be a string or a list of strings, got {value!r:.100}")
            return tuple(clean for text in found if (clean := " ".join(text.split())))
    return ()


def said(row: dict[str, Any], where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Captions and wrong captions of a row.

    Raises:
        ValueError: there is no caption.
    """
    captions = texts(row, TEXT, where)
    if not captions:
        raise ValueError(f"{where} has no caption: there is nothing under {', '.join(TEXT)}")
    return captions, texts(row, NEGATIVE, where)


class _Folder(Pictures):
    """By ``metadata.jsonl``, of which only the places where its lines begin are kept."""

    def __init__(self, path: Path) -> None:
        self.path, self.metadata = path, path / METADATA
        starts = []
        with self.metadata.open("rb") as file:
            at = 0
            for number, line in enumerate(file, 1):
                if line.strip():
                    self._row(line, number)
                    starts.append((at, number))
                at += len(line)
        if not starts:
            raise ValueError(f"{str(self.metadata)!r} is empty")
        self.starts = np.array(starts)

    def _row(self, line: bytes, number: int) -> Picture:
        where = f"{str(self.metadata)!r} line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{where} is no JSON: {error}") from None
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
            raise ValueError(f"{where} must be an object with a `file_name`, got {line.decode(errors='replace'):.100}")
        file = self.path / row["file_name"]
        if not file.is_file() or ".." in file.parts or not file.is_relative_to(self.path):
            raise ValueError(f"{where}: no picture {row['file_name']!r} in the folder of {METADATA}")
        return Picture(str(file), *said(row, where), lambda: Image.open(file))

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, number: int) -> Picture:
        at, line = self.starts[number]
        with self.metadata.open("rb") as file:
            file.seek(at)
            return self._row(file.readline(), int(line))


class _Beside(Pictures):
    """With ``NAME.txt`` beside each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names = sorted(
            os.path.relpath(os.path.join(folder, name), path)
            for folder, _, names in os.walk(path)
            for name in names
            if name.lower().endswith(ENDINGS) and not name.startswith(".")
        )
        if not self.names:
            raise ValueError(f"{str(path)!r} holds no {METADATA}, no .tar and no picture ({', '.join(ENDINGS)})")
        for name in self.names:
            if not (path / name).with_suffix(".txt").is_file():
                raise ValueError(f"picture {str(path / name)!r} has no caption: there is no .txt of its name beside it")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, number: int) -> Picture:
        file = self.path / self.names[number]
        text = file.with_suffix(".txt").read_text(encoding="utf-8-sig")
        captions, _ = said({"text": text}, f"picture {str(file)!r}")
        return Picture(str(file), captions, (), lambda: Image.open(file))


class _Tars(Pictures):
    """webdataset shards: files of one picture have one name up to its first dot."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        # Only how many there are in each is kept; where they lie, of the tars that were last asked for.
        self.ends = np.cumsum([len(_index(path)) for path in paths])
        if not self.ends[-1]:
            raise ValueError(f"{str(paths[0])!r} holds no picture ({', '.join(ENDINGS)})")

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, number: int) -> Picture:
        shard = int(np.searchsorted(self.ends, number, side="right"))
        path = self.paths[shard]
        key, files = _index(path)[number - (int(self.ends[shard - 1]) if shard else 0)]
        where = f"picture {key!r} of {str(path)!r}"
        row: dict[str, Any] = {}
        if "json" in files:
            try:
                row = json.loads(_bytes(path, *files["json"]))
            except ValueError as error:
                raise ValueError(f"{where}: its json is no JSON: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f"{where}: its json must be an object")
        if "txt" in files:
            row = {TEXT[0]: _bytes(path, *files["txt"]).decode("utf-8", "replace"), NEGATIVE[0]: row.get(NEGATIVE[0])}
        place = next(place for kind, place in files.items() if f".{kind}" in ENDINGS)
        name = f"{path}: {key}"
        return Picture(name, *said(row, where), lambda: Image.open(io.BytesIO(_bytes(path, *place))))


@lru_cache(maxsize=4)
def _index(path: Path) -> list[tuple[str, dict[str, tuple[int, int]]]]:
    """The pictures of a tar: key, and by ending where a file begins and how long it is."""
    found: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                folder, slash, name = member.name.rpartition("/")
                key, _, kind = name.partition(".")
                if member.isfile() and key:
                    found.setdefault(folder + slash + key, {})[kind.lower()] = member.offset_data, member.size
    except (tarfile.TarError, OSError) as error:
        raise ValueError(f"{str(path)!r} cannot be read: {error}") from None
    return [(key, files) for key, files in found.items() if any(f".{kind}" in ENDINGS for kind in files)]


def _bytes(path: Path, at: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(at)
        return file.read(size)


def load_split(source: str) -> Any:
    """The rows of ``owner/name[:split]``, which lie on the disk.

    Raises:
        ValueError: there is no package `datasets`, the data set cannot be read, or it has several splits.
    """
    try:
        from datasets import load_dataset
    except ImportError:
        raise ValueError('a data set takes the package datasets: pip install "online-guidance[datasets]"') from None
    name, _, split = source.partition(":")
    try:
        rows = load_dataset(name, split=split or None)
    except (OSError, ValueError) as error:
        raise ValueError(f"{source!r} cannot be read: {' '.join(str(error).split())}") from None
    if not split:
        if len(rows) > 1:
            raise ValueError(f"{source!r} has several splits, give one as {name}:SPLIT: {', '.join(rows)}")
        (rows,) = rows.values()
    return rows


class _DataSet(Pictures):
    """A data set of the hub, which lies on the disk as Arrow."""

    def __init__(self, source: str) -> None:
        rows = load_split(source)
        self.source = source
        pictures = [column for column, kind in rows.features.items() if type(kind).__name__ == "Image"]
        if not pictures:
            raise ValueError(f"{source!r} has no column of pictures, there are {', '.join(rows.column_names)}")
        self.column, self.pictures = pictures[0], rows.select_columns(pictures[:1])
        self.told = rows.select_columns([c for c in rows.column_names if c in TEXT + NEGATIVE])

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, number: int) -> Picture:
        where = f"row {number} of {self.source!r}"
        return Picture(where, *said(self.told[number], where), lambda: self.pictures[number][self.column])
