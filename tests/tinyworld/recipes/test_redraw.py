"""Scenes as a random stand-in of the text-to-image model paints them."""

import numpy as np
import pytest
import torch

from tinyworld.captions import is_held_out
from tinyworld.recipes import lvlm as train_lvlm
from tinyworld.recipes import redraw
from tinyworld.recipes.processor import build_processor
from tinyworld.scenes import make_scene
from training.shards import ShardFolder


@pytest.fixture
def redrawn(embedded, tmp_path, monkeypatch):
    monkeypatch.setattr(redraw, "TOGETHER", 3)
    monkeypatch.setattr(redraw, "SHARD", 6)
    redraw.main(["--out", str(tmp_path), "-n", "7"])
    return tmp_path


def test_pictures_know_what_they_were_painted_from(redrawn):
    pictures = redraw.Redrawn(redrawn)
    assert len(pictures) == 12  # whole shards
    for place in (0, 4, 11):
        scene, source = pictures[place], redraw.scene_of(place)
        assert scene.spec == source.spec and scene.objects == source.objects and not is_held_out(scene.spec)
        assert scene.image.shape == (64, 64, 3) and scene.image.dtype == np.uint8
        assert not np.array_equal(scene.image, source.image)


def test_what_is_there_is_not_made_again_and_what_is_lost_is_made_the_same(redrawn):
    before, first = redraw.Redrawn(redrawn).images, redrawn / "00000.safetensors"
    (redrawn / "00001.safetensors").unlink()
    written = first.stat().st_mtime_ns
    redraw.main(["--out", str(redrawn), "-n", "7"])
    assert first.stat().st_mtime_ns == written
    assert np.array_equal(redraw.Redrawn(redrawn).images, before)


def test_training_mixes_them_with_scenes_and_grain(redrawn, monkeypatch):
    pictures, scene, rng = redraw.Redrawn(redrawn), make_scene(0), np.random.default_rng(0)
    seen = [pictures.among(scene, rng) for _ in range(60)]
    known = [scene.image, *pictures.images]
    plain = [any(np.array_equal(one.image, image) for image in known) for one in seen]
    assert 0.4 < np.mean(plain) < 0.8
    assert 10 < sum(one.spec == scene.spec for one in seen) < 35
    monkeypatch.setattr(train_lvlm, "CLUTTER", 0.0)
    monkeypatch.setattr(train_lvlm, "GRAY", 0.0)
    processor = build_processor()
    own, mixed = (train_lvlm.batch_of(processor, 0, 6, 2, redrawn=one) for one in (None, pictures))
    assert not torch.equal(own["pixel_values"], mixed["pixel_values"])


def test_another_folder_is_refused(tmp_path, capsys):
    ShardFolder(tmp_path / "other", {"kind": "trajectories"})
    with pytest.raises(SystemExit):
        train_lvlm.main(["--out", str(tmp_path / "out"), "--redrawn", str(tmp_path / "other")])
    assert "argument --redrawn" in capsys.readouterr().err
