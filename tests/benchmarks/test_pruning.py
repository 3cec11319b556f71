"""`benchmarks.pruning` on very small random models; no test asserts a time."""

import json

import numpy as np
import pytest
import torch
from small_lvlm import VISION, lvlm_weights

from benchmarks import answers, pruned_judge, pruning, pruning_shapes
from tinyworld.questions import KINDS

__all__ = ["lvlm_weights"]
FEW = ("100", "22")
NAMES = ("transprune", "visionzip", "zero-tprune", "random")


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(pruning, "TOKEN_PRESETS", {name: pruning.TOKEN_PRESETS[name] for name in NAMES})
    monkeypatch.setattr(pruning, "BUDGETS", FEW)
    monkeypatch.setattr(pruning, "NEW_TOKENS", 2)


def test_report(lvlm_weights, monkeypatch, capsys):
    monkeypatch.setattr("tinyworld.WEIGHTS", lvlm_weights)
    assert pruning.main(["--quick", "-n", "6", "--repeats", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {"hardware", "commit", "torch", "whole", "questions"} <= set(report)
    assert set(report["presets"]) == {"transprune", "visionzip", "random"} and set(report["skipped"]) == {"zero-tprune"}
    for name, budgets in report["presets"].items():
        assert set(budgets) == set(FEW)
        for row in budgets.values():
            low, high = row["prefill_wall_clock_range"]
            assert 0 < low <= row["prefill_wall_clock_ratio"] <= high
            for part in (row, row["clutter"]):
                assert isinstance(part["exact_match"], float) and set(part["by_kind"]) == set(KINDS)
                for about in (part, *part["by_kind"].values()):
                    assert set(about["exact_match_difference"]) == {"mean", "low", "high"}
                    assert {"exact_match", "exact_match_ratio", "exact_match_ratio_interval"} <= set(about)
        all_, few = budgets["100"], budgets["22"]
        assert ("renumbered" in few) == (name == "transprune")
        assert name != "transprune" or all_["renumbered"]["exact_match_ratio"] == 1
        assert all_["exact_match_ratio"] == all_["kv_bytes_ratio"] == all_["same_answer"] == 1
        assert all_["clutter"]["exact_match_ratio"] == all_["clutter"]["same_answer"] == 1
        assert all_["prefill_flops_ratio"] == 1 or name == "visionzip"  # which reads the encoder all the same
        assert few["prefill_flops_ratio"] < all_["prefill_flops_ratio"] and few["kv_bytes_ratio"] < 1
    # Random drops before the first layer: 56 of the 256 visual tokens of each of two images stay.
    length = report["whole"]["kv_bytes"] / (2 * 8 * 16 * 4 * report["batch_size"])
    assert report["presets"]["random"]["22"]["kv_bytes_ratio"] == pytest.approx((length - 400) / length, abs=1e-4)


def test_exact_match_ratio():
    right, wrong = np.array([True, True]), np.array([False, False])
    assert answers.ratio(np.array([True, False]), right) == 0.5
    assert answers.ratio(wrong, wrong) == 1.0
    assert answers.ratio(right, wrong) is None


def test_exact_match_is_compared_question_by_question():
    rng = np.random.default_rng(1)
    whole = rng.random(400) < 0.8
    right = whole & (rng.random(400) < 0.9)
    got = answers.compare(right, whole)
    assert got["exact_match"] == pytest.approx(right.mean(), abs=1e-4)
    low, high = got["exact_match_ratio_interval"]
    assert low < got["exact_match_ratio"] < high < 1  # every wrong answer is one that was right without pruning
    # The spread of a ratio to the same 0.8 · 400 questions; of unrelated ones it would be far wider.
    assert high - low == pytest.approx(2 * 1.96 * (0.9 * 0.1 / 320) ** 0.5, rel=0.2)
    assert got["exact_match_difference"]["high"] < 0
    assert answers.compare(whole, whole)["exact_match_ratio_interval"] == [1.0, 1.0]
    assert answers.compare(~whole, np.zeros_like(whole))["exact_match_ratio_interval"] is None


TEXT = {"hidden_size": 64, "intermediate_size": 16, "num_hidden_layers": 4, "vocab_size": 64}
TEXT |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
TEXT |= {"bos_token_id": 1, "eos_token_id": 2}
TINY = {
    "llava-1.5-7b": {
        "vision": {**VISION, "image_size": 16, "patch_size": 4},
        "text": TEXT,
        "image_token": 60,
    },
    "qwen2.5-vl-7b": {
        "vision": {
            **{"depth": 1, "hidden_size": 16, "intermediate_size": 16, "out_hidden_size": 64, "num_heads": 2},
            **{"patch_size": 4, "window_size": 16, "fullatt_block_indexes": [0]},
        },
        "text": {**TEXT, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}},
        "image_token": 60,
        "video_token": 61,
        "grid": 8,
    },
}


@pytest.mark.parametrize("shape", TINY)
def test_genuine_shapes_scaled_down(shape, monkeypatch):
    monkeypatch.setitem(pruning_shapes.SHAPES, shape, TINY[shape])
    report = pruning.measure_shape(shape, 1, "cpu", tuple(pruning.TOKEN_PRESETS), {"25": 0.25})
    assert set(report["presets"]) == {"transprune", "random"} | ({"visionzip"} if shape.startswith("llava") else set())
    for budgets in report["presets"].values():
        for size in ("batch_1", "batch_8"):
            row = budgets["25"][size]
            assert row["prefill_flops_ratio"] > 0 and 0 < row["kv_bytes_ratio"] < 1
            assert row["prefill_wall_clock_ratio"] > 0 and isinstance(row["decode_wall_clock_ratio"], float)
            assert len(row["decode_wall_clock_range"]) == 2
            assert row["peak_memory_ratio"] is None  # measured on a GPU alone
    assert report["presets"]["random"]["25"]["batch_1"]["prefill_flops_ratio"] < 1
    pruning.show(report)


def test_an_encoder_on_its_own(monkeypatch, capsys):
    tiny = {"vision": {**VISION, "image_size": 32, "patch_size": 4, "projection_dim": 8, "num_hidden_layers": 4}}
    monkeypatch.setitem(pruning_shapes.SHAPES, "clip-vit-b-16", tiny)
    assert pruning.main(["--shape", "clip-vit-b-16", "--repeats", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report["presets"]) == {"zero-tprune", "random"} and "transprune" in report["skipped"]
    for name, budgets in report["presets"].items():
        for size in ("batch_1", "batch_8"):
            few, all_ = budgets["22"][size], budgets["100"][size]
            assert all_["flops_ratio"] == 1 and few["wall_clock_ratio"] > 0
            assert few["flops_ratio"] < 1 or name == "zero-tprune"  # in so small a model its ranking costs more
    pruning.show(report)


SIZES = [("llava-1.5-7b", 7.06e9), ("qwen2.5-vl-7b", 8.29e9), ("clip-vit-b-16", 86.2e6)]


@pytest.mark.parametrize(("shape", "parameters"), SIZES)
def test_genuine_shapes_have_the_published_sizes(shape, parameters):
    model = pruning_shapes.build(shape, "meta")
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(parameters, rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-n", "0"], "`n` and `repeats` must be at least 1"),
        (["--model", "nowhere"], "is no model folder"),
        ([], "should hold the embedded model, which is not there"),
        (["--shape", "llava-1.5-7b", "--model", "x"], "not both"),
        (["--shape", "qwen2.5-vl-7b"], "takes a CUDA GPU"),
    ],
)
def test_bad_arguments(arguments, message, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("tinyworld.WEIGHTS", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pruning.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1


def test_any_percent_is_a_budget(lvlm_weights, monkeypatch, capsys):
    monkeypatch.setattr("tinyworld.WEIGHTS", lvlm_weights)
    call = ["--quick", "-n", "2", "--repeats", "1", "--json", "--methods", "random", "--budgets", "100", "44"]
    assert pruning.main(call) == 0
    budgets = json.loads(capsys.readouterr().out)["presets"]["random"]
    assert list(budgets) == ["100", "44"] and budgets["44"]["kv_bytes_ratio"] < budgets["100"]["kv_bytes_ratio"] == 1
    for wrong in ("0", "101", "0.5"):
        with pytest.raises(SystemExit):
            pruning.main(["--budgets", wrong])
        assert "must be a whole number from 1 to 100" in capsys.readouterr().err


def test_a_judge_that_sees_part_of_its_tokens(lvlm_weights, monkeypatch, capsys):
    monkeypatch.setattr("tinyworld.WEIGHTS", lvlm_weights)
    shown = torch.rand(4, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(pruned_judge, "pairs", lambda prompts: shown[: len(prompts)])
    monkeypatch.setattr(pruned_judge, "BUDGETS", {"100": 1.0, "22": 0.22})
    assert pruning.main(["--judge", "-n", "40", "--repeats", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["captions"] == 4 and {"commit", "hardware"} <= set(report)
    for rows in report["presets"].values():
        assert rows["100"]["correlation"] == 1 and rows["100"]["mean_difference"] == 0
        assert rows["22"]["mean_difference"] > 0 and rows["22"]["seconds_per_picture"] > 0
    assert pruning.main(["--judge", "--shape", "clip-vit-b-16"]) == 2
    assert "`judge` is the embedded model" in capsys.readouterr().err


def test_agreement_of_judges():
    whole = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.505], [0.6, 0.4]])
    pruned = np.array([[0.8, 0.2], [0.7, 0.1], [0.5, 0.4], [0.9, 0.0]])
    found = pruned_judge.agreement(whole, pruned)
    assert found["clear_pairs"] == 3 and found["same_preference"] == round(2 / 3, 4)
