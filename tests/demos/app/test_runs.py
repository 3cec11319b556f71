"""Runs: every method as it is by itself, several pictures, and what of the model a visitor may set."""

import numpy as np
import pytest
import torch
from app_inputs import PROMPT, SEED, STEPS, settings

from demos.app.host import Host
from demos.app.methods import METHODS, guidance_of, offered
from demos.app.previews import Decoder
from demos.app.runs import Progress, cost, run
from demos.denoising import APART, Several, denoise
from guidance import Budget, GreedySearch, NoiseSearch, Static
from pipelines import best_of


def pixels(image):
    return np.asarray(image).astype(int)


def far(one, other):
    return abs(pixels(one) - pixels(other)).max()


def quiet(progress):
    """Nobody looks."""


@pytest.mark.parametrize("other, pictures", [("dynamic", 1), ("budget", 1), ("noise", 2)])
def test_pictures_are_those_of_their_guidance_alone(host, other, pictures):
    made = run(host, settings(host, methods=(other, "static"), pictures=pictures), quiet)
    assert len(made.rows) == pictures
    for row, seed in zip(made.rows, (SEED, SEED + 1), strict=False):
        for picture in row:
            guidance = guidance_of(picture.method, made.settings, host.default.evaluators)
            if other == "noise":  # from the same sampler, which adds noise for both
                object.__setattr__(guidance, "noises", 3)
            alone = denoise(host.pipe, guidance, [PROMPT], [seed], STEPS)
            trace = alone.trace
            assert far(alone.images[0], picture.image) <= 2
            assert trace.scales[:, 0].tolist() == pytest.approx(picture.trace.scales[:, 0].tolist())
            assert (picture.seed, picture.passes) == (seed, int(trace.nfe[0]))
    assert far(made.rows[0][0].image, made.rows[0][1].image) > 2


@pytest.mark.parametrize(("method", "n", "asked", "steps"), [("best", 2, STEPS, STEPS), ("halving", 4, 10, 4)])
def test_one_of_several_is_kept(host, method, n, asked, steps):
    """It is what its seed alone makes, with the steps of each: those asked for, or, halved, as many passes as one."""
    made = run(host, settings(host, methods=(method,), steps=asked), quiet)
    ((picture,),) = made.rows
    guidance = guidance_of(method, made.settings, host.default.evaluators)
    noise, scale = guidance.guidance, guidance.own_scale
    assert noise.scales == ((3.0,) if method == "best" else made.settings.scales)
    one = Several(noise, guidance.evaluators, guidance.weights, 1, own_scale=scale)
    alone = [denoise(host.pipe, one, [PROMPT], [SEED + APART * k], steps) for k in range(n)]
    place, scores = picture.tried
    assert far(alone[place].images[0], picture.image) <= 2 and len(scores) == n
    assert picture.trace.scales[:, 0].tolist() == alone[place].trace.scales[:, 0].tolist()
    assert picture.passes == (4 * STEPS if method == "best" else 2 * asked)
    left = [k for k in range(n) if not np.isnan(scores[k])]
    assert len(left) == 2 and scores[place] == max(scores[k] for k in left)
    if method == "best":
        kept = best_of(
            host.pipe, [PROMPT], n, guidance.evaluators, guidance.weights, num_inference_steps=steps, eta=1.0,
            guidance=noise, generator=[torch.Generator().manual_seed(SEED + APART * k) for k in range(n)],
        )  # fmt: skip
        assert place == int(kept.chosen)


def test_methods_are_what_they_are_called(host):
    one = settings(host, tolerance=0.3)
    made = {name: guidance_of(name, one, host.default.evaluators) for name in METHODS}
    kinds = {
        name: type(guidance.guidance if name in ("halving", "best") else guidance) for name, guidance in made.items()
    }
    searches = {"dynamic": GreedySearch, "noise": NoiseSearch, "halving": NoiseSearch, "best": NoiseSearch}
    assert kinds == searches | {"budget": Budget, "static": Static}
    assert host.methods == tuple(METHODS) and made["budget"].tolerance == 0.3 and made["noise"].noises == 3
    panel = list(host.default.evaluators.values())
    assert isinstance(made["halving"], Several) and list(made["halving"].evaluators) == panel
    judged = guidance_of("halving", one, host.default.evaluators, (panel[0],))
    assert (list(judged.evaluators), judged.kept_by, judged.weights) == (panel, panel[:1], one.panel)


