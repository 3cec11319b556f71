"""The plots show the numbers that they are given."""

import json

import numpy as np
import pytest
from PIL import Image

from benchmarks import plots

STEPS = [900, 500, 100]
REPORT = {
    "timesteps": STEPS,
    "methods": {
        "dynamic": {
            "accuracy": 0.5,
            "nfe": 40.0,
            "scale": {
                "per_category": {
                    "count": {"mean": [9.0, 5.0, 2.0], "std": [1.0, 0.5, 0.0]},
                    "text": {"mean": [12.0, 12.0, 11.0], "std": [2.0, 1.0, 1.0]},
                }
            },
        },
        "static:3": {"accuracy": 0.4, "nfe": 40.0},
        "static:6": {"accuracy": 0.45, "nfe": 40.0},
        "budget:0.1": {"accuracy": 0.48, "nfe": 30.0},
        "best_of_4:3": {"accuracy": 0.47, "nfe": 160.0},
    },
    "calibration": {
        "clip": {"noise_level": [0.1, 0.9], "reliability": [0.9, 0.6], "spread": [1.0, 1.0]},
        "plain": None,
    },
}


def test_scales():
    (axes,) = plots.scales(REPORT).axes
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["count"].get_xdata().tolist() == STEPS and lines["text"].get_ydata().tolist() == [12.0, 12.0, 11.0]
    band = np.array(axes.collections[0].get_paths()[0].vertices)
    assert band[:, 1].min() == 2.0 and band[:, 1].max() == 10.0
    assert axes.xaxis_inverted()


FRONT = {
    "front": {
        "static": [
            {"budget": 10, "nfe": 10.0, "right": {"mean": 0.3, "low": 0.25, "high": 0.36}},
            {"budget": 20, "nfe": 20.0, "right": {"mean": 0.4, "low": 0.35, "high": 0.45}},
        ],
        "halving": [{"budget": 20, "nfe": 20.0, "right": {"mean": 0.5, "low": 0.45, "high": 0.56}}],
    },
    "ours": ["halving"],
    "budgets": [10, 20],
}


def test_cost():
    """A line for each family, with its intervals; ours thicker; at nearly the same passes side by side."""
    (axes,) = plots.cost(FRONT).axes
    static, halving = (bars.lines[0] for bars in axes.containers)
    assert static.get_ydata().tolist() == [0.3, 0.4] and halving.get_ydata().tolist() == [0.5]
    assert static.get_xdata().tolist() == pytest.approx([10, 20], rel=0.05)
    assert halving.get_linewidth() > static.get_linewidth()
    (segments,) = axes.containers[0].lines[2]
    assert [sorted(part[:, 1].tolist()) for part in segments.get_segments()] == [[0.25, 0.36], [0.35, 0.45]]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["static", "halving"]


def test_cost_from_the_command_line(tmp_path, capsys):
    (tmp_path / "front.json").write_text(json.dumps(FRONT))
    assert plots.main([str(tmp_path / "front.json"), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "cost.png").is_file() and "cost.png" in capsys.readouterr().out


def test_reliability():
    (axes,) = plots.reliability(REPORT).axes
    assert axes.lines[0].get_label() == "clip" and len(axes.lines) == 2  # and chance
    assert list(axes.lines[0].get_ydata()) == [0.9, 0.6]


def test_front():
    (axes,) = plots.front(REPORT).axes
    points = {c.get_label(): c.get_offsets().tolist() for c in axes.collections}
    assert points["static"] == [[40.0, 0.4], [40.0, 0.45]] and points["best_of_4"] == [[160.0, 0.47]]
    assert axes.lines[0].get_xydata().tolist() == [[30.0, 0.48], [40.0, 0.5]], "dominated methods are not on it"


def test_table():
    between = {"mean": 0.01, "low": -0.02, "high": 0.04}
    row = {
        "minus_best_static": between,
        "minus_best_of_sampler": between | {"mean": 0.03},
        "minus_best_rival": None,
        "win_rate": between,
        "frechet_distance": 211.4,
        "nfe": 40.0,
        "diversity": None,
    }
    rows = {
        "static:3": row | {"accuracy": 0.4, "categories": {"count": 0.5, "text": 0.0}},
        "dynamic": row
        | {"accuracy": 0.5, "categories": {"count": 0.75, "text": 0.0}, "diversity": 9.876}
        | {"minus_best_rival": between | {"mean": 0.02}},
    }
    head, _, first, second = plots.table(rows).split("\n")
    differences = ["less best static", "less best of sampler", "less best rival"]
    assert head.split(" | ")[1:7] == ["right", *differences, "count", "text"]
    assert first == (
        "| dynamic | 0.500 | +0.010 [-0.020, +0.040] | +0.030 [-0.020, +0.040] "
        "| +0.020 [-0.020, +0.040] | 0.75 | 0.00 | 0.01 [-0.02, 0.04] | 211 | 9.88 | 40.0 |"
    )
    assert second.startswith("| static:3 | 0.400 |") and "| – |" in second


PRUNING = {
    "whole": {"exact_match": 0.9},
    "presets": {
        "fastv": {
            "100": {"prefill_flops_ratio": 1.0, "exact_match": 0.9},
            "11": {"prefill_flops_ratio": 0.47, "exact_match": 0.8},
        },
        "random": {"50": {"prefill_flops_ratio": 0.54, "exact_match": 0.7}},
    },
}


def test_pruning_in_clutter():
    rows = {"1": {"prefill_flops_ratio": 0.4, "exact_match": 0.9, "clutter": {"exact_match": 0.6}}}
    report = {"whole": {"exact_match": 0.95, "clutter": {"exact_match": 0.8}}, "presets": {"random": rows}}
    scenes, clutter = plots.pruning(report).axes
    for axes, right, whole in ((scenes, 0.9, 0.95), (clutter, 0.6, 0.8)):
        assert [line.get_ydata()[0] for line in axes.lines] == [right, whole]


def test_pruning():
    (axes,) = plots.pruning(PRUNING).axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines["fastv"] == [[0.47, 0.8], [1.0, 0.9]] and lines["random"] == [[0.54, 0.7]]
    assert axes.lines[-1].get_ydata()[0] == 0.9  # without pruning


@pytest.mark.parametrize(("report", "names"), [(REPORT, plots.PLOTS), (PRUNING, plots.PRUNING_PLOTS)])
def test_command_line(report, names, tmp_path, capsys):
    results = tmp_path / "results.json"
    results.write_text(json.dumps(report))
    assert plots.main([str(results), "--out", str(tmp_path / "out")]) == 0
    assert {file.stem for file in (tmp_path / "out").iterdir()} == set(names)
    for name in names:
        assert len(Image.open(tmp_path / "out" / f"{name}.png").convert("L").getcolors()) > 20


@pytest.mark.parametrize("text", [None, "{", "{}", "[]"])
def test_bad_results(text, tmp_path, capsys):
    results = tmp_path / "results.json"
    if text is not None:
        results.write_text(text)
    assert plots.main([str(results)]) == 2
    error = capsys.readouterr().err
    assert "is no report of benchmarks.quality" in error and error.count("\n") == 1
