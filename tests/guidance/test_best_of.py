"""Best of N keeps what the evaluators like best of the stock pipeline's own images."""

import numpy as np
import pytest
import torch

from evaluators.base import FunctionEvaluator
from guidance import Static
from pipelines import DynamicGuidanceStableDiffusionPipeline, best_of, guide

PROMPTS = ["two red circles", "a blue star"]
N, STEPS = 3, 2


def brightness(candidates, context):
    return candidates.flatten(2).mean(2)


def contrast(candidates, context):
    return candidates.flatten(2).std(2)


def options(host, n=N):
    values = {"num_inference_steps": STEPS, "height": 16, "width": 16}
    values["generator"] = [torch.Generator().manual_seed(i) for i in range(n * len(PROMPTS))]
    return values | ({"true_cfg_scale": 3.0, "negative_prompt": [""] * len(PROMPTS)} if host == "flux" else {})


@pytest.mark.parametrize("host", ["sd", "sd3", "flux"])
def test_as_by_hand(stock, host):
    pipe, weights = stock(host), {"contrast": 0.5}
    every = lambda kind: pipe(PROMPTS, num_images_per_prompt=N, output_type=kind, **options(host)).images  # noqa: E731
    latents, images = every("latent").reshape(2, N, -1).double(), every("np")

    def standard(x):
        return (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True, correction=0)

    scores = standard(latents.mean(2)) + 0.5 * standard(latents.std(2))
    chosen = scores.argmax(1)
    best = best_of(pipe, PROMPTS, N, [brightness, contrast], weights, output_type="np", **options(host))
    assert best.chosen.tolist() == chosen.tolist()
    torch.testing.assert_close(best.scores.double(), scores, rtol=1e-3, atol=1e-3)
    assert np.array_equal(best.images, images.reshape(2, N, 16, 16, 3)[[0, 1], chosen])
    assert best.nfe == N * STEPS * 2
    pil = best_of(pipe, PROMPTS, N, [brightness, contrast], weights, **options(host)).images
    assert [np.array_equal(np.array(p), (a * 255).round()) for p, a in zip(pil, best.images, strict=True)] == [True] * 2


def test_what_evaluators_see(stock):
    seen = []

    def spy(candidates, context):
        seen.append((tuple(candidates.shape), list(context.prompt), context.noise_level))
        return brightness(candidates, context)

    best_of(stock("flux"), PROMPTS, N, [FunctionEvaluator(spy, "spy", "noisy", True)], **options("flux"))
    assert seen[-1] == ((2, N, 4, 8, 8), PROMPTS, 0.0)


@pytest.mark.parametrize("n", [1, 2])
def test_one_prompt(stock, n):
    best = best_of(stock("sd"), PROMPTS[0], n, [brightness], num_inference_steps=STEPS, guidance_scale=1.0)
    assert len(best.images) == 1 and best.scores.shape == (1, n)
    assert best.nfe == n * STEPS, "without guidance there is one pass"


def test_a_score_that_is_not_finite_is_not_kept(stock):
    def broken(candidates, context):
        scores = brightness(candidates, context)
        if candidates.shape[1] == N and context.noise_level == 0:
            scores[0, 0], scores[1] = torch.inf, torch.nan
        return scores

    best = best_of(stock("sd"), PROMPTS, N, [broken], **options("sd"))
    assert best.chosen[0] != 0 and best.chosen[1] == 0


def test_with_guidance(stock, folder):
    pipe = stock("sd")
    expected = best_of(pipe, PROMPTS, N, [brightness], guidance_scale=6.0, output_type="np", **options("sd"))
    with guide(pipe, Static(6.0)):
        inside = best_of(pipe, PROMPTS, N, [brightness], output_type="np", **options("sd"))
    dynamic = DynamicGuidanceStableDiffusionPipeline.from_pretrained(folder("sd"))
    given = best_of(dynamic, PROMPTS, N, [brightness], guidance=Static(6.0), output_type="np", **options("sd"))
    assert np.array_equal(inside.images, expected.images) and np.array_equal(given.images, expected.images)


@pytest.mark.parametrize(
    "arguments, match",
    [
        ({"n": 0}, "`n` must be an integer of at least 1, got 0"),
        ({"n": 2.0}, "`n` must be an integer"),
        ({"prompt": []}, "`prompt` must be a string or a list of at least one string"),
        ({"evaluators": []}, "`evaluators` is empty"),
        ({"weights": {"clip": 1.0}}, r"`weights` names no evaluator: \['clip'\]"),
        ({"num_images_per_prompt": 2}, r"`kwargs` must not have \['num_images_per_prompt'\]"),
    ],
)
def test_refuses(stock, arguments, match):
    with pytest.raises(ValueError, match=match):
        best_of(**{"pipe": stock("sd"), "prompt": PROMPTS, "n": N, "evaluators": [brightness]} | arguments)


def test_an_evaluator_of_another_vae(stock, discriminator):
    with pytest.raises(ValueError, match="'discriminator' takes latents of 16 channels, this pipeline's have 4"):
        best_of(stock("sd"), PROMPTS, N, [discriminator(16)], **options("sd"))
    assert "forward" not in stock("sd").unet.__dict__, "no patch stays"