def test_judges_of_pictures_cannot_tell_draws_apart(host):
    def judge(pictures, context):
        return pictures.mean(dim=(2, 3, 4))

    judge.space = "pixels"
    search = GreedySearch([judge], (1.0, 4.0))
    assert "noise" not in offered(search.evaluators)
    lone = Host(host.pipe, search, True, host.decode)
    (row,) = run(lone, settings(lone, methods=("best", "halving"), steps=2), quiet).rows
    assert all(one.tried is not None and "noise" not in one.trace.steps[0] for one in row)
    assert "scores" in row[0].trace.steps[0] and set(row[1].trace.scales[:, 0].tolist()) == {3.0}


def test_a_single_candidate_is_not_searched_but_draws_may_be(host):
    made = run(host, settings(host, scales=(6.0,), static=6.0, methods=("dynamic", "noise"), steps=2, every=1), quiet)
    dynamic, noise = made.rows[0]
    assert dynamic.trace.scales[:, 0].tolist() == noise.trace.scales[:, 0].tolist() == [6, 6]
    assert "noise" in noise.trace.steps[0] and "scores" not in dynamic.trace.steps[0]


def test_a_weight_of_zero_leaves_an_evaluator_out(host):
    weights = (("clip", 0.0), ("discriminator", 2.0), ("reward", 0.0))
    made = run(host, settings(host, weights=weights, steps=2, every=1, methods=("dynamic",)), quiet)
    assert [set(step["scores"]) for step in made.rows[0][0].trace.steps] == [{"discriminator"}] * 2


def test_predictions_are_what_evaluators_see(host):
    seen = []

    def spy(latents, context):
        seen.append(latents[:1].clone())
        return latents.mean(dim=(2, 3, 4))

    lone = Host(host.pipe, GreedySearch([spy], (1.0, 4.0, 9.0)), True, host.decode)
    made = run(lone, settings(lone, methods=("dynamic",), steps=3, every=1), quiet)
    for step, expected in enumerate(seen[1:]):  # the first is the trial before sampling
        torch.testing.assert_close(made.rows[0][0].denoised(step)[None], expected, atol=1e-4, rtol=1e-4)


def test_progress(host):
    seen: list[Progress] = []
    one = settings(host, methods=("best", "static"), pictures=2)
    run(host, one, seen.append)
    assert [(p.place, p.done) for p in seen] == [(place, n) for place in (0, 1) for n in range(1, STEPS + 1)]
    assert [p.share for p in seen] == pytest.approx([n / 9 for n in (2, 4, 6, 7, 8, 9)])
    assert all(len(p.images) == 2 for p in seen)  # of each seed one, however many are tried
    assert cost(one) == STEPS * 2 * 3


def test_negative_prompt_and_sampler(host):
    plain = run(host, settings(host, methods=("static",)), quiet).rows[0][0].image
    negative = run(host, settings(host, methods=("static",), negative="a blue square"), quiet).rows[0][0].image
    assert far(plain, negative) > 2
    assert "UniPCMultistepScheduler" in host.samplers and type(host.pipe.scheduler).__name__ not in host.samplers
    own = host.pipe.scheduler
    other = run(host, settings(host, methods=("static",), sampler="UniPCMultistepScheduler"), quiet).rows[0][0].image
    assert far(plain, other) > 2 and host.pipe.scheduler is own


@pytest.mark.parametrize("kind", ["sdxl", "sd3", "flux"])
def test_models_of_the_users(stock, kind):
    def level(latents, context):
        return latents.mean(dim=(2, 3, 4))

    pipe = stock(kind)
    level.space = "noisy"
    host = Host(pipe, GreedySearch([level], (2.0, 4.0)), False, Decoder(pipe), kind)
    assert host.sized
    sized = {} if kind == "sd3" else {"width": 64, "height": 72}  # that tiny SD3 takes no other
    for methods in (("dynamic", "budget"), ("noise", "static"), ("best",)):
        one = settings(host, methods=methods, scales=(2.0, 4.0), negative="a fox", steps=2, **sized)
        for picture in run(host, host.checked(one), quiet).rows[0]:
            assert set(picture.trace.scales[:, 0].tolist()) <= {2.0, 3.0, 4.0}
            assert not sized or picture.image.size == (64, 72)
    if kind == "sdxl":
        run(host, settings(host, scales=(2.0, 4.0), sampler="DPMSolverMultistepScheduler", steps=2), quiet)
