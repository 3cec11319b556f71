"""Preference pairs, the simulated annotator, and the recipes of the heads: a few steps each."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from commands.pairs import Pair, read_pairs, write_pairs
from evaluators import load_evaluator
from evaluators.latent.counting import NUMBER
from evaluators.latent.text import quoted
from tinyworld.captions import caption, is_held_out, parse_caption, sample_spec
from tinyworld.features import PixelClassifier
from tinyworld.judge import judge
from tinyworld.recipes import annotator
from tinyworld.recipes.specialist import seen_in_training
from training import reward as train_reward
from training import specialist as train_specialist
from training.latents import Latents
from training.noise import LEVELS


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
    captions = ["a red circle"] * 2 * n
    found = annotator.votes(captions, np.tile([0.04, 0.0], n), images=2, seed=0)
    first = [pair.chosen < pair.rejected for pair in found]
    assert len(found) == n and {pair.prompt for pair in found} == {"a red circle"}
    assert 0.82 < np.mean(first) < 0.94  # sigmoid(2) = 0.88
    assert not any(pair.tie for pair in found)
    assert all(pair.tie for pair in annotator.votes(captions, np.zeros(2 * n), images=2, seed=0))


def test_neighbours_are_paired_within_a_caption_only():
    found = annotator.votes(["a"] * 4 + ["b"] * 4, np.arange(8.0), images=4, seed=0)
    assert [(p.prompt, p.rejected[7:13], p.chosen[7:13]) for p in found] == [
        (prompt, f"{i:06}", f"{i + 1:06}") for prompt, first in (("a", 0), ("b", 4)) for i in range(first, first + 3)
    ]


def test_rendered_pairs_show_the_caption_and_something_else():
    pixels, captions = annotator.rendered(20, seed=0)
    assert pixels.shape == (40, 3, 64, 64) and pixels.dtype == torch.uint8 and captions[::2] == captions[1::2]
    verdicts = np.array(
        [judge(x.permute(1, 2, 0).numpy(), text).correct for x, text in zip(pixels, captions, strict=True)]
    )
    assert verdicts[::2].mean() > 0.9 and verdicts[1::2].mean() < 0.1
    assert not any(is_held_out(parse_caption(text)) for text in captions)


def test_a_folder_of_rendered_pairs(tmp_path):
    PixelClassifier().save_pretrained(tmp_path / "features")
    folders = ["--annotator", str(tmp_path / "features"), "--out", str(tmp_path / "pairs")]
    annotator.main(["--scenes", "3", *folders])
    pairs = read_pairs(tmp_path / "pairs" / "pairs.jsonl")
    assert [{pair.chosen[7:13], pair.rejected[7:13]} for pair in pairs] == [
        {"000000", "000001"},
        {"000002", "000003"},
        {"000004", "000005"},
    ]


def test_spoiled_prompts_are_wrong_in_one_thing():
    rng = np.random.default_rng(0)
    captions = [caption(sample_spec(rng, "train"), rng) for _ in range(300)]
    for name, asks in (("counting", NUMBER.search), ("text", quoted)):
        asking = [c for c in captions if asks(c)]
        spoil = seen_in_training(train_specialist.wrong_prompts(name, asking))
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
    assert report["pairs"] == 24 and report["test_pairs"] in (3, 4)  # both pairs of two prompts, but the tie
    assert load_evaluator("reward", tmp_path / "reward").calibration.noise_level == LEVELS


def test_the_reward_is_tested_on_pairs_of_their_own(pairs_file, clip_folder, weights, tmp_path):
    """Several files to train on; a picture in many pairs is encoded once."""
    votes = train_reward.Votes([pairs_file, pairs_file], "overall")
    assert len(votes.pairs) == 48 and len(votes.files) == 4 and votes.pictures.shape == (48, 2)
    assert [votes.files[i].name for i in votes.pictures[0]] == ["0.png", "1.png"]
    vae = str(weights / "text_to_image" / "vae")
    paths = ["--pairs", str(pairs_file), str(pairs_file), "--test-pairs", str(pairs_file), "--vae", vae]
    train_reward.main([*paths, "--clip", str(clip_folder), "--out", str(tmp_path), "--steps", "3", "--batch-size", "8"])
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["pairs"] == 48 and report["test_pairs"] == 23, "all but the tie"


def test_votes_are_read_of_one_question(pairs_file, clip_folder, weights, tmp_path, capsys):
    folders = ["--pairs", str(pairs_file), "--clip", str(clip_folder), "--vae", str(weights / "text_to_image" / "vae")]
    with pytest.raises(SystemExit):
        train_reward.main([*folders, "--out", str(tmp_path), "--question", "quality"])
    assert "too few" in capsys.readouterr().err
