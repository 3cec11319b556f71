"""What visitors have made: kept for a while, each under a secret that only their browser knows, its files with it."""

import re
import secrets
import shutil
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from ..generate import save, slug

MAX_RUNS = 12  # of a visitor
MAX_VISITS = 1000
MAX_BYTES = 1_000_000_000  # of all visitors, about: what they made longest ago goes first
KEEP = 24 * 3600.0  # seconds after a visitor was last seen
THUMB = 320  # pixels
SECRET = re.compile(r"[\w-]{22}")


@dataclass(frozen=True)
class Files:
    """Addresses, relative to the page: of a picture with its settings in it, of a small one, and of its trace; and the
    name that they are saved by."""

    picture: str
    thumb: str
    trace: str
    name: str


@dataclass(frozen=True, eq=False)
class Kept:
    """Something that was made, by an id that nobody guesses, and the files of its pictures."""

    id: str
    what: Any
    files: list[Files]
    folder: Path
    size: int


@dataclass(eq=False)
class Visit:
    """Of one browser: what was made, by where it is shown, oldest first."""

    seen: float
    made: dict[str, list[Kept]] = field(default_factory=dict)


@dataclass(eq=False)
class Visits:
    """Of all browsers; for any thread."""

    visits: dict[str, Visit] = field(default_factory=dict)
    lock: Any = field(default_factory=threading.RLock)

    def enter(self, secret: Any) -> str:
        """The secret of a visitor who comes, a new one where theirs is none of ours, or no more."""
        with self.lock:
            self.tidy()
            if isinstance(secret, str) and secret in self.visits:
                self.visits[secret].seen = time.monotonic()
                return secret
            secret = secrets.token_urlsafe(16)
            self.visits[secret] = Visit(time.monotonic())
            return secret

    def made(self, secret: Any, where: str) -> list[Kept]:
        """What a visitor has made there, oldest first."""
        with self.lock:
            visit = self.visits.get(secret) if isinstance(secret, str) else None
            return [] if visit is None else list(visit.made.get(where, ()))

    def find(self, secret: Any, where: str, wanted: Any) -> Kept | None:
        """What a visitor has made there, by its id."""
        return next((kept for kept in self.made(secret, where) if kept.id == wanted), None)

    def add(self, secret: Any, where: str, what: Any, size: int, most: int, pictures: list[tuple] = ()) -> Kept:
        """Keeps what a visitor has made; the oldest of what they made there goes where it is more than `most`.

        Args:
            size: about how many bytes it takes here.
            pictures: image, trace, settings and the ending of its name, of each file to be made.

        Raises:
            ValueError: there is no such visitor, in words for them.
        """
        if not isinstance(secret, str) or not SECRET.fullmatch(secret):
            raise ValueError("This page has lost its visitor; please load it again")
        kept = secrets.token_urlsafe(16)
        folder = root() / kept
        files = [write(folder, *picture) for picture in pictures]
        item = Kept(kept, what, files, folder, size)
        with self.lock:
            visit = self.visits.setdefault(secret, Visit(0))
            visit.seen = time.monotonic()
            there = visit.made.setdefault(where, [])
            there.append(item)
            while len(there) > most:
                forget(there.pop(0))
            self.tidy()
        return item

    def tidy(self) -> None:
        """Forgets who was not here for long, and what was made longest ago where all is too much."""
        with self.lock:
            self._forget()

    def _forget(self) -> None:
        since = time.monotonic() - KEEP
        by_age = sorted(self.visits, key=lambda secret: self.visits[secret].seen)
        old = [secret for secret in by_age if self.visits[secret].seen < since]
        for secret in {*old, *by_age[: max(0, len(by_age) - MAX_VISITS)]}:
            for kept in (kept for there in self.visits.pop(secret).made.values() for kept in there):
                forget(kept)
        lists = [there for visit in self.visits.values() for there in visit.made.values()]
        total = sum(kept.size for there in lists for kept in there)
        for secret in by_age:
            for there in self.visits[secret].made.values() if secret in self.visits else ():
                while total > MAX_BYTES and there:
                    total -= there[0].size
                    forget(there.pop(0))


def root() -> Path:
    """Where Gradio serves files from, to whoever knows their names."""
    from gradio.utils import get_upload_folder

    return Path(get_upload_folder()).resolve()


def forget(kept: Kept) -> None:
    shutil.rmtree(kept.folder, ignore_errors=True)


def write(folder: Path, image: Image.Image, trace: Any, settings: dict[str, Any], ending: str) -> Files:
    """Writes a picture with its settings in it, a small one where it is large, and its trace."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"{slug(settings['prompt'], 60)}_seed{settings['seed']}_{ending}"
    picture, told = save(stem, image, trace, settings)
    small = picture
    if max(image.size) > THUMB:
        little = image.convert("RGB")
        little.thumbnail((THUMB, THUMB))
        small = stem.with_name(f"{stem.name}_small.jpg")
        little.save(small, quality=85)
    return Files(*map(address, (picture, small, told)), stem.name)


def address(path: Path) -> str:
    """Where the page finds a file."""
    return f"gradio_api/file={quote(path.as_posix())}"
