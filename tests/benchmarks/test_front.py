"""The front: what is tried at each budget, that it costs that, and what is reported of it."""

import json
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import embedded as embedded_model
from benchmarks import front, pictures


@pytest.fixture
def pipe(embedded):
    return embedded_model.load()


def test_every_method_costs_its_budget(pipe):
    table = front.grids(pipe.guidance)
    assert {
        "static",
        "dynamic",
        "best_of",
        "best_of_asked",
        "default",
        "noise_search",
        "noise_search_best_of",
        "halving",
        "rollover",
    } <= set(table)
    for family, budgets in table.items():
        assert list(budgets) == sorted(budgets) and set(budgets) <= set(front.BUDGETS)
        for budget, grid in budgets.items():
            assert {method.passes for method in grid.values()} == {budget}, family
            assert all(front.FEWEST <= method.steps <= front.MOST for method in grid.values())
            assert all(name.split(":")[0] == family for name in grid)
        names = [name for grid in budgets.values() for name in grid]
        assert len(names) == len(set(names)), "they are kept by name"
    assert list(table["static"]) == list(front.BUDGETS) and min(table["best_of"]) == 20


def test_report(embedded, tmp_path, capsys, monkeypatch):
    """Tuned where there is a choice, read the second time, each side less the best of the other."""
    stock, made = front.grids, []

    def small(search):
        table = stock(search)
        grids = {name: {k: replace(m, steps=2) for k, m in table[name][20].items()} for name in ("static", "best_of")}
        grids["noise_search"] = {"noise_search:1:10:3": grids["static"]["static:1:10:3"]}
        return {name: {20: grid} for name, grid in grids.items()}

    def make(pipe, method, rows):
        made.append(method)
        return {key: np.full(len(rows), value) for key, value in (("correct", 1), ("score", 0.5), ("nfe", 4.0))}

    monkeypatch.setattr(front, "grids", small)
    monkeypatch.setattr(pictures, "make", make)
    arguments = ["--json", "-n", "5", "--validation", "3", "--work", str(tmp_path)]
    assert front.main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report["front"]) == {"static", "best_of", "noise_search"} and report["ours"] == ["noise_search"]
    (point,) = report["front"]["static"]
    assert len(point["validation"]) == 4 and f"front:{point['method']}" in point["validation"]
    assert point["budget"] == 20 and point["right"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert point["minus_other_side"]["of"] == "noise_search:20"
    assert report["front"]["noise_search"][0]["minus_other_side"]["of"] in ("static:20", "best_of:20")
    assert report["front"]["noise_search"][0]["validation"] == {}, "there is one way only"
    count = len(made)
    assert front.main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["front"] == report["front"] and len(made) == count


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--only", "statik"], "got statik"),
        (["-n", "0"], "`n` must be at least 1"),
        (["--prompts", "no.txt"], "text file"),
    ],
)
def test_bad_arguments(embedded, arguments, message, capsys):
    assert front.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.strip().count("\n") == 0
