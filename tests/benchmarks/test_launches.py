"""What is counted where pruning's operations are."""

import json

import torch

from benchmarks import launches


def test_views_and_empty_ones_start_nothing_and_questions_are_counted():
    x = torch.ones(3, 3)
    result, seen = launches.count(lambda: [(x.T + 1).unsqueeze(0).sum().item(), len(x[:0] + 1)])
    assert result == [18, 0]
    assert (seen.started, seen.questions) == (3, 1)


def test_report(capsys):
    launches.main(["--methods", "random", "divprune", "evs", "--json"])
    report = json.loads(capsys.readouterr().out)
    whole, presets = report["whole"], report["presets"]
    assert set(presets) == {"random", "divprune", "evs"}
    for row in presets.values():
        assert row["prefill_ratio"] == round(row["prefill"] / whole["prefill"], 3) > 1
    taken = round(launches.KEEP * 576)
    assert presets["divprune"]["prefill"] > presets["random"]["prefill"] + 3 * taken
