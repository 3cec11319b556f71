"""Beam search against a beam in plain Python, and its paths replayed."""

import math

import diffusers
import pytest
import torch

from evaluators.base import FunctionEvaluator
from guidance import BeamSearch, GreedySearch
from pipelines import guide

PROMPTS = ["two red circles", "a blue star"]
SCALES = (1.0, 3.0, 8.0)
STEPS = 4
WIDTH = 3


def pattern(candidates, context):
    """Whatever: it changes from step to step, so that paths part and die."""
    wave = torch.cos(candidates.flatten(2)[..., ::7] * 5 + context.noise_level * 20)
    return wave.mean(2)


NOISY = FunctionEvaluator(pattern, "pattern", "noisy")


def call(pipe, n=WIDTH, **kwargs):
    options = {"num_inference_steps": STEPS, "output_type": "latent", "height": 16, "width": 16}
    options["generator"] = [torch.Generator().manual_seed(i) for i in range(n * len(PROMPTS))]
    if isinstance(pipe, diffusers.FluxPipeline):
        options |= {"true_cfg_scale": 3.0, "negative_prompt": [""] * len(PROMPTS)}
    return pipe(PROMPTS, num_images_per_prompt=n, **options | kwargs).images


@torch.no_grad()
def by_hand(pipe, prompt, seed):
    """The paths of one image, best first: ``(latents, scales)``."""
    cond, uncond = pipe.encode_prompt(prompt, "cpu", 1, True)
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    scheduler.set_timesteps(STEPS)
    kept = [*scheduler.alphas_cumprod[scheduler.timesteps].tolist(), float(scheduler.final_alpha_cumprod)]
    paths = [(torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed)), ())]
    for i, t in enumerate(scheduler.timesteps):
        children = []
        for latents, scales in paths:
            u, c = (pipe.unet(latents, t, encoder_hidden_states=e).sample for e in (uncond, cond))
            for s in SCALES:
                moved = scheduler.step(u + s * (c - u), t, latents).prev_sample
                children.append((moved, (*scales, s)))

        class Level:
            noise_level = (1 - kept[i + 1]) ** 0.5

        value = pattern(torch.stack([x for x, _ in children], 1), Level)[0]
        paths = [children[k] for k in value.topk(WIDTH).indices]
    return paths


def test_as_by_hand(stock):
    pipe = stock("sd")
    with guide(pipe, BeamSearch([NOISY], WIDTH, SCALES)) as traces:
        found = call(pipe)
    parents = torch.stack([s["parents"] for s in traces[0].steps])
    assert parents[0].tolist() == [0, 0, 0, 3, 3, 3], "all paths of an image come from its first row"
    assert (parents[1:] != torch.arange(6)).any(), "some path has died"
    for group, prompt in enumerate(PROMPTS):
        for i, (latents, scales) in enumerate(by_hand(pipe, prompt, group * WIDTH)):
            row = group * WIDTH + i
            torch.testing.assert_close(found[row], latents[0], rtol=1e-4, atol=1e-4)
            assert tuple(traces[0].sample(row).scales[:, 0].tolist()) == scales
    assert traces[0].nfe.tolist() == [2 * STEPS] * 6


def test_a_width_of_1_is_the_greedy_search(stock):
    for host in ("sd", "flux"):
        with guide(stock(host), GreedySearch([NOISY], SCALES)):
            expected = call(stock(host), 1)
        with guide(stock(host), BeamSearch([NOISY], 1, SCALES)):
            assert torch.equal(call(stock(host), 1), expected)


@pytest.mark.parametrize("scheduler", [diffusers.DPMSolverMultistepScheduler, diffusers.PNDMScheduler])
def test_history_goes_with_the_paths(stock, scheduler):
    """Each path, replayed alone from the first row's noise, ends where the beam's row did."""
    parts = stock("sd").components
    pipe = diffusers.StableDiffusionPipeline(**parts, requires_safety_checker=False)
    pipe.scheduler = scheduler.from_config(parts["scheduler"].config)
    pipe.set_progress_bar_config(disable=True)
    with guide(pipe, BeamSearch([NOISY], WIDTH, SCALES, every=2)) as traces:
        found = call(pipe)
    assert any((s["parents"] != torch.arange(6)).any() for s in traces[0].steps[1:] if "parents" in s)
    paths = torch.stack([traces[0].sample(row).scales[:, 0] for row in range(6)], 1)

    class Replay:
        def decide(self, step):
            return paths[step.index - step.start_index, rows], {}

    for rows in ([0, 3], [1, 4], [2, 5]):
        with guide(pipe, Replay()):
            alone = call(pipe, 1, generator=[torch.Generator().manual_seed(i) for i in (0, WIDTH)])
        torch.testing.assert_close(alone, found[rows], rtol=1e-4, atol=1e-4)


def test_scores_that_are_not_finite(stock):
    """One candidate of the first image can be scored, and none of the second."""

    def broken(candidates, context):
        scores = torch.full(candidates.shape[:2], math.nan)
        if context.noise_level == 1.0:  # the check before sampling
            return torch.zeros_like(scores)
        scores[0, 1] = 1.0
        return scores

    pipe = stock("sd")
    with pytest.warns(UserWarning, match="not finite"), guide(pipe, BeamSearch([broken], WIDTH, SCALES)) as traces:
        call(pipe, guidance_scale=5.0)
    for s in traces[0].steps:
        assert s["scale"].tolist() == [3.0] * 3 + [5.0] * 3
        assert s["parents"].tolist() == [0, 0, 0, 3, 4, 5]


def test_a_group_whose_candidates_all_score_the_same_keeps_the_pipelines_own_scale(stock):
    def half(candidates, context):
        scores = torch.arange(candidates.shape[1]).expand(candidates.shape[:2]).float().clone()
        scores[1:] = 0.0
        return scores

    with guide(stock("sd"), BeamSearch([half], WIDTH, SCALES)) as traces:
        call(stock("sd"), guidance_scale=5.0)
    first = traces[0].steps[0]
    assert first["scale"].tolist() == [8.0, 3.0, 1.0, 5.0, 5.0, 5.0]
    assert first["parents"].tolist() == [0, 0, 0, 3, 4, 5]
    assert traces[0].scales[:, 3:].unique().tolist() == [5.0]


@pytest.mark.parametrize("width", [0, 4, 2.0, None])
def test_refuses_width(width):
    with pytest.raises(ValueError, match="`width` must be an integer from 1 to the number of `scales`, got"):
        BeamSearch([pattern], width, SCALES)


def test_refuses_a_batch_that_is_no_groups(stock):
    match = "`width` is 3, and the 4 images are not that many of each prompt: pass `num_images_per_prompt=3`"
    with pytest.raises(ValueError, match=match), guide(stock("sd"), BeamSearch([pattern], WIDTH, SCALES)):
        call(stock("sd"), 2)
