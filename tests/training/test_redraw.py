"""Pictures redrawn by a model keep their captions, and what was made is not made again."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from diffusers import AutoPipelineForImage2Image
from PIL import Image

from training import redraw
from training.buckets import fit
from training.pictures import read


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "sdxl"
    tiny.build_sdxl().save_pretrained(path)
    return path


def run(model: Path, data: Path, out: Path, *more: str) -> list[np.ndarray]:
    args = ["--model", str(model), "--data", str(data), "--out", str(out), "--resolution", "16", "--batch-size", "4"]
    redraw.main([*args, "--sampling-steps", "10", *more])
    return [np.asarray(picture.image(), np.float32) for picture in read(str(out))]


def test_captions_are_the_pictures_own_and_noise_is_within_the_strength(model, captioned, tmp_path, monkeypatch):
    calls = []
    pipeline = AutoPipelineForImage2Image.from_pretrained(model)
    shown = type(pipeline).__call__

    def call(self, **arguments):
        calls.append(arguments)
        return shown(self, **arguments)

    monkeypatch.setattr(type(pipeline), "__call__", call)
    data = captioned(6)
    redrawn = run(model, data, tmp_path / "out", "--strength", "0.2", "0.6", "--guidance-scale", "3")
    before, after = read(str(data)), read(str(tmp_path / "out"))
    assert [(p.captions, p.wrong) for p in after] == [(p.captions, p.wrong) for p in before]
    # Pictures of 16×16, 24×12 and 12×24 in turn, of which only like ones can be drawn together.
    assert sorted(text for call in calls for text in call["prompt"]) == sorted(p.captions[0] for p in before)
    for arguments in calls:
        assert 0.2 <= arguments["strength"] <= 0.6 and arguments["guidance_scale"] == 3
        for text, image in zip(arguments["prompt"], arguments["image"], strict=True):
            number = int(text.split()[1])
            assert redrawn[number].shape[1::-1] == image.size
            assert np.array_equal(np.asarray(image), fit(before[number].image(), image.size))
    assert len({arguments["strength"] for arguments in calls}) == 2  # one a batch


def test_it_goes_on_where_it_stopped_and_makes_the_same(model, captioned, tmp_path):
    data, out = captioned(6), tmp_path / "out"
    first = run(model, data, out)
    kept, lost = out / "000000" / "000000001.png", out / "000000" / "000000002.png"
    lost.unlink()
    (out / "metadata.jsonl").unlink()
    stamp = kept.stat().st_mtime_ns
    second = run(model, data, out)
    assert kept.stat().st_mtime_ns == stamp
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, atol=2)
    names = [json.loads(line)["file_name"] for line in (out / "metadata.jsonl").read_text().splitlines()]
    assert names == [f"000000/{i:09}.png" for i in range(6)] and not list(out.rglob("*.part"))


@pytest.mark.parametrize("strength", [("0", "1"), ("0.8", "0.3"), ("0.5", "1.2")])
def test_a_strength_that_is_none_is_refused(strength, tmp_path, capsys):
    with pytest.raises(SystemExit):
        redraw.main(["--model", "m", "--data", "d", "--out", str(tmp_path), "--strength", *strength])
    assert "argument --strength: must be from 0.05 to 1" in capsys.readouterr().err


def test_no_model_and_no_pictures_are_told(model, captioned, tmp_path, capsys):
    Image.new("RGB", (16, 16)).save(tmp_path / "x.png")
    for args, told in (
        (["--model", str(tmp_path / "none"), "--data", str(captioned(1))], "none"),
        (["--model", str(model), "--data", str(tmp_path / "nothing")], "is no folder"),
    ):
        with pytest.raises(SystemExit):
            redraw.main([*args, "--out", str(tmp_path / "out")])
        assert told in capsys.readouterr().err
