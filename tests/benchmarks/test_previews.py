"""What judges of pictures cost: the arithmetic on numbers of our own, and at a real shape those that docs state."""

import json
from pathlib import Path

import pytest

from benchmarks import previews

KEPT = Path(previews.__file__).parent / "results/previews.json"


def test_a_run_by_hand(monkeypatch, capsys):
    monkeypatch.setattr(previews, "step_flops", lambda shape: 1000)
    monkeypatch.setattr(previews, "preview_flops", lambda shape: {"tiny": 30})
    monkeypatch.setattr(previews, "judge_flops", lambda name: (10, 500))
    previews.main(["--shapes", "sdxl", "--candidates", "4", "--every", "1", "3", "--steps", "5", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert len(report["rows"]) == len(previews.JUDGES)
    for row in report["rows"]:
        assert row["candidate_of_a_step"] == 0.04
        assert row["flops_ratio_every"] == {"1": 1 + (5 * 160 + 500) / 5000, "3": 1 + (2 * 160 + 500) / 5000}


def test_what_is_kept_holds_the_bar():
    """SDXL with previews and ViT-B/32 at every fifth step costs at most 5 % more than static guidance."""
    rows = {(r["shape"], r["preview"], r["judge"]): r for r in json.loads(KEPT.read_text())["rows"]}
    assert rows["sdxl", "half", "ViT-B-32"]["flops_ratio_every"]["5"] <= 1.05
    assert len(rows) == len(previews.CHANNELS) * len(previews.PREVIEWS) * len(previews.JUDGES)


@pytest.mark.slow
def test_what_is_kept_is_what_is_counted():
    kept = [row for row in json.loads(KEPT.read_text())["rows"] if row["shape"] == "sd15"]
    assert previews.table(["sd15"], 8, [1, 5, 10], 20) == kept
