"""Evaluators: shapes, saving, calibration, and how their scores become one."""

import functools
import json

import pytest
import torch

from evaluators import (
    Calibration,
    Context,
    LatentCLIP,
    LatentDiscriminator,
    as_evaluator,
    by_gain,
    by_spread,
    combine,
    load_evaluator,
    relative_gain,
    score,
)
from evaluators.base import FunctionEvaluator
from evaluators.latent.trunk import noise_embedding

PROMPTS = ("two red circles", "a blue star", "a cross")
CALIBRATION = Calibration((0.0, 0.5, 1.0), (0.2, 1.0, 2.0), (0.9, 0.75, 0.5))
CLASSES = {"clip": LatentCLIP, "discriminator": LatentDiscriminator}
both = pytest.mark.parametrize("name", list(CLASSES))


@pytest.fixture
def make(clip, discriminator):
    return lambda name, *args: {"clip": clip, "discriminator": discriminator}[name](*args)


def candidates(batch=3, count=4, channels=4, size=8):
    return torch.randn(batch, count, channels, size, size, generator=torch.Generator().manual_seed(0))


def context(noise_level=0.6, prompt=PROMPTS):
    return Context(prompt, 500, noise_level)


@torch.no_grad()
def scores(evaluator, latents=None, where=None):
    return score(evaluator, candidates() if latents is None else latents, where or context())


# ------------------------------------------------------------------------------------------- learned evaluators


@both
@pytest.mark.parametrize("channels, size", [(4, 8), (16, 8), (4, 16), (4, 12)])
def test_shapes_and_what_the_scores_depend_on(make, name, channels, size):
    evaluator, latents = make(name, channels), candidates(channels=channels, size=size)
    found = scores(evaluator, latents)
    assert found.shape == (3, 4) and found.dtype == torch.float32 and found.isfinite().all()
    assert evaluator.in_channels == channels and evaluator.space == "noisy"
    assert len(found.unique()) == 12
    assert not torch.equal(found, scores(evaluator, latents, context(0.3))), "noise-aware"
    changed = not torch.allclose(found, scores(evaluator, latents, context(prompt=PROMPTS[::-1])), atol=1e-4)
    assert changed == evaluator.needs_prompt == (name == "clip")


def test_clip_scores_are_scaled_cosines(clip):
    evaluator = clip()
    latents = candidates(3, 1)
    with torch.no_grad():
        image = evaluator.encode_latents(latents[:, 0], torch.full((3,), 0.6))
        text = evaluator.encode_text(PROMPTS)
        expected = evaluator.logit_scale.exp() * torch.nn.functional.cosine_similarity(image, text)
    torch.testing.assert_close(image.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(scores(evaluator, latents)[:, 0], expected)


@both
def test_scores_do_not_depend_on_the_batch(make, name):
    evaluator, latents = make(name), candidates()
    together = scores(evaluator, latents)
    for row in range(3):
        for at in range(4):
            alone = scores(evaluator, latents[row : row + 1, at : at + 1], context(prompt=PROMPTS[row : row + 1]))
            torch.testing.assert_close(alone[0, 0], together[row, at], rtol=1e-4, atol=1e-5)


@both
@pytest.mark.parametrize("subfolder", [None, "evaluators/mine"])
def test_saved_and_loaded_scores_are_equal(make, name, subfolder, tmp_path):
    evaluator = make(name)
    evaluator.calibrate(CALIBRATION)
    evaluator.save_pretrained(tmp_path / (subfolder or ""))
    loaded = CLASSES[name].from_pretrained(tmp_path, **({"subfolder": subfolder} if subfolder else {})).eval()
    assert torch.equal(scores(loaded), scores(evaluator))
    assert loaded.calibration == CALIBRATION
    assert (tmp_path / (subfolder or "") / "diffusion_pytorch_model.safetensors").exists()


@both
def test_loaded_by_its_registered_name(make, name, tmp_path):
    make(name).save_pretrained(tmp_path)
    loaded = load_evaluator(name, tmp_path)
    assert type(loaded) is CLASSES[name] and loaded.name == name and not loaded.training
    assert torch.equal(scores(loaded), scores(make(name)))


@both
def test_calibration_lives_in_the_config(make, name, tmp_path):
    evaluator = make(name)
    assert evaluator.calibration is None
    evaluator.save_pretrained(tmp_path)
    assert CLASSES[name].from_pretrained(tmp_path).calibration is None
    evaluator.calibrate(CALIBRATION)
    assert evaluator.calibration == CALIBRATION
    evaluator.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())["calibration"]
    assert stored == {"noise_level": [0, 0.5, 1], "spread": [0.2, 1, 2], "reliability": [0.9, 0.75, 0.5]}


@both
def test_half_precision(make, name):
    evaluator = make(name)
    expected = scores(evaluator)
    found = scores(evaluator.to(torch.bfloat16))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.1 * expected.abs().max().item())


