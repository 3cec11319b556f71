"""Trajectories and the value that is learned from them: from prompts alone to an evaluator that loads."""

import json
import signal
import subprocess
import sys

import pytest
import small_judges
import tiny
import torch

from evaluators import Context, LatentCLIP, LatentValue, PixelEvaluator, load_evaluator
from guidance import NoiseSearch
from pipelines import guide
from training import evaluate, rejudge, trajectories, value
from training.judged import Judged, agreements, ranking_accuracy
from training.noise import LEVELS
from training.shards import ShardFolder
from training.trajectories import held_out, kept_steps

PROMPTS = [f"{number} {color} {shape}" for number in (1, 2, 3) for color in ("red", "blue") for shape in ("cat", "dog")]


class Redness(PixelEvaluator):
    """How much more red than blue there is: a judge that any model can please."""

    name = "redness"
    needs_prompt = False

    def judge(self, images, prompts):
        return images[:, 0].mean((1, 2)) - images[:, 2].mean((1, 2))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name in tiny.BUILDERS:
        torch.manual_seed(0)
        tiny.BUILDERS[name]().save_pretrained(folder / name)
    return folder


@pytest.fixture
def prompts(tmp_path):
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    return str(tmp_path / "prompts.txt")


@pytest.fixture
def clip(tmp_path):
    torch.manual_seed(0)
    clip = LatentCLIP(text_config=tiny.text_config(), dim=tiny.DIM, channels=(8, 16))
    clip.tokenizer = tiny.tokenizer()
    clip.eval().save_pretrained(tmp_path / "clip")
    return clip


def command(models, prompts, *more, name="sd"):
    few = ["--images", "4", "--sampling-steps", "4", "--keep", "2"]
    return ["--model", str(models / name), "--prompts", prompts, *few, *more]


def sample(models, prompts, out, *more, name="sd"):
    judge = ["--judge", "test_value:Redness", "--out", str(out)]
    trajectories.main(command(models, prompts, *judge, *more, name=name))
    return ShardFolder.open(out)


def test_kept_steps():
    assert kept_steps(10, 10) == list(range(10)) and kept_steps(3, 10) == [0, 1, 2]
    assert kept_steps(20, 5) == [0, 5, 10, 14, 19] and kept_steps(20, 1) == [19]


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3"])
def test_a_pipeline_s_trajectories_are_kept_and_judged(models, prompts, tmp_path, name):
    folder = sample(models, prompts, tmp_path / "made", name=name)
    (shard,) = folder.shards()
    latents, levels, scores = (shard.tensor(key) for key in ("latents", "levels", "scores"))
    channels = 16 if name == "sd3" else 4
    assert latents.shape == (48, 2, channels, *latents.shape[3:]) and latents.dtype == torch.float16
    assert 0 < levels[0] < 1 and levels[1] < 0.05 and scores.shape == (48,)
    assert shard.about["captions"] == [text for text in PROMPTS for _ in range(4)]
    assert float(scores.view(12, 4).std(1).min()) > 0, "every picture has its own noise"


