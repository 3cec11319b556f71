"""The manifest of a study: which pictures its folder holds, in SQLite; and how files get into the folder whole."""

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from commands.prompts import Prompt

MANIFEST = "manifest.sqlite"
WAIT = 60.0  # seconds for another process's transaction
SCHEMA = """
CREATE TABLE IF NOT EXISTS settings (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS prompts (prompt TEXT PRIMARY KEY, category TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS images (
    prompt TEXT NOT NULL, method TEXT NOT NULL, seed INTEGER NOT NULL,
    file TEXT NOT NULL, trace TEXT NOT NULL, bytes INTEGER NOT NULL,
    PRIMARY KEY (prompt, method, seed)
);
"""
ADD_PROMPT = """
INSERT INTO prompts VALUES (?, ?)
ON CONFLICT DO UPDATE SET category = excluded.category WHERE excluded.category <> ''
"""
ADD_IMAGE = """
INSERT INTO images VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET file = excluded.file, trace = excluded.trace, bytes = excluded.bytes
"""


def open_database(path: Path, schema: str | None) -> sqlite3.Connection:
    """Opens `path` for writing with the tables of `schema`, or for reading alone where it is `None`. May be used by
    many threads, one at a time."""
    uri = f"{path.resolve().as_uri()}?mode={'ro' if schema is None else 'rwc'}"
    connection = sqlite3.connect(uri, uri=True, timeout=WAIT, isolation_level=None, check_same_thread=False)
    if schema is not None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(schema)
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection, durable: bool = True) -> Iterator[None]:
    """Everything in the block or, after an error, nothing. What is `durable` has reached the disk at its end; the rest
    survives the end of the process, and gets there with the next that is."""
    connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


@dataclass(frozen=True)
class Image:
    """A picture. `file` and `trace` are relative to the study's folder; `bytes` counts both."""

    prompt: str
    method: str
    seed: int
    file: str
    trace: str
    bytes: int

    @property
    def key(self) -> tuple[str, str, int]:
        return self.prompt, self.method, self.seed

    def is_in(self, folder: Path) -> bool:
        """Whether its files are there: somebody may have deleted one."""
        return (folder / self.file).is_file() and (folder / self.trace).is_file()


class Manifest:
    """The manifest in `folder`, or the `part` of it that another machine wrote.

    Raises:
        ValueError: it is to be read only, and there is none.
    """

    def __init__(self, folder: Path, read_only: bool = False, part: int = 0) -> None:
        self.path = folder / (f"manifest.{part}.sqlite" if part else MANIFEST)
        if read_only and not self.path.is_file():
            raise ValueError(f"{str(folder)!r} is no study: there is no {MANIFEST} in it")
        self.connection = open_database(self.path, None if read_only else SCHEMA)

    def __enter__(self) -> "Manifest":
        return self

    def __exit__(self, *error: object) -> None:
        self.connection.close()

    def settle(self, settings: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Keeps these settings, unless `differing` has some; returns those."""
        with transaction(self.connection):
            differing = self.differing(settings)
            if not differing:
                rows = [(key, json.dumps(value)) for key, value in settings.items()]
                self.connection.executemany("INSERT OR IGNORE INTO settings VALUES (?, ?)", rows)
        return differing

    def differing(self, settings: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Those settings that the study has, on any machine, with another value: (its, this one)."""
        wanted = json.loads(json.dumps(settings))  # tuples become lists there too
        kept = {key: value for part in parts(self.path.parent) for key, value in part.settings().items()}
        kept |= self.settings()
        return {key: (kept[key], value) for key, value in wanted.items() if kept.get(key, value) != value}

    def settings(self) -> dict[str, Any]:
        """What every picture was made with."""
        return {key: json.loads(value) for key, value in self.connection.execute("SELECT key, value FROM settings")}

    def add(self, prompts: Iterable[Prompt] = (), images: Iterable[Image] = ()) -> None:
        """All of these at once, in the place of what was there: a picture made again, a prompt with a category now."""
        with transaction(self.connection):
            self.connection.executemany(ADD_PROMPT, map(astuple, prompts))
            self.connection.executemany(ADD_IMAGE, map(astuple, images))

    def prompts(self) -> list[Prompt]:
        """In the order in which they came."""
        return [Prompt(*row) for row in self.connection.execute("SELECT prompt, category FROM prompts ORDER BY rowid")]

    def images(self) -> list[Image]:
        """In the order in which they were made."""
        columns = "prompt, method, seed, file, trace, bytes"
        return [Image(*row) for row in self.connection.execute(f"SELECT {columns} FROM images ORDER BY rowid")]

    def collect(self) -> None:
        """Takes in what other machines wrote beside this manifest and it has not."""
        folder = self.path.parent
        for part in parts(folder):
            if part.path != self.path:
                prompts = {prompt.text for prompt in self.prompts()}
                made = {image.key for image in self.images() if image.is_in(folder)}
                self.add(
                    [prompt for prompt in part.prompts() if prompt.text not in prompts],
                    [image for image in part.images() if image.key not in made],
                )


def parts(folder: Path) -> Iterator[Manifest]:
    """The manifests of all machines, one after another, to read; also while their machines write them."""
    for path in sorted(folder.glob("manifest*.sqlite")):
        number = path.stem.removeprefix("manifest").lstrip(".")
        with Manifest(folder, read_only=True, part=int(number or 0)) as part:
            tables = part.connection.execute("SELECT name FROM sqlite_master WHERE name = 'images'")
            if tables.fetchone():  # else its machine has only just begun it
                yield part


def pictures(folder: Path) -> dict[tuple[str, str, int], Image]:
    """What any machine has made, by prompt, method and seed."""
    return {image.key: image for part in parts(folder) for image in part.images()}


def present(folder: Path) -> set[tuple[str, str, int]]:
    """Of `pictures` those whose files are there."""
    return {image.key for part in parts(folder) for image in part.images() if image.is_in(folder)}


def inside(folder: Path, file: str) -> Path:
    """The path of `file` in `folder`.

    Raises:
        ValueError: it lies outside, or is not there.
    """
    root = folder.resolve()
    path = (root / file).resolve()
    if not path.is_relative_to(root) or not path.is_file():
        raise ValueError(f"there is no {file!r} in the study's folder")
    return path


def publish(source: Path, target: Path) -> int:
    """Moves a finished file to where it belongs, on the disk and whole before it has that name; returns its bytes.
    Both lie on the same file system."""
    with open(source, "rb+") as file:
        os.fsync(file.fileno())
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(source, target)
    if os.name == "posix":  # the name itself too
        folder = os.open(target.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    return target.stat().st_size


def write_text(path: Path, text: str) -> None:
    """Writes a whole file or none."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    publish(partial, path)
