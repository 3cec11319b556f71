"""Searching leaves a scheduler as it was: whatever was tried, the latents are those of the chosen scales alone."""

import pytest
import torch
from diffusers import StableDiffusion3Pipeline, StableDiffusionPipeline
from scheduler_cases import CASES, FLOW_CASES, GENERATORS, PREDICTIONS, SCALES, build, randn, step_kwargs

from guidance import GreedySearch
from pipelines import guide

PROMPTS = ["two red circles", "a blue star", "three green squares"]
STEPS = 4


def capricious(space):
    """An evaluator whose choice changes with every sample and step: scores are a hash of the candidate."""

    def score(candidates, context):
        return torch.frac(candidates.flatten(2).double().sum(2).abs() * 1e3).float()

    score.space = space
    return score


def replay(scheduler, denoise, latents, scales, generator, eta=0.0):
    """A plain sampling loop with `scales` ``(steps, batch)``, without any of the code under test."""
    scheduler.set_timesteps(STEPS)
    latents = latents * getattr(scheduler, "init_noise_sigma", 1.0)
    for t, row_scales in zip(scheduler.timesteps, scales.tolist(), strict=True):
        both = torch.cat([latents] * 2)
        both = scheduler.scale_model_input(both, t) if hasattr(scheduler, "scale_model_input") else both
        uncond, cond = denoise(both, t).chunk(2)
        guided = torch.stack([u + s * (c - u) for u, c, s in zip(uncond, cond, row_scales, strict=True)])
        latents = scheduler.step(guided, t, latents, **step_kwargs(scheduler, generator, eta)).prev_sample
    return latents


@torch.no_grad()
def guided_and_replayed(pipe, denoise, space, make_generator, **kwargs):
    torch.manual_seed(5)
    latents = randn(len(PROMPTS), pipe.vae.config.latent_channels, 8, 8)
    size = {"height": 16, "width": 16, "num_inference_steps": STEPS, "output_type": "latent"}
    with guide(pipe, GreedySearch([capricious(space)], scales=SCALES)) as traces:
        found = pipe(PROMPTS, latents=latents, generator=make_generator(), **size, **kwargs).images
    scales = traces[0].scales
    assert len(set(scales.flatten().tolist())) > 1 and (scales != scales[:, :1]).any(), "the search must be exercised"
    torch.manual_seed(5)
    fresh = type(pipe.scheduler).from_config(pipe.scheduler.config)
    expected = replay(fresh, denoise, latents, scales, make_generator(), kwargs.get("eta", 0.0))
    assert expected.isfinite().all()
    return found, expected


@torch.no_grad()
def run_sd(stock, name, generator="one generator", space="noisy", prediction_type="epsilon", **kwargs):
    pipe = StableDiffusionPipeline(**stock("sd").components, requires_safety_checker=False)
    pipe.scheduler = build(name, prediction_type=prediction_type)  # the constructor would change its config
    pipe.set_progress_bar_config(disable=True)
    embeds = torch.cat(pipe.encode_prompt(PROMPTS, "cpu", 1, True)[::-1])
    denoise = lambda x, t: pipe.unet(x, t, encoder_hidden_states=embeds).sample  # noqa: E731
    return guided_and_replayed(pipe, denoise, space, GENERATORS[generator], **kwargs)


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("name", CASES)
def test_search_leaves_scheduler_bit_identical(stock, name, prediction_type):
    found, expected = run_sd(stock, name, prediction_type=prediction_type)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("name", ["ddim", "ddpm", "euler-a", "sde-dpm++", "lcm"])
def test_stochastic_schedulers_draw_what_they_would_have_drawn(stock, name, generator):
    found, expected = run_sd(stock, name, generator, eta=1.0)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["ddim", "unipc", "heun"])
def test_search_on_denoised_leaves_scheduler_bit_identical(stock, name):
    found, expected = run_sd(stock, name, space="denoised")
    assert torch.equal(found, expected)


@pytest.mark.parametrize("space", ["noisy", "denoised"])
@pytest.mark.parametrize("name", FLOW_CASES)
@torch.no_grad()
def test_search_leaves_flow_matching_bit_identical(stock, name, space):
    pipe = StableDiffusion3Pipeline(**{**stock("sd3").components, "scheduler": build(name)})
    pipe.set_progress_bar_config(disable=True)
    embeds, negative, pooled, negative_pooled = pipe.encode_prompt(PROMPTS, None, None)

    def denoise(x, t):
        return pipe.transformer(
            hidden_states=x,
            timestep=t.expand(len(x)),
            encoder_hidden_states=torch.cat([negative, embeds]),
            pooled_projections=torch.cat([negative_pooled, pooled]),
        ).sample

    found, expected = guided_and_replayed(pipe, denoise, space, lambda: None)
    assert torch.equal(found, expected)
