"""Folders of shards: what long work has finished is on disk, whole, checked, and never made twice.

A folder holds a description, ``what.json``, and shards ``00000.safetensors``, ``00001.safetensors``, … of tensors with
JSON beside them in the metadata. A shard appears under its name when it is complete: work that is killed at any moment
loses the shard it was at and nothing else, and the same command goes on.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

DESCRIPTION = "what.json"


def checksum(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().cpu().view(torch.uint8).numpy())
    return digest.hexdigest()


class Shard:
    """One finished shard, read when it is asked.

    Attributes:
        path: its file.
        about: the JSON that was written with it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _file(self) -> Any:
        try:
            return safe_open(self.path, "pt")
        except SafetensorError as error:
            raise ValueError(f"shard {str(self.path)!r} is broken: delete it, and go on by the same command") from error

    @cached_property
    def about(self) -> dict[str, Any]:
        return json.loads(self._file.metadata()["about"])

    @property
    def names(self) -> list[str]:
        """Of its tensors."""
        return list(self._file.keys())

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._file.get_slice(name).get_shape())

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor, whole."""
        return self._file.get_tensor(name)

    def rows(self, name: str, rows: Iterable[int | tuple[int, ...]]) -> torch.Tensor:
        """Those rows of a tensor, or places ``(row, …)`` of it, and no others from the disk."""
        lazy = self._file.get_slice(name)
        return torch.stack([lazy[row] for row in rows])

    def check(self) -> None:
        """Reads it all.

        Raises:
            ValueError: its bytes are not those that were written.
        """
        tensors = {name: self.tensor(name) for name in self.names}
        if checksum(tensors) != self._file.metadata()["sha256"]:
            raise ValueError(f"shard {str(self.path)!r} is not as it was written: delete it, and go on")


class ShardFolder:
    """The shards of one folder.

    Args:
        path: the folder; made where there is none.
        what: its description. A folder that holds another one is refused: its shards would be of something else.

    Raises:
        ValueError: the folder holds shards of another description; says what differs.
    """

    def __init__(self, path: Path, what: Mapping[str, Any]) -> None:
        self.path, self.what = Path(path), json.loads(json.dumps(what))
        description = self.path / DESCRIPTION
        if description.is_file():
            held = json.loads(description.read_text())
            if held != self.what:
                other = [f"{k} {held.get(k)!r}" for k in sorted({*held, *self.what}) if held.get(k) != self.what.get(k)]
                raise ValueError(f"{str(self.path)!r} was made otherwise, with {', '.join(other)}: take another folder")
            return
        self.path.mkdir(parents=True, exist_ok=True)
        if any(self.path.iterdir()):
            raise ValueError(f"{str(self.path)!r} is not empty and has no {DESCRIPTION}: take another folder")
        _write_whole(description, lambda file: file.write_text(json.dumps(self.what, indent=1, ensure_ascii=False)))

    @classmethod
    def open(cls, path: Path) -> "ShardFolder":
        """A folder as it is.

        Raises:
            ValueError: it is none.
        """
        description = Path(path) / DESCRIPTION
        if not description.is_file():
            raise ValueError(f"{str(path)!r} is no folder of shards: there is no {DESCRIPTION} in it")
        return cls(path, json.loads(description.read_text()))

    def file(self, number: int) -> Path:
        return self.path / f"{number:05}.safetensors"

    def has(self, number: int) -> bool:
        """Whether that shard is finished."""
        return self.file(number).is_file()

    def shards(self) -> list[Shard]:
        """The finished ones, in order."""
        return [Shard(path) for path in sorted(self.path.glob("[0-9]*.safetensors"))]

    def write(self, number: int, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
        """Finishes a shard."""
        whole = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
        metadata = {"about": json.dumps(about, ensure_ascii=False), "sha256": checksum(whole)}
        _write_whole(self.file(number), lambda file: save_file(whole, file, metadata))


def _write_whole(path: Path, write: Any) -> None:
    """A file appears under its name when all of it is on the disk."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
