"""`demos.ask`, run in process on a very small random model."""

import numpy as np
import pytest
from PIL import Image
from small_lvlm import lvlm_weights

from demos.ask import PANEL, keep, main
from tinyworld.scenes import make_scene

__all__ = ["lvlm_weights"]


@pytest.fixture
def picture(tmp_path, lvlm_weights, monkeypatch):
    monkeypatch.setattr("tinyworld.WEIGHTS", lvlm_weights)
    path = tmp_path / "picture.png"
    Image.fromarray(make_scene(0).image).save(path)
    return path


def test_answers_without_pruning(picture, capsys):
    main([str(picture), "how many objects are there"])
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_prunes_and_shows_what_is_left(picture, lvlm_weights, tmp_path, capsys):
    shown = tmp_path / "kept.png"
    arguments = [str(picture), "what color is it?", "--prune", "random", "--keep", "2:0.5,4:64", "--show", str(shown)]
    main([*arguments, "--model", str(lvlm_weights / "lvlm")])
    _, total, first, second, ratio, path = capsys.readouterr().out.splitlines()
    assert (total, first, second) == ("visual tokens: 256", "after layer 2: 128", "after layer 4: 64")
    assert 0 < float(ratio.split(": ")[1]) < 1
    assert path == str(shown)
    sheet = np.asarray(Image.open(shown).convert("L")).astype(float)
    assert sheet.shape == (PANEL + 16, 3 * (PANEL + 4) - 4)
    whole, half, quarter = (sheet[16:, i * (PANEL + 4) :][:, :PANEL].mean() for i in range(3))
    assert whole > half > quarter


def test_a_method_with_its_own_schedule(picture, capsys):
    main([str(picture), "what color is it?", "--prune", "transprune"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[1] for line in lines[1:4]] == ["256", "160", "32"]  # 62.5 % and 12.5 %


@pytest.mark.parametrize(
    ("text", "wanted"), [("0.25", 0.25), ("25%", 0.25), ("1.0", 1.0), ("1", 1), ("2:50%,4:32", {2: 0.5, 4: 32})]
)
def test_keep(text, wanted):
    assert keep(text) == wanted


BAD = {
    "blank question": (["{png}", " "], "question"),
    "no question": (["{png}"], "question"),
    "no such picture": (["nowhere.png", "what?"], "image"),
    "not a picture": (["{tmp}/text.png", "what?"], "image"),
    "unknown method": (["{png}", "what?", "--prune", "axe"], "--prune"),
    "method of encoders": (["{png}", "what?", "--prune", "zero-tprune"], "--prune"),
    "keep without a method": (["{png}", "what?", "--keep", "0.5"], "--prune"),
    "show without a method": (["{png}", "what?", "--show", "{tmp}/kept.png"], "--prune"),
    "keep is zero": (["{png}", "what?", "--prune", "random", "--keep", "0"], "--keep"),
    "keep is a word": (["{png}", "what?", "--prune", "random", "--keep", "half"], "--keep"),
    "keep is NaN": (["{png}", "what?", "--prune", "random", "--keep", "nan"], "--keep"),
    "keep grows": (["{png}", "what?", "--prune", "random", "--keep", "2:0.5,4:0.6"], "--keep"),
    "layers repeat": (["{png}", "what?", "--prune", "random", "--keep", "2:0.5,2:0.4"], "--keep"),
    "layer outside": (["{png}", "what?", "--prune", "random", "--keep", "8:0.5"], "--keep"),
    "show is no PNG": (["{png}", "what?", "--prune", "random", "--show", "{tmp}/kept.txt"], "--show"),
    "show has no folder": (["{png}", "what?", "--prune", "random", "--show", "{tmp}/none/kept.png"], "--show"),
    "no model": (["{png}", "what?", "--model", "{tmp}"], "--model"),
    "broken model": (["{png}", "what?", "--model", "{tmp}/broken"], "--model"),
    "unknown option": (["{png}", "what?", "--colour", "red"], "--colour"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(picture, tmp_path, capsys, case):
    (tmp_path / "text.png").write_text("text")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    arguments, named = BAD[case]
    with pytest.raises(SystemExit) as stop:
        main([a.replace("{tmp}", str(tmp_path)).replace("{png}", str(picture)) for a in arguments])
    captured = capsys.readouterr()
    assert stop.value.code == 2
    assert captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert named in captured.err


def test_no_embedded_weights(picture, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tinyworld.WEIGHTS", tmp_path / "none")
    with pytest.raises(SystemExit) as stop:
        main([str(picture), "what?"])
    assert stop.value.code == 2
    assert "there is no embedded model" in capsys.readouterr().err
