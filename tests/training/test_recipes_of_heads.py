"""Preference pairs, the simulated annotator, and the recipes of the heads: a few steps each."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from evaluators import load_evaluator
from evaluators.counting import NUMBER
from evaluators.text import quoted
from tinyworld.captions import caption, is_held_out, parse_caption, sample_spec
from training import annotator, train_reward, train_specialist
from training.data import Latents
from training.noise import LEVELS
from training.pairs import Pair, read_pairs, write_pairs
from training.trajectories import Trajectories


@pytest.fixture
def clip_folder(clip, tmp_path):
    clip().save_pretrained(tmp_path / "clip")
    return tmp_path / "clip"


@pytest.fixture
def pairs_file(tmp_path):
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for i in range(4):
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).save(tmp_path / f"images/{i}.png")
    pairs = [
        Pair(f"prompt\u2028 {i % 12}", f"images/{i % 4}.png", f"images/{(i + 1) % 4}.png", tie=i == 5)
        for i in range(24)
    ]
    write_pairs(tmp_path / "pairs.jsonl", pairs)
    assert read_pairs(tmp_path / "pairs.jsonl") == pairs
    return tmp_path / "pairs.jsonl"


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", "line 25 is no JSON"),
        ("[]", "line 25 must be an object"),
        ('{"prompt": "a", "chosen": "images/0.png"}', "line 25 must be an object"),
        (
            '{"prompt": "a", "chosen": "images/0.png", "rejected": "images/1.png", "vote": 1}',
            "line 25 must be an object",
        ),
        ('{"prompt": "a", "chosen": "images/0.png", "rejected": "images/9.png"}', "no picture 'images/9.png'"),
        ('{"prompt": "a", "chosen": "images/0.png", "rejected": "../x.png"}', "no picture '../x.png'"),
        ('{"prompt": 3, "chosen": "images/0.png", "rejected": "images/1.png"}', "must be strings"),
        ('{"prompt": "a", "chosen": "images/0.png", "rejected": "images/1.png", "weight": 0}', "`weight`"),
    ],
)
def test_a_line_that_is_no_pair_is_named(pairs_file, line, message):
    (pairs_file.parent.parent / "x.png").write_bytes(b"")
    with pairs_file.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=message):
        read_pairs(pairs_file)


def test_no_file_of_pairs(tmp_path):
    with pytest.raises(ValueError, match="`pairs` must be a"):
        read_pairs(tmp_path / "none.jsonl")


def test_the_annotator_votes_by_utility_with_noise():
    n = 400
    made = Trajectories(torch.zeros(2 * n, 1, 4, 2, 2), torch.zeros(1), np.array(["a red circle"] * 2 * n), images=2)
    better = np.tile([0.04, 0.0], n)
    found = annotator.votes(made, better, seed=0)
    first = [pair.chosen < pair.rejected for pair in found]
    assert len(found) == n and {pair.prompt for pair in found} == {"a red circle"}
    assert 0.82 < np.mean(first) < 0.94  # sigmoid(2) = 0.88
    assert not any(pair.tie for pair in found)
    assert all(pair.tie for pair in annotator.votes(made, np.zeros(2 * n), seed=0))


def test_spoiled_prompts_are_wrong_in_one_thing():
    rng = np.random.default_rng(0)
    captions = [caption(sample_spec(rng, "train"), rng) for _ in range(300)]
    for name, asks in (("counting", NUMBER.search), ("text", quoted)):
        asking = [c for c in captions if asks(c)]
        spoil = train_specialist.seen_in_training(train_specialist.wrong_prompts(name, asking))
        for text in asking:
            wrong = spoil(text, rng)
            assert wrong != text
            if name == "counting":
                assert len(wrong.split()) == len(text.split())
                assert sum(a != b for a, b in zip(wrong.split(), text.split(), strict=True)) == 1
                assert not is_held_out(parse_caption(wrong))
            else:
                assert quoted(wrong) != quoted(text) and wrong.replace(quoted(wrong), "") == text.replace(
                    quoted(text), ""
                )


@pytest.mark.parametrize("name", ["counting", "text"])
def test_a_specialist_trains_and_loads(name, clip_folder, tmp_path):
    rng = np.random.default_rng(0)
    category = {"counting": "count", "text": "text"}[name]
    texts = [[caption(sample_spec(rng, "train", category), rng) for _ in range(2)] for _ in range(24)]
    data = Latents(torch.randn(24, 4, 8, 8).half(), np.array([[a, a] for a, _ in texts]))
    data.save(tmp_path / "data.npz")
    folders = ["--data", str(tmp_path / "data.npz"), "--test-data", str(tmp_path / "data.npz")]
    argv = [name, "--clip", str(clip_folder), *folders, "--out", str(tmp_path), "--steps", "3", "--batch-size", "8"]
    train_specialist.main(argv)
    head = load_evaluator(name, tmp_path / name)
    assert head.calibration.noise_level == LEVELS and all(0 <= r <= 1 for r in head.calibration.reliability)
    assert json.loads((tmp_path / "report.json").read_text())["steps"] == 3


def test_captions_that_never_ask_are_refused(clip_folder, tmp_path, capsys):
    Latents(torch.randn(2, 4, 8, 8).half(), np.array([["a red circle"] * 2] * 2)).save(tmp_path / "data.npz")
    folders = ["--data", str(tmp_path / "data.npz"), "--test-data", str(tmp_path / "data.npz")]
    with pytest.raises(SystemExit):
        train_specialist.main(["text", "--clip", str(clip_folder), *folders, "--out", str(tmp_path)])
    assert "no caption asks for text" in capsys.readouterr().err


def test_the_reward_trains_and_loads(pairs_file, clip_folder, weights, tmp_path):
    folders = ["--pairs", str(pairs_file), "--clip", str(clip_folder), "--vae", str(weights / "text_to_image" / "vae")]
    train_reward.main([*folders, "--out", str(tmp_path), "--steps", "3", "--batch-size", "8"])
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["pairs"] == 24 and report["held_out_pairs"] in (3, 4)  # both pairs of two prompts, but the tie
    assert load_evaluator("reward", tmp_path / "reward").calibration.noise_level == LEVELS


def test_votes_are_read_of_one_question(pairs_file, clip_folder, weights, tmp_path, capsys):
    folders = ["--pairs", str(pairs_file), "--clip", str(clip_folder), "--vae", str(weights / "text_to_image" / "vae")]
    with pytest.raises(SystemExit):
        train_reward.main([*folders, "--out", str(tmp_path), "--question", "quality"])
    assert "too few" in capsys.readouterr().err
