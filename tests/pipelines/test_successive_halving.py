"""Successive halving drops what the evaluators like least, leaves the rest alone, and makes no pass for the dropped."""

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from evaluators.base import FunctionEvaluator
from guidance import Budget, GreedySearch, NoiseSearch, Static
from guidance.panel import Panel
from guidance.sampling import ALIVE
from guidance.schedulers import noise_schedule
from pipelines import best_of, guide, successive_halving
from pipelines.patch import patch
from pipelines.successive_halving import HALVING, Race, image_steps, steps_within

PROMPTS = ["two red circles", "a blue star"]
N, STEPS = 4, 4


def brightness(candidates, context):
    return candidates.flatten(2).mean(2)


brightness_of_noisy = FunctionEvaluator(brightness, "noisy brightness", "noisy")


def options(host, n=N):
    values = {"num_inference_steps": STEPS, "height": 16, "width": 16}
    values["generator"] = [torch.Generator().manual_seed(i) for i in range(n * len(PROMPTS))]
    return values | ({"true_cfg_scale": 3.0, "negative_prompt": [""] * len(PROMPTS)} if host == "flux" else {})


def spied(seen, space):
    def spy(candidates, context):
        seen.append((candidates, context.noise_level))
        return brightness(candidates, context)

    return FunctionEvaluator(spy, "spy", space)


def test_others_choose_among_the_finished(stock):
    """The brighter half goes on, and of it the darker one is kept, by a judge of pictures that sees no others."""
    pipe, early, late = stock("sd"), [], []

    def darkness(candidates, context):
        late.append((candidates.shape[:2], context.noise_level))
        return -brightness(candidates, context)

    last = FunctionEvaluator(darkness, "darkness", "pixels")
    call = options("sd") | {"output_type": "np", "rungs": (0.25,)}
    made = successive_halving(pipe, PROMPTS, N, [spied(early, "noisy")], final_evaluators=[last], **call)
    seen = [shape for shape, _ in late if shape == (2, 2)]
    assert len(seen) == 1 and late[-1] == ((2, 2), 0.0)
    (rung,) = [candidates for candidates, _ in early if candidates.shape[:2] == (2, 4)]
    left = brightness(rung, None).argsort(1, descending=True)[:, :2].sort(1).values
    by_first = successive_halving(pipe, PROMPTS, N, [spied([], "noisy")], **call)
    for row in range(2):
        scores = made.scores[row, left[row]]
        assert made.chosen[row] == left[row][scores.argmax()] and made.chosen[row] in left[row]
    assert made.nfe == by_first.nfe
    with pytest.raises(ValueError, match="`final_evaluators` is empty"):
        successive_halving(pipe, PROMPTS, N, [brightness], final_evaluators=[], **call)