def test_clip_remembers_prompts_but_not_old_weights(clip):
    evaluator = clip()
    calls = []
    hook = evaluator.text_model.register_forward_hook(lambda *_: calls.append(1))
    before = scores(evaluator)
    assert torch.equal(scores(evaluator, where=context(0.6)), before) and len(calls) == 1
    scores(evaluator, where=context(prompt=PROMPTS[::-1]))
    assert len(calls) == 2
    hook.remove()
    with torch.no_grad():
        evaluator.train()
        evaluator.text_model.text_projection.weight.mul_(torch.linspace(-1, 1, 8)[:, None])
        evaluator.eval()
    fresh = clip()
    fresh.load_state_dict(evaluator.state_dict())
    assert torch.equal(scores(evaluator), scores(fresh)) and not torch.equal(scores(fresh), before)


def test_long_prompts_are_cut(clip):
    prompt = ("red circle " * 100,) * 3
    assert scores(clip(), where=context(prompt=prompt)).isfinite().all()


def test_noise_embedding_tells_levels_apart_at_both_ends():
    levels = torch.tensor([0.0, 0.05, 0.5, 0.95, 0.999, 1.0])
    embedding = noise_embedding(levels, 32)
    assert embedding.shape == (6, 32)
    assert torch.cdist(embedding, embedding).fill_diagonal_(9).min() > 0.05


# ------------------------------------------------------------------------------------- functions and small classes


def loudness(latents, where):
    return latents.flatten(2).std(2)


def test_a_plain_function_is_an_evaluator():
    evaluator = as_evaluator(loudness)
    assert (evaluator.name, evaluator.space, evaluator.needs_prompt) == ("loudness", "denoised", False)
    assert evaluator.in_channels is None and evaluator.calibration is None
    assert torch.equal(scores(evaluator), candidates().flatten(2).std(2))


def test_a_function_may_say_what_it_reads():
    function = functools.partial(loudness)
    function.space, function.name, function.needs_prompt = "noisy", "loud", True
    evaluator = as_evaluator(function)
    assert (evaluator.name, evaluator.space, evaluator.needs_prompt) == ("loud", "noisy", True)


def test_a_small_class_keeps_what_it_says():
    class Loudness:
        name, in_channels, calibration = "loud", 4, CALIBRATION

        def __call__(self, latents, where):
            return loudness(latents, where)

    evaluator = as_evaluator(Loudness())
    assert (evaluator.name, evaluator.in_channels, evaluator.calibration) == ("loud", 4, CALIBRATION)
    assert (evaluator.space, evaluator.needs_prompt) == ("denoised", False)
    assert as_evaluator(evaluator) is evaluator


@both
def test_a_complete_evaluator_passes_through(make, name):
    evaluator = make(name)
    assert as_evaluator(evaluator) is evaluator


def test_scores_become_float32():
    assert scores(lambda_of(torch.float64)).dtype == torch.float32


def lambda_of(dtype):
    return FunctionEvaluator(lambda latents, where: loudness(latents, where).to(dtype), "cast")


# --------------------------------------------------------------------------------------------------- combining


def named(**calibrations):
    return {name: FunctionEvaluator(loudness, name, calibration=c) for name, c in calibrations.items()}


def test_calibration_interpolates():
    assert CALIBRATION.at(0.5) == (1.0, 0.75)
    assert CALIBRATION.at(0.25) == pytest.approx((0.6, 0.825))
    assert CALIBRATION.at(1.0) == (2.0, 0.5)
    assert CALIBRATION.at(-1.0) == (0.2, 0.9) and CALIBRATION.at(2.0) == (2.0, 0.5)


def test_uncalibrated_scores_are_standardised():
    given = torch.tensor([[1.0, 2.0, 3.0], [30.0, 10.0, 20.0]])
    total, weights = combine({"a": given}, {}, by_spread(named(a=None), {"a": 0.5}))
    z = 1.5**0.5
    torch.testing.assert_close(total, torch.tensor([[-z, 0.0, z], [z, -z, 0.0]]))
    assert weights == {"a": 1.0}


def test_calibrated_scores_are_divided_by_their_typical_spread():
    given = torch.tensor([[1.0, 2.0, 3.0], [30.0, 10.0, 20.0]])
    total, weights = combine({"a": given}, {}, by_spread(named(a=CALIBRATION), {"a": 0.25}))
    assert weights == {"a": pytest.approx(0.65)}  # 2 · 0.825 - 1
    torch.testing.assert_close(total, torch.tensor([[-1.0, 0.0, 1.0], [10.0, -10.0, 0.0]]) * 0.65 / 0.6)


def test_weighted_sum():
    given = {"a": torch.tensor([[0.0, 4.0]]), "b": torch.tensor([[3.0, 1.0]]), "c": torch.tensor([[5.0, 1.0]])}
    evaluators = named(a=None, b=CALIBRATION, c=CALIBRATION)
    levels = {"a": 0.5, "b": 0.5, "c": 0.0}
    total, weights = combine(given, {"a": 2.0, "b": 3.0}, by_spread(evaluators, levels))
    assert weights == {"a": 2.0, "b": pytest.approx(1.5), "c": pytest.approx(0.8)}
    first = 2.0 * -1.0 + 1.5 * 1.0 / 1.0 + 0.8 * 2.0 / 0.2
    torch.testing.assert_close(total, torch.tensor([[first, -first]]))


