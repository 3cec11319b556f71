"""``--calibration DIR``: how loud the evaluators of a command speak."""

import json

import pytest

from demos.generate import main
from evaluators import Calibration
from guidance import GuidanceTrace

PROMPT = "a red circle"


def calibrate(folder, **reliability):
    folder.mkdir()
    for name, value in reliability.items():
        Calibration((0.0, 1.0), (1.0, 1.0), (value, value)).to_json(folder / f"{name}.json")
    return str(folder)


def weights_of(tmp_path, *arguments):
    main([PROMPT, "--steps", "4", "--out", str(tmp_path / "out"), *arguments])
    (trace,) = (tmp_path / "out").glob("*_trace.json")
    return GuidanceTrace.from_json(trace).steps[0]["weights"]


def test_evaluators_speak_as_loud_as_it_says(embedded, tmp_path):
    folder = calibrate(tmp_path / "calibration", clip=0.75, discriminator=0.5)
    named = ["--evaluators", "clip,discriminator", "--calibration", folder]
    assert weights_of(tmp_path, *named) == {"clip": pytest.approx(0.5), "discriminator": 0.0}


def test_the_default_panel_too(embedded, tmp_path):
    folder = calibrate(tmp_path / "calibration", clip=0.75, discriminator=1.0, reward=0.5)
    found = weights_of(tmp_path, "--calibration", folder)
    assert found == {"clip": pytest.approx(0.5), "discriminator": pytest.approx(0.25), "reward": 0.0}


def test_what_a_folder_does_not_hold_is_said_in_a_line(embedded, tmp_path, capsys):
    folder = calibrate(tmp_path / "calibration", clip=0.75)
    told = [["--calibration", folder], ["--calibration", folder, "--guidance", "static"]]
    (tmp_path / "calibration" / "discriminator.json").write_text(json.dumps({"spread": []}))
    for arguments, message in zip(told, ("holds no calibration", "are of the search"), strict=True):
        with pytest.raises(SystemExit):
            main([PROMPT, "--out", str(tmp_path / "out"), *arguments])
        line = capsys.readouterr().err
        assert message in line and line.count("\n") == 1