def test_a_killed_sampling_goes_on_and_makes_the_same(models, prompts, tmp_path, monkeypatch):
    monkeypatch.setattr(trajectories, "PICTURES", 8)
    whole = sample(models, prompts, tmp_path / "whole")
    code = (
        "import os, signal, sys; sys.path[:0] = ['tests', 'tests/training']\n"
        "from training import shards, trajectories; trajectories.PICTURES = 8; save = shards.save_file\n"
        "def dies(tensors, path, metadata):\n"
        "    save(tensors, path, metadata)\n"
        "    if path.name.startswith('.00002'): os.kill(os.getpid(), signal.SIGKILL)\n"
        "shards.save_file = dies; trajectories.main(sys.argv[1:])"
    )
    out = ["--judge", "test_value:Redness", "--out", str(tmp_path / "cut")]
    done = subprocess.run([sys.executable, "-c", code, *command(models, prompts, *out)], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    cut = ShardFolder.open(tmp_path / "cut")
    assert [cut.has(number) for number in range(6)] == [True, True, False, False, False, False]
    sample(models, prompts, tmp_path / "cut")
    assert len(cut.shards()) == len(whole.shards()) == 6
    for a, b in zip(whole.shards(), cut.shards(), strict=True):
        assert torch.equal(a.tensor("latents"), b.tensor("latents")) and torch.equal(
            a.tensor("scores"), b.tensor("scores")
        )


class Blueness(Redness):
    """The other way round."""

    def judge(self, images, prompts):
        return -super().judge(images, prompts)


def test_trajectories_are_judged_again(models, prompts, tmp_path, capsys):
    made = sample(models, prompts, tmp_path / "red")
    again = ["--trajectories", str(tmp_path / "red"), "--judge", "test_value:Blueness", "--out", str(tmp_path / "blue")]
    rejudge.main(again)
    blue = ShardFolder.open(tmp_path / "blue")
    assert blue.what == made.what | {"judge": "test_value:Blueness"} and len(blue.shards()) == len(made.shards())
    for one, other in zip(made.shards(), blue.shards(), strict=True):
        assert one.about == other.about and torch.equal(one.tensor("latents"), other.tensor("latents"))
        torch.testing.assert_close(other.tensor("scores"), -one.tensor("scores"))
    with pytest.raises(SystemExit):
        rejudge.main([*again[:3], "test_value:Redness", *again[4:]])
    assert "was made otherwise, with judge 'test_value:Blueness'" in capsys.readouterr().err


def test_another_command_for_the_same_folder_is_refused(models, prompts, tmp_path, capsys):
    sample(models, prompts, tmp_path / "made")
    with pytest.raises(SystemExit):
        sample(models, prompts, tmp_path / "made", "--sampling-seed", "9")
    assert "was made otherwise, with seed 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    "judge, message",
    [("clip", "give clip=FOLDER"), ("nothing", "unknown"), ("json:nothing", "no function of a module")],
)
def test_a_judge_that_cannot_be_is_refused(models, prompts, tmp_path, capsys, judge, message):
    with pytest.raises(SystemExit):
        trajectories.main(command(models, prompts, "--judge", judge, "--out", str(tmp_path / "made")))
    assert message in capsys.readouterr().err and not (tmp_path / "made").exists()


def test_a_value_begins_as_its_clip_and_is_saved(clip, tmp_path):
    made = LatentValue.from_clip(clip).eval()
    latents, context = torch.randn(2, 3, 4, 8, 8), Context(["1 red cat", "2 blue dog"], 0.0, 0.7)
    torch.testing.assert_close(made(latents, context), clip(latents, context))
    with torch.no_grad():
        made.verdict[1].weight.normal_()
    made.save_pretrained(tmp_path / "value")
    loaded = load_evaluator("value", tmp_path / "value")
    torch.testing.assert_close(loaded(latents, context), made(latents, context))
    assert not torch.allclose(made(latents, context), clip(latents, context))
    assert made(torch.randn(1, 2, 4, 12, 20), Context(["1 red cat"], 0.0, 0.7)).shape == (1, 2), "any resolution"


def test_it_tells_left_from_right():
    """What pooled features cannot: the places of the maps have their positions."""
    torch.manual_seed(0)
    made = LatentValue(text_config=tiny.text_config(), dim=tiny.DIM, channels=(8, 16)).eval()
    with torch.no_grad():
        made.verdict[1].weight.normal_()
        made.trunk.head[2].weight.zero_()
        latents, text = torch.zeros(1, 4, 16, 16), torch.randn(1, tiny.DIM)
        latents[..., :4] = 3
        left, right = (made.values(x, torch.full((1,), 0.5), text) for x in (latents, latents.flip(-1)))
    assert not torch.allclose(left, right, atol=1e-3)


def test_from_prompts_to_a_value(models, prompts, clip, tmp_path, monkeypatch):
    """It learns what the judge likes from what the model makes; shards are made while it trains."""
    monkeypatch.setattr(trajectories, "PICTURES", 16)
    made, real = [], trajectories.Sampling.make

    def make(self, number):
        made.append(number)
        real(self, number)

    monkeypatch.setattr(trajectories.Sampling, "make", make)
    arguments = command(models, prompts, "--judge", "test_value:Redness", "--clip", str(tmp_path / "clip"))
    arguments += ["--images", "8", "--out", str(tmp_path / "out"), "--steps", "150", "--batch-size", "8"]
    value.main([*arguments, "--lr", "3e-3"])
    assert made == list(range(6)) and (tmp_path / "out" / "trajectories" / "00005.safetensors").is_file()
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["judge"] == "test_value:Redness" and report["held_out_pairs"] > 0 and report["pictures"] == 96
    assert len(report["ranking_accuracy_of_value_and_clip"]) == 2
    assert report["metrics"]["ranking_accuracy"] > 0.9, "of so few pictures it learns all by heart"
    trained = load_evaluator("value", tmp_path / "out" / "value")
    assert trained.calibration.noise_level == LEVELS
    pipe = tiny.BUILDERS["sd"]()
    pipe.set_progress_bar_config(disable=True)
    with guide(pipe, NoiseSearch([trained], noises=2)) as traces:
        pipe("1 red cat", num_inference_steps=2, eta=1.0, output_type="latent", generator=torch.manual_seed(0))
    assert traces[-1].steps[0]["noise_scores"]["value"].shape == (1, 2)


