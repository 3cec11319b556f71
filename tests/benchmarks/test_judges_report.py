"""The benchmark of judges: what it compares, keeps and refuses, on random weights."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import judges
from evaluators import FunctionEvaluator


@pytest.fixture
def cheap(embedded, monkeypatch):
    """Judges that are functions, and no classifier."""
    bright = [FunctionEvaluator(lambda x, context: x.flatten(2).mean(2), name, "pixels") for name in ("vqa", "ocr")]
    features = SimpleNamespace(
        frechet_distance=lambda images: 0.0, distances=lambda images, seeds: np.ones(len(images) // seeds)
    )
    monkeypatch.setattr(judges, "judges", lambda: {e.name: e for e in bright})
    monkeypatch.setattr(judges, "real_images", lambda n: None)
    monkeypatch.setattr(judges, "Features", lambda images: features)


def report_of(*argv: str, capsys) -> dict:
    assert judges.main([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_row_is_compared_with_static_and_with_the_same_by_the_panel():
    rows = {
        "static": {"right": "0011", "score": [0.5, 0.5, 1.0, 1.0]},
        "search:panel": {"right": "0111", "score": [0.6, 1.0, 1.0, 0.9]},
        "search:vqa": {"right": "1111"},
        "noise_search": {"right": "0000"},
    }
    judges.compare(rows)
    assert rows["search:panel"]["minus_static"]["mean"] == 0.25 and "minus_rival" not in rows["search:panel"]
    assert (rows["search:vqa"]["minus_rival"]["of"], rows["search:vqa"]["minus_rival"]["mean"]) == (
        "search:panel",
        0.25,
    )
    assert rows["search:panel"]["win_rate"]["mean"] == 2.5 / 4 and "win_rate" not in rows["search:vqa"]
    assert rows["noise_search"]["minus_static"]["mean"] == -0.5 and "minus_rival" not in rows["noise_search"]


def test_several_seeds_tell_how_pictures_of_a_prompt_differ():
    rows = {
        "static": {"right": "110111", "score": [1.0] * 6, "distance": [2.0, 4.0, 6.0]},
        "best_of_2_whole:vqa": {"right": "111111", "score": [1.0] * 6, "distance": [1.0, 1.0, 4.0]},
        "halving_4_long:vqa": {"right": "110011", "score": [1.0, 1.0, 0.5, 0.5, 1.0, 1.0], "distance": [3.0, 9.0, 5.0]},
    }
    judges.compare(rows, seeds=2)
    row = rows["halving_4_long:vqa"]
    assert row["minus_static"]["mean"] == round(-1 / 6, 4)
    assert row["minus_rival"] == {"of": "best_of_2_whole:vqa"} | row["minus_rival"]
    assert row["minus_rival"]["mean"] == round(-2 / 6, 4)
    assert row["win_rate"]["decided"]["mean"] == 0 and row["win_rate"]["ties"] == round(4 / 6, 4)
    assert row["diversity_where_right"] == {
        "static": {"own": 4.0, "other": 4.0, "prompts": 2, "minus": {"mean": 0.0, "low": -1.0, "high": 1.0}},
        "best_of_2_whole:vqa": {
            "own": 4.0,
            "other": 2.5,
            "prompts": 2,
            "minus": {"mean": 1.5, "low": 1.0, "high": 2.0},
        },
    }


def test_methods_that_a_report_holds_are_kept(cheap, tmp_path, capsys):
    out = str(tmp_path / "judges.json")
    first = report_of("-n", "2", "--only", "search:panel", "--out", out, capsys=capsys)
    assert set(first["methods"]) == {"static", "search:panel"}
    first["methods"]["static"]["right"] = "11"
    (tmp_path / "judges.json").write_text(json.dumps(first))
    both = report_of("-n", "2", "--only", "noise_search", "--out", out, capsys=capsys)
    assert set(both["methods"]) == {"static", "search:panel", "noise_search"}
    assert both["methods"]["static"]["right"] == "11"
    assert both["methods"]["noise_search"]["nfe"] == 40
    twice = report_of("-n", "2", "--seeds", "2", "--only", "noise_search", capsys=capsys)["methods"]["noise_search"]
    assert len(twice["right"]) == 4 and twice["diversity_where_right"]["static"]["prompts"] <= 2


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["-n", "2", "--only", "search:nobody"], "must name some of static"),
        (["-n", "3"], "is one of 3 and 1"),
        (["-n", "2", "--seeds", "2"], "is one of 2 and 2"),
    ],
)
def test_what_cannot_be_measured_is_refused(cheap, tmp_path, capsys, argv, message):
    out = tmp_path / "judges.json"
    out.write_text(json.dumps({"prompts": 2, "steps": 20, "methods": {}}))
    with pytest.raises(SystemExit):
        judges.main([*argv, "--out", str(out)])
    assert message in (line := capsys.readouterr().err) and line.count("\n") == 1
