"""Folders of shards: whole or not there, checked, and of one description."""

import pytest
import torch

from training.shards import Shard, ShardFolder


@pytest.fixture
def folder(tmp_path):
    folder = ShardFolder(tmp_path / "shards", {"kind": "test", "seed": 1})
    folder.write(0, {"x": torch.arange(24.0).view(4, 3, 2).half()}, {"captions": ["a", "ß\u2028", "c", "d"]})
    return folder


def test_what_is_written_is_read(folder):
    (shard,) = ShardFolder.open(folder.path).shards()
    assert shard.about == {"captions": ["a", "ß\u2028", "c", "d"]} and shard.names == ["x"]
    assert shard.shape("x") == (4, 3, 2) and folder.has(0) and not folder.has(1)
    assert shard.rows("x", [3, 1]).tolist() == shard.tensor("x")[[3, 1]].tolist()
    assert shard.rows("x", [(3, 1), (0, 2)]).tolist() == [[20, 21], [4, 5]]
    shard.check()


def test_a_folder_of_something_else_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="was made otherwise, with seed 1"):
        ShardFolder(folder.path, {"kind": "test", "seed": 2})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        ShardFolder(tmp_path / "other", {})
    with pytest.raises(ValueError, match="no folder of shards"):
        ShardFolder.open(tmp_path / "other")


def test_work_that_dies_leaves_no_shard(folder, monkeypatch):
    def dies(tensors, path, metadata):
        path.write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr("training.shards.save_file", dies)
    with pytest.raises(KeyboardInterrupt):
        folder.write(1, {"x": torch.zeros(1)}, {})
    assert not folder.has(1) and len(folder.shards()) == 1


def test_bytes_that_changed_are_told(folder):
    path = folder.file(0)
    held = bytearray(path.read_bytes())
    held[-3] ^= 1
    path.write_bytes(held)
    with pytest.raises(ValueError, match="not as it was written"):
        Shard(path).check()
    path.write_bytes(held[:-40])
    with pytest.raises(ValueError, match="is broken"):
        Shard(path).check()
