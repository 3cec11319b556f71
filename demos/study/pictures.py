"""Pictures as raters get them: nothing but pixels, so that a file does not tell what made it."""

import io
import struct
from collections import OrderedDict
from pathlib import Path

import numpy as np
from PIL import Image

SPOILT_GRID = 16  # an attention check shuffles so many by so many tiles of a picture
MAGIC = b"\x89PNG\r\n\x1a\n"
SHOWN = {b"IHDR", b"PLTE", b"tRNS", b"cHRM", b"gAMA", b"iCCP", b"sRGB", b"IDAT", b"IEND"}  # what has to do with colours
IN_MEMORY = 200_000_000  # bytes


class Album:
    """PNGs that were served of late, for one thread."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Path, int, bool], bytes] = OrderedDict()
        self._bytes = 0

    def find(self, path: Path, spoilt: bool) -> bytes | None:
        """What `keep` was given of this picture, unless it has been made again or is long ago."""
        key = self._key(path, spoilt)
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def keep(self, path: Path, spoilt: bool, data: bytes) -> None:
        key = self._key(path, spoilt)
        self._bytes += len(data) - len(self._kept.pop(key, b""))
        self._kept[key] = data
        while self._bytes > IN_MEMORY and len(self._kept) > 1:
            self._bytes -= len(self._kept.popitem(last=False)[1])

    @staticmethod
    def _key(path: Path, spoilt: bool) -> tuple[Path, int, bool]:
        return path, path.stat().st_mtime_ns, spoilt


def served(path: Path, spoilt: bool) -> bytes:
    """The PNG of a picture, without metadata; `spoilt`, with its tiles shuffled."""
    raw = path.read_bytes()
    if raw.startswith(MAGIC) and not spoilt:
        return bare(raw)  # to encode it again takes a hundred times as long
    with Image.open(io.BytesIO(raw)) as opened:
        image = opened.convert("RGB")
    data = io.BytesIO()
    (shuffled(image) if spoilt else image).save(data, "PNG")
    return data.getvalue()


def bare(png: bytes) -> bytes:
    """The same PNG with those chunks alone that have to do with how it looks."""
    parts, at = [MAGIC], len(MAGIC)
    while at + 12 <= len(png):
        length, kind = struct.unpack_from(">I4s", png, at)
        end = at + 12 + length  # with its length, name and checksum
        if kind in SHOWN:
            parts.append(png[at:end])
        at = end
    return b"".join(parts)


def shuffled(image: Image.Image) -> Image.Image:
    side = max(1, min(image.size) // SPOILT_GRID)
    tiles = np.asarray(image)[: image.height // side * side, : image.width // side * side]
    rows, columns = tiles.shape[0] // side, tiles.shape[1] // side
    tiles = tiles.reshape(rows, side, columns, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)
    tiles = np.random.default_rng(0).permutation(tiles).reshape(rows, columns, side, side, 3)
    return Image.fromarray(tiles.swapaxes(1, 2).reshape(rows * side, columns * side, 3))
