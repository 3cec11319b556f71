"""Preference pairs, the simulated annotator, and the recipes of the heads: a few steps each."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from commands.pairs import Pair, read_pairs, write_pairs
from evaluators import LatentCLIP, LatentTextRendering, load_evaluator
from evaluators.latent.counting import NUMBER
from evaluators.latent.text import quoted
from tinyworld.captions import caption, is_held_out, parse_caption, sample_spec
from tinyworld.features import PixelClassifier
from tinyworld.judge import judge
from tinyworld.recipes import annotator
from tinyworld.recipes.specialist import seen_in_training
from training import discriminator as train_discriminator
from training import latents, vae
from training import reward as train_reward
from training import specialist as train_specialist
from training.noise import LEVELS, picture_share
from training.shards import ShardFolder
from training.votes import Votes


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


@pytest.fixture
def cached(captioned, weights, tmp_path):
    """Makes latents of random pictures with these captions."""

    def make(texts: list[list[str]], name: str = "cache") -> str:
        data, model = captioned(len(texts), texts), weights / "text_to_image"
        run = ["--model", str(model), "--data", str(data), "--out", str(tmp_path / name), "--resolution", "32"]
        latents.main(run)
        return str(tmp_path / name)

    return make


@pytest.mark.parametrize("name", ["counting", "text"])
def test_a_specialist_trains_and_loads(name, clip_folder, cached, tmp_path):
    """Of pictures that do not ask it sees none; the test is what is held out, or another cache."""
    rng = np.random.default_rng(0)
    category = {"counting": "count", "text": "text"}[name]
    texts = [[caption(sample_spec(rng, "train", category), rng)] * 2 for _ in range(40)]
    cache = cached([*texts, *[["a red circle"]] * 6])
    argv = [name, "--clip", str(clip_folder), "--cache", cache, "--steps", "3", "--batch-size", "8"]
    train_specialist.main([*argv, "--out", str(tmp_path)])
    head = load_evaluator(name, tmp_path / name)
    assert head.calibration.noise_level == LEVELS and all(0 <= r <= 1 for r in head.calibration.reliability)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["steps"] == 3 and report["pictures"] + report["test_pictures"] == 40
    train_specialist.main([*argv, "--test-cache", cached(texts[:5], "test"), "--out", str(tmp_path / "again")])
    report = json.loads((tmp_path / "again" / "report.json").read_text())
    assert report["pictures"] == 40 and report["test_pictures"] == 5


def test_text_counts_less_the_more_noise_there_is():
    """A row at pure noise has no say in the loss."""
    logits = torch.tensor([[0.0, 1.0], [2.0, 1.0]])
    weight = picture_share(torch.tensor([1.0, 0.6]))
    assert weight.tolist() == pytest.approx([0.0, 0.8])
    across = torch.tensor([[1.0, 0.0], [1.0, 0.0]])  # the second prompt takes the first image for its own
    model = lambda features, prompts: (logits, across)  # noqa: E731
    loss, metrics = train_specialist.loss_of(model, (None, None, weight))
    prompts, images = F.softplus(torch.tensor(-1.0)), F.softplus(torch.tensor(1.0))
    torch.testing.assert_close(loss, 0.8 * (prompts + images) / 2)
    assert metrics == {"first_of_all": 0.5, "first_of_images": 0.5}


def test_a_specialist_compares_images_that_are_asked_for_something_else(clip_folder):
    """Two pictures with the same word are no negatives of each other, whatever else their captions say."""
    clip = LatentCLIP.from_pretrained(clip_folder)
    head = LatentTextRendering(clip.trunk.head[0].in_features).read(clip)
    prompts = [f'a {color} sign saying "{word}"' for color, word in (("red", "ab"), ("blue", "AB"), ("red", "XY"))]
    spoiled = [text for prompt in prompts for text in (prompt, prompt.replace("sign", "plate"))]
    logits, across = train_specialist.Ranking(head)(torch.randn(3, clip.trunk.head[0].in_features), spoiled)
    assert logits.shape == (3, 2)
    torch.testing.assert_close(logits[:, 0], across.diagonal())
    assert across.isinf().nonzero().tolist() == [[0, 1], [1, 0]]


def test_captions_that_never_ask_are_refused(clip_folder, cached, tmp_path, capsys):
    cache = cached([[f"{name} circle"] for name in "abcdefghijklmnopqrstuvwxyz"])
    with pytest.raises(SystemExit):
        train_specialist.main(["text", "--clip", str(clip_folder), "--cache", cache, "--out", str(tmp_path)])
    assert "no caption of the pictures to train on asks for text" in capsys.readouterr().err


def test_the_discriminator_trains_on_what_has_one_shape(cached, tmp_path, capsys):
    cache = cached([[f"picture {i}"] for i in range(60)])
    for size, run in ((8, "ok"), (6, "other")):
        made = ShardFolder(tmp_path / run, {"images": 2})
        for number in range(2):  # of eight prompts each, the first of which is held out
            tensors = {"latents": torch.randn(16, 3, 4, size, size).half(), "levels": torch.tensor([0.9, 0.5, 0.1])}
            made.write(number, tensors, {"captions": ["a"] * 16, "first": 8 * number})
    argv = ["--cache", cache, "--steps", "3", "--batch-size", "8", "--trajectories"]
    train_discriminator.main([*argv, str(tmp_path / "ok"), "--out", str(tmp_path)])
    assert load_evaluator("discriminator", tmp_path / "discriminator").calibration.noise_level == LEVELS
    with pytest.raises(SystemExit):
        train_discriminator.main([*argv, str(tmp_path / "other"), "--out", str(tmp_path / "out")])
    assert "too few latents of 4×6×6" in capsys.readouterr().err


def test_the_reward_trains_and_loads(pairs_file, clip_folder, weights, tmp_path):
    folders = ["--pairs", str(pairs_file), "--clip", str(clip_folder), "--model", str(weights / "text_to_image")]
    argv = [*folders, "--out", str(tmp_path), "--steps", "3", "--batch-size", "8", "--resolution", "16"]
    train_reward.main(argv)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["pairs"] == 24 and report["test_pairs"] in (3, 4)  # both pairs of two prompts, but the tie
    assert load_evaluator("reward", tmp_path / "reward").calibration.noise_level == LEVELS


def test_the_reward_is_tested_on_pairs_of_their_own(pairs_file, clip_folder, weights, tmp_path):
    """Several files to train on; a picture in many pairs is encoded once."""
    votes = Votes([pairs_file, pairs_file])
    assert len(votes.prompts) == 48 and len(votes) == 4
    assert [votes[int(side[0])].name.rpartition("/")[2] for side in (votes.chosen, votes.rejected)] == [
        "0.png",
        "1.png",
    ]
    paths = ["--pairs", str(pairs_file), str(pairs_file), "--test-pairs", str(pairs_file), "--resolution", "16"]
    more = ["--clip", str(clip_folder), "--out", str(tmp_path), "--steps", "3", "--batch-size", "8"]
    train_reward.main([*paths, *more, "--model", str(weights / "text_to_image")])
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["pairs"] == 48 and report["test_pairs"] == 23, "all but the tie"


def test_pictures_of_a_vote_have_its_noise_level(pairs_file, weights, tmp_path):
    """Whatever their shape: the first two pictures are wider than the others."""
    for i in (0, 1):
        Image.open(pairs_file.parent / f"images/{i}.png").resize((32, 16)).save(pairs_file.parent / f"images/{i}.png")
    votes = Votes([pairs_file])
    cache = train_reward.encode(votes, vae.load(str(weights / "text_to_image")), tmp_path / "latents", 64, 2)
    assert len(cache) == 4 and len(cache.shapes) == 2
    seen, rng = train_reward.Seen(votes, cache), np.random.default_rng(0)
    found = seen.noisy(np.array([1, 4, 0]), torch.tensor([0.0, 0.5, 0.0]), rng)
    assert sorted(np.concatenate([at for at, *_ in found])) == list(range(6))
    for at, noisy, level in found:
        assert level.tolist() == [[0.0, 0.0, 0.5, 0.5, 0.0, 0.0][i] for i in at]
        for i, one in zip(at, noisy, strict=True):
            picture = int((votes.chosen, votes.rejected)[i % 2][(1, 4, 0)[i // 2]])
            clean = cache.take([int(np.flatnonzero(cache.numbers == picture)[0])]).latents[0].float()
            assert torch.equal(one, clean) == (i // 2 != 1)


def test_votes_are_read_of_one_question(pairs_file, clip_folder, weights, tmp_path, capsys):
    folders = ["--pairs", str(pairs_file), "--clip", str(clip_folder), "--model", str(weights / "text_to_image")]
    with pytest.raises(SystemExit):
        train_reward.main([*folders, "--out", str(tmp_path), "--question", "quality"])
    assert "too few" in capsys.readouterr().err