@pytest.mark.parametrize("reliability", [0.5, 0.3])
def test_an_evaluator_no_better_than_chance_has_no_say(reliability):
    chance = Calibration((0.0, 1.0), (1.0, 1.0), (reliability, reliability))
    given = {"a": torch.tensor([[0.0, 4.0]]), "b": torch.tensor([[900.0, 1.0]])}
    total, weights = combine(given, {"b": 100.0}, by_spread(named(a=None, b=chance), {"a": 0.5, "b": 0.5}))
    assert weights["b"] == 0.0
    torch.testing.assert_close(total, torch.tensor([[-1.0, 1.0]]))


def test_a_weak_signal_of_a_calibrated_evaluator_stays_weak():
    given = {"a": torch.tensor([[0.0, 1e-3]]), "b": torch.tensor([[1.0, 0.0]])}
    sure = Calibration((0.0, 1.0), (1.0, 1.0), (1.0, 1.0))
    total, _ = combine(given, {}, by_spread(named(a=sure, b=sure), {"a": 0.5, "b": 0.5}))
    assert total.argmax().item() == 0


def test_the_relative_gain_is_that_of_the_paper():
    now = torch.tensor([[2.0, 4.0], [1.0, 1.0], [-1.0, -1.0], [5.0, 7.0], [float("nan"), 3.0]])
    before = torch.tensor([[2.0], [2.0], [-2.0], [0.0], [2.0]])
    torch.testing.assert_close(relative_gain(now, before, False), torch.tensor([[0.5], [-0.5], [-0.5], [0.0], [0.5]]))
    torch.testing.assert_close(relative_gain(now, before, True), torch.tensor([[0.5], [0.5], [0.5], [0.0], [0.5]]))


def test_a_negative_gain_prefers_what_scores_less():
    given = {"a": torch.tensor([[1.0, 3.0], [1.0, 3.0]]), "b": torch.tensor([[9.0, 5.0], [9.0, 5.0]])}
    total, weights = combine(given, {"b": 3.0}, by_gain({name: torch.tensor([[0.5], [-0.5]]) for name in given}))
    torch.testing.assert_close(total, torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))  # 0.5 · (3 - 1), turned round
    assert weights == {"a": 1.0, "b": 3.0}


def test_equal_scores_say_nothing():
    given = {"a": torch.full((2, 3), 0.1), "b": torch.tensor([[1.0, 2.0, 3.0]] * 2)}
    total, _ = combine(given, {}, by_spread(named(a=None, b=None), {"a": 0.5, "b": 0.5}))
    assert total.argmax(1).tolist() == [2, 2]


def test_scores_that_are_not_finite_do_not_spoil_the_others():
    given = {"a": torch.tensor([[1.0, float("nan"), 3.0], [1.0, 2.0, 3.0]]), "b": torch.tensor([[0.0, 0.0, 2.0]] * 2)}
    total, _ = combine(given, {}, by_spread(named(a=None, b=None), {"a": 0.5, "b": 0.5}))
    assert total.isnan().tolist() == [[False, True, False], [False] * 3]
    b = torch.tensor([-(0.5**0.5), -(0.5**0.5), 2**0.5])
    torch.testing.assert_close(total[0, [0, 2]], torch.tensor([-1.0, 1.0]) + b[[0, 2]])
    torch.testing.assert_close(total[1], torch.tensor([-(1.5**0.5), 0.0, 1.5**0.5]) + b)


def test_frames_are_scored_by_an_evaluator_of_pictures_and_a_video_by_one_of_videos():
    video = torch.randn(2, 3, 4, 5, 6, 6, generator=torch.Generator().manual_seed(0))
    pictures = FunctionEvaluator(lambda candidates, context: candidates.std(dim=(2, 3, 4)), "pictures")
    expected = torch.stack([frame.std(dim=(2, 3, 4)) for frame in video.unbind(3)]).mean(0)
    torch.testing.assert_close(score(pictures, video, Context(None, 500, 0.5)), expected)
    together = FunctionEvaluator(lambda candidates, context: candidates.std(dim=(2, 3, 4, 5)), "video", video=True)
    torch.testing.assert_close(score(together, video, Context(None, 500, 0.5)), video.std(dim=(2, 3, 4, 5)))


def test_sound_has_a_height_of_one():
    sound = torch.randn(2, 3, 4, 7, generator=torch.Generator().manual_seed(0))
    pictures = FunctionEvaluator(lambda candidates, context: candidates.std(dim=(2, 3, 4)), "pictures")
    torch.testing.assert_close(score(pictures, sound, Context(None, 500, 0.5)), sound.std(dim=(2, 3)))
