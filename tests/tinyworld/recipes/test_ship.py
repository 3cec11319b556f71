"""`tinyworld.recipes.ship`, on a vision-language model that nothing has trained."""

import json

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from small_lvlm import lvlm_weights
from transformers import AutoModelForImageTextToText, AutoProcessor

from tinyworld import lvlm
from tinyworld.features import PixelClassifier
from tinyworld.recipes import ship
from tinyworld.scenes import make_scene

__all__ = ["lvlm_weights"]
REPORT = {"command": "python -m tinyworld.recipes.lvlm", "seed": 0, "hardware": "none", "minutes": 0.0, "steps": 0}
REPORT |= {"exact_match": {"count": 0.5, "all": 0.5}}


@pytest.fixture
def shipped(tmp_path, lvlm_weights, monkeypatch):
    """The folder that the shipped model is in, and where it came from."""
    run = tmp_path / "runs" / "lvlm"
    run.mkdir(parents=True)
    (run / "lvlm").symlink_to(lvlm_weights / "lvlm", target_is_directory=True)
    (run / "report.json").write_text(json.dumps(REPORT))
    monkeypatch.setattr(ship, "WEIGHTS", tmp_path / "weights")
    ship.main(["--runs", str(tmp_path / "runs"), "--only", "lvlm"])
    return tmp_path / "weights" / "lvlm", lvlm_weights / "lvlm"


def test_lvlm_is_half_precision_and_loads_as_float32(shipped, monkeypatch):
    folder, trained = shipped
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            assert {tensors.get_slice(key).get_dtype() for key in tensors.keys()} <= {"F16", "I64"}  # noqa: SIM118
    monkeypatch.setattr("tinyworld.WEIGHTS", folder.parent)
    model, processor = lvlm.load()  # as the demo and the benchmark do by default
    before = lvlm.load(trained)[0].state_dict()
    for name, value in model.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.allclose(value.double(), before[name].double(), rtol=1e-3, atol=1e-6)
    stock = AutoModelForImageTextToText.from_pretrained(folder)  # nobody has to say which dtype
    assert {p.dtype for p in stock.parameters()} == {torch.float32}
    image, question = Image.fromarray(make_scene(0).image), "what color is it?"
    assert lvlm.answer(stock.eval(), AutoProcessor.from_pretrained(folder), [image], [question]) == lvlm.answer(
        model, processor, [image], [question]
    )


def test_lvlm_card(shipped):
    card = (shipped[0] / "README.md").read_text()
    assert "library_name: transformers" in card and "half of the pictures were clutter" in card
    assert '- exact_match: {"count": 0.5, "all": 0.5}' in card
    for said in ("command: `python -m tinyworld.recipes.lvlm` (seed 0)", "hardware: none", "Data: "):
        assert said in card


def test_where_it_was_trained_is_not_shipped(tmp_path, monkeypatch):
    run = tmp_path / "runs" / "features"
    PixelClassifier().save_pretrained(run / "features")
    (run / "report.json").write_text(json.dumps(REPORT))
    monkeypatch.setattr(ship, "WEIGHTS", tmp_path / "weights")
    ship.main(["--runs", str(tmp_path / "runs"), "--only", "features"])
    config = (tmp_path / "weights" / "features" / "config.json").read_text()
    assert "_class_name" in config and str(tmp_path) not in config


def test_a_missing_run_deletes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ship, "WEIGHTS", tmp_path)
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "config.json").touch()
    with pytest.raises(SystemExit) as stop:
        ship.main(["--runs", str(tmp_path / "none"), "--only", "clip", "lvlm"])
    assert stop.value.code == 2 and "no finished run of clip, lvlm" in capsys.readouterr().err
    assert (tmp_path / "clip" / "config.json").exists()