@pytest.mark.parametrize("space", ["noisy", "denoised", "pixels"])
@pytest.mark.parametrize("host", ["sd", "sd3", "flux"])
def test_as_by_hand(stock, host, space):
    """The better two after a quarter of the steps, of these the better after a half; the picture is that of `best_of`,
    and the denoiser runs for no other."""
    pipe, seen = stock(host), []
    images = pipe(PROMPTS, num_images_per_prompt=N, output_type="np", **options(host)).images
    made = successive_halving(pipe, PROMPTS, N, [spied(seen, space)], output_type="np", **options(host))
    seen = [call for call in seen if call[0].shape[:2] in ((2, 4), (2, 2), (2, 1))][-2:]
    left = torch.arange(N).expand(2, N)
    for (candidates, _), count in zip(seen, (4, 2), strict=True):
        assert candidates.shape[:2] == (2, count)
        kept = brightness(candidates, None).argsort(1, descending=True)[:, : count // 2].sort(1).values
        left = left.gather(1, kept)
    assert made.chosen.tolist() == left[:, 0].tolist() and made.scores.isnan().all(), "the last one meets no other"
    levels = [sigma / (alpha**2 + sigma**2) ** 0.5 for alpha, sigma in noise_schedule(pipe.scheduler)]
    levels = levels[1:] if space == "noisy" else levels
    assert [level for _, level in seen] == pytest.approx(levels[:2])
    kept = images.reshape(2, N, 16, 16, 3)[[0, 1], made.chosen]
    np.testing.assert_allclose(made.images, kept, atol=1e-3)
    assert made.nfe == 2 * (4 + 2 + 1 + 1)
    again = successive_halving(pipe, PROMPTS, N, [spied([], space)], output_type="np", **options(host))
    assert np.array_equal(again.images, made.images), "the generators decide"


def test_passes_are_those_of_the_denoiser(stock):
    pipe, rows = stock("sd"), []
    undo = patch(
        pipe.unet, "forward", lambda stock, *args, **kwargs: rows.append(len(args[0])) or stock(*args, **kwargs)
    )
    made = successive_halving(pipe, PROMPTS, 3, [brightness], rungs=(0.5,), **options("sd", 3))
    undo()
    assert rows == [12, 12, 8, 8], "half of three is two"
    assert made.nfe == sum(rows) / 2 == 2 * image_steps(3, (0.5,), 4)
    assert "forward" not in pipe.unet.__dict__ and "step" not in pipe.scheduler.__dict__, "no patch stays"


@pytest.mark.parametrize("host", ["sd", "sd3", "flux"])
def test_only_the_kept_one_is_decoded(stock, host):
    """After what the judges of pictures looked at: the finished two of each prompt."""
    pipe, rows = stock(host), []
    undo = patch(pipe.vae, "decode", lambda stock, z, *args, **kwargs: rows.append(len(z)) or stock(z, *args, **kwargs))
    last = FunctionEvaluator(brightness, "last", "pixels")
    call = {"rungs": (0.25,), "final_evaluators": [last], "output_type": "pt"} | options(host)
    made = successive_halving(pipe, PROMPTS, N, [spied([], "noisy")], **call)
    undo()
    assert rows == [2 * 2, 2] and "decode" not in pipe.vae.__dict__
    whole = pipe(PROMPTS, num_images_per_prompt=N, output_type="pt", **options(host)).images
    np.testing.assert_allclose(made.images, whole[torch.arange(2) * N + made.chosen], atol=1e-3)


def test_frames_that_are_decoded_as_rows_are_all_decoded(stock):
    """As many at a time as there are images: AnimateDiff's chunks."""
    pipe, seen = stock("sd"), []
    race = Race(pipe, (Panel([brightness]),) * 2, PROMPTS, 2, (), "vae")
    race.final, race.result = torch.zeros(4, 4, 3, 8, 8), (torch.tensor([0, 1]), torch.zeros(2, 2))
    race.decode(lambda z, **kwargs: seen.append(z.shape) or (z,), torch.ones(4, 4, 8, 8))
    race.decode(lambda z, **kwargs: seen.append(z.shape) or (z,), torch.ones(4, 4, 3, 8, 8))
    assert seen == [(4, 4, 8, 8), (2, 4, 3, 8, 8)]


def test_steps_within_the_passes_of_one_image():
    for asked in range(4, 60):
        for n, rungs in ((4, (0.25,)), (4, (0.3, 0.4)), (2, ()), (3, (0.5,))):
            steps = steps_within(n, rungs, asked)
            assert image_steps(n, rungs, steps) <= asked < image_steps(n, rungs, steps + 1)
    assert steps_within(**HALVING, asked=20) == 8 and steps_within(**HALVING, asked=1) == 1


def test_without_rungs_it_is_best_of(stock):
    arguments = stock("sd"), PROMPTS, N, [brightness]
    one = best_of(*arguments, output_type="np", **options("sd"))
    other = successive_halving(*arguments, rungs=(), output_type="np", **options("sd"))
    assert np.array_equal(one.images, other.images) and one.nfe == other.nfe
    assert torch.equal(one.chosen, other.chosen) and torch.equal(one.scores, other.scores)


def test_scores_that_are_not_finite_are_dropped(stock):
    def broken(candidates, context):
        scores = brightness(candidates, context)
        if candidates.shape[1] == N and context.noise_level < 0.999:
            scores[0, :2], scores[1, 2:] = torch.nan, torch.inf
        return scores

    broken.space = "noisy"
    made = successive_halving(stock("sd"), PROMPTS, N, [broken], rungs=(0.5,), **options("sd"))
    assert made.scores.isfinite().tolist() == [[False, False, True, True], [True, True, False, False]]


@pytest.mark.parametrize("host", ["sd", "flux"])
def test_with_guidance(stock, host):
    """Inside `guide` it is what the pipeline's own scale makes; a search decides for those that are left."""
    pipe = stock(host)
    scale = {"true_cfg_scale": 6.0} if host == "flux" else {"guidance_scale": 6.0}
    call = lambda **more: successive_halving(  # noqa: E731
        pipe, PROMPTS, N, [brightness], output_type="np", **options(host) | more
    )
    plain = call(**scale)
    with guide(pipe, Static(6.0)):
        inside = call()
    np.testing.assert_allclose(inside.images, plain.images, atol=1e-5)
    assert inside.nfe == plain.nfe == 16
    with guide(pipe, GreedySearch([brightness], [1.0, 6.0])) as traces:
        assert call().nfe == 16
    assert traces[0].scales.isfinite().all()
    with guide(pipe, Budget(Static(6.0), tolerance=1e6, recheck=None)):
        assert call().nfe < 16


@pytest.mark.parametrize("space", ["noisy", "pixels"])
def test_a_search_asks_only_about_those_that_are_left(stock, monkeypatch, space):
    """And the one that is kept is what it is where the search asks about all."""
    pipe, seen = stock("sd"), []
    monkeypatch.setattr(pipe, "scheduler", DDPMScheduler.from_config(pipe.scheduler.config))

    def spy(candidates, context):
        seen.append((candidates.shape[1], list(context.prompt)))
        return brightness(candidates, context)

    search = NoiseSearch([brightness_of_noisy, FunctionEvaluator(spy, "spy", space)], [1.0, 3.0, 6.0])
    with guide(pipe, search):
        images = pipe(PROMPTS, num_images_per_prompt=N, output_type="np", **options("sd")).images
    seen.clear()
    with guide(pipe, search) as traces:
        made = successive_halving(pipe, PROMPTS, N, [brightness], output_type="np", **options("sd"))
    rows = [len(prompts) for count, prompts in seen if count == 3]
    assert rows == [8, 4, 2, 2], "after a quarter of four steps half are left, after a half one of each prompt"
    assert [prompts for count, prompts in seen if count == 3][1:3] == [[p for p in PROMPTS for _ in range(2)], PROMPTS]
    kept = images.reshape(2, N, 16, 16, 3)[[0, 1], made.chosen]
    np.testing.assert_allclose(made.images, kept, atol=1e-3)
    scores = torch.stack([step["scores"]["spy"] for step in traces[0].steps])
    alive = torch.zeros(2 * N, dtype=torch.bool)
    alive[torch.arange(2) * N + made.chosen] = True
    assert scores[:, alive].std(2).all() and not scores[2:, ~alive].any(), "of those that are dropped nothing is said"
    assert ALIVE.get() is None, "nothing is told to the next call"


@pytest.mark.parametrize(
    "arguments, match",
    [
        ({"rungs": (0.5, 0.25)}, "`rungs` must rise"),
        ({"rungs": (0.5, 0.5)}, "`rungs` must rise"),
        ({"rungs": (0.0,)}, "above 0 and below 1"),
        ({"rungs": (1.0,)}, "above 0 and below 1"),
        ({"n": 0}, "`n` must be an integer of at least 1, got 0"),
        ({"evaluators": []}, "`evaluators` is empty"),
        ({"callback_on_step_end": print}, r"`kwargs` must not have \['callback_on_step_end'\]"),
    ],
)
def test_refuses(stock, arguments, match):
    with pytest.raises(ValueError, match=match):
        successive_halving(**{"pipe": stock("sd"), "prompt": PROMPTS, "n": N, "evaluators": [brightness]} | arguments)