def test_from_nothing_but_prompts(models, prompts, tmp_path, monkeypatch):
    """Without a latent CLIP, a teacher's text tower reads the prompts."""
    teacher = small_judges.save_open_clip(tmp_path / "teacher")
    arguments = command(models, prompts, "--judge", "test_value:Redness", "--teacher", str(teacher), name="sd3")
    arguments += ["--out", str(tmp_path / "out"), "--steps", "3", "--batch-size", "4"]
    pushed = []
    monkeypatch.setattr("training.evaluators.create_repo", lambda name, exist_ok: pushed.append(name))
    monkeypatch.setattr("training.evaluators.upload_folder", lambda **call: pushed.append(call["folder_path"]))
    value.main([*arguments, "--push-to-hub", "me/value"])
    assert pushed == ["me/value", tmp_path / "out" / "value"]
    assert "command: `" in (tmp_path / "out" / "value" / "README.md").read_text()
    trained = load_evaluator("value", tmp_path / "out" / "value")
    assert trained.in_channels == 16 and trained.config.teacher == str(teacher)
    assert trained(torch.randn(1, 3, 16, 8, 8), Context(["a red cat"], 0.0, 0.5)).shape == (1, 3)


def test_what_cannot_be_pushed_is_kept(models, prompts, clip, tmp_path):
    arguments = command(models, prompts, "--judge", "test_value:Redness", "--clip", str(tmp_path / "clip"))
    arguments += ["--out", str(tmp_path / "out"), "--steps", "1", "--push-to-hub", "me/value"]
    with pytest.raises(SystemExit, match=r"--push-to-hub: .*the weights are in"):
        value.main(arguments)  # the tests are never on line
    assert load_evaluator("value", tmp_path / "out" / "value").name == "value"


def test_every_eighth_prompt_is_held_out():
    assert held_out(["a", "b", "c"], {"first": 6}) == [False, False, True]


def test_a_second_speaks_as_loudly_as_its_share_says(models, prompts, tmp_path):
    """In units of each one's own spread within a prompt, whatever scale it speaks on."""

    class Loud(PixelEvaluator):
        name, space, needs_prompt = "loud", "noisy", False

        def forward(self, candidates, context):
            return 1000 * candidates.mean((2, 3, 4))

    folder = sample(models, prompts, tmp_path / "out")
    alone, both = Judged(folder), Judged(folder, Loud(), 0.5)
    alone.refresh()
    both.refresh()
    finished = torch.cat([shard.tensor("latents")[:, -1].float() for shard in folder.shards()])
    said = finished.mean((1, 2, 3)).view(-1, 4)
    judge, together = (torch.cat(list(data.scores.values())) for data in (alone, both))
    unit = [x.var(1, correction=0).mean().sqrt() for x in (judge, said)]
    torch.testing.assert_close(together, judge + 0.5 * said * unit[0] / unit[1])
    assert both.spread > 0 and alone.train == both.train


def test_agreements_count_decided_pairs():
    truth, said = torch.tensor([0.0, 2.0, 0.1]), torch.tensor([1.0, 3.0, 3.0])
    assert agreements(said, truth, margin=1.0) == [1.0, 0.5]
    assert agreements(said, torch.zeros(3)) == []


def test_missing_arguments(clip, tmp_path, capsys):
    for given, message in (([], "--model: is needed"), (["--model", "m"], "--prompts: is needed")):
        with pytest.raises(SystemExit):
            value.main([*given, "--clip", str(tmp_path / "clip"), "--out", str(tmp_path / "out")])
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        value.main(["--model", "m", "--out", str(tmp_path / "out")])
    assert "one of the arguments --clip --teacher is required" in capsys.readouterr().err


def test_evaluate_on_trajectories(models, prompts, clip, tmp_path, capsys):
    folder = sample(models, prompts, tmp_path / "made")
    evaluate.main([f"clip={tmp_path / 'clip'}", "--trajectories", str(folder.path), "--all"])
    report = json.loads(capsys.readouterr().out)["clip"]
    data = Judged(folder)
    data.refresh()
    accuracy, pairs = ranking_accuracy(clip, data, data.train + data.test)
    assert report["pairs"] == pairs > 0 and [*report["by_noise_level"].values()] == [*accuracy.values()]
