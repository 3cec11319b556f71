"""Searching leaves a scheduler as it was: whatever was tried, the latents are those of the chosen scales alone."""

import copy
import inspect

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UniPCMultistepScheduler,
)

from guidance import DenoisingStep, GreedySearch
from guidance.schedulers import AFFINE, denoised, is_affine, noise_schedule, probe
from pipelines import guide

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SDE = {"algorithm_type": "sde-dpmsolver++"}
AFFINE_CASES = {
    "ddim": (DDIMScheduler, {"clip_sample": False, "steps_offset": 1}),
    "ddpm": (DDPMScheduler, {"clip_sample": False}),
    "dpm++2m": (DPMSolverMultistepScheduler, {}),
    "sde-dpm++": (DPMSolverMultistepScheduler, SDE),
    "dpm++karras": (DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
    "euler": (EulerDiscreteScheduler, {}),
    "euler-a": (EulerAncestralDiscreteScheduler, {}),
    "lcm": (LCMScheduler, {"clip_sample": False}),
    "pndm": (PNDMScheduler, {"skip_prk_steps": True}),
    "pndm-prk": (PNDMScheduler, {"skip_prk_steps": False}),
    "unipc": (UniPCMultistepScheduler, {}),
}
FALLBACK_CASES = {
    "ddim-clip": (DDIMScheduler, {"clip_sample": True}),
    "ddim-threshold": (DDIMScheduler, {"clip_sample": False, "thresholding": True}),
    "dpm++threshold": (DPMSolverMultistepScheduler, {"thresholding": True}),
    "edm": (EDMEulerScheduler, {}),
    "heun": (HeunDiscreteScheduler, {}),
}
CASES = AFFINE_CASES | FALLBACK_CASES
FLOW_CASES = {
    "flow": (FlowMatchEulerDiscreteScheduler, {"shift": 3.0}),
    "flow-stochastic": (FlowMatchEulerDiscreteScheduler, {"stochastic_sampling": True}),
}
PREDICTIONS = ("epsilon", "v_prediction")
SCALES = (1.0, 2.5, 4.0, 7.5)
PROMPTS = ["two red circles", "a blue star", "three green squares"]
STEPS = 4


def build(name, **kwargs):
    cls, config = (CASES | FLOW_CASES)[name]
    betas = {} if name in FLOW_CASES or name == "edm" else BETAS
    return cls(**betas, **config, **kwargs)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed))


def capricious(space):
    """An evaluator whose choice changes with every sample and step: scores are a hash of the candidate."""

    def score(candidates, context):
        return torch.frac(candidates.flatten(2).double().sum(2).abs() * 1e3).float()

    score.space = space
    return score


def step_kwargs(scheduler, generator, eta=0.0):
    accepted = set(inspect.signature(scheduler.step).parameters)
    return {k: v for k, v in {"generator": generator, "eta": eta}.items() if k in accepted}


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


GENERATORS = {
    "one generator": lambda: seeded(1),
    "a generator per row": lambda: [seeded(i) for i in range(len(PROMPTS))],
    "global": lambda: None,
}


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


def steps(scheduler, generator=None, prompt=None, eta=0.0):
    """Denoising steps along a real trajectory with random predictions; multistep history builds up."""
    scheduler.set_timesteps(6)
    levels = noise_schedule(scheduler)
    sample = randn(3, 4, 8, 8) * getattr(scheduler, "init_noise_sigma", 1.0)
    for i, t in enumerate(scheduler.timesteps):
        uncond = randn(3, 4, 8, 8, seed=10 + i)
        step = DenoisingStep(
            scheduler=scheduler,
            pred_uncond=uncond,
            pred_cond=uncond + 0.2 * randn(3, 4, 8, 8, seed=50 + i),
            sample=sample,
            timestep=t,
            index=i,
            num_steps=len(scheduler.timesteps),
            level=levels[i],
            next_level=levels[i + 1],
            step_kwargs=step_kwargs(scheduler, generator, eta),
            prompt=prompt,
            guidance_rescale=0.0,
            own_scale=5.0,
            previous=None,
            unpack=lambda x: x,
        )
        yield step
        guided = step.guided(torch.tensor([1.0, 3.0, 7.5]))
        sample = scheduler.step(guided, t, sample, **step.step_kwargs).prev_sample


def copied_step(step, scale):
    """What a deep copy of the scheduler makes of one scale, with copies of its generators."""
    twin, kwargs = copy.deepcopy(step.scheduler), dict(step.step_kwargs)
    if isinstance(kwargs.get("generator"), torch.Generator):
        kwargs["generator"] = kwargs["generator"].clone_state()
    return twin.step(step.guided(step.full(scale)), step.timestep, step.sample, **kwargs)


def test_every_affine_scheduler_has_a_case():
    assert {cls.__name__ for cls, _ in (AFFINE_CASES | FLOW_CASES).values()} == set(AFFINE)


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("name", AFFINE_CASES)
def test_two_evaluations_give_every_candidate(name, prediction_type):
    scheduler = build(name, prediction_type=prediction_type)
    check_two_evaluations(scheduler, seeded(), eta=1.0)


@pytest.mark.parametrize("name", ["flow"])
def test_two_evaluations_give_every_flow_candidate(name):
    check_two_evaluations(build(name), None)


def check_two_evaluations(scheduler, generator, eta=0.0):
    assert is_affine(scheduler)
    for step in steps(scheduler, generator, eta=eta):
        norm = (step.next_level[0] ** 2 + step.next_level[1] ** 2) ** 0.5
        noisy = torch.stack([copied_step(step, s).prev_sample / norm for s in SCALES], 1)
        torch.testing.assert_close(step.candidates(SCALES, "noisy"), noisy, rtol=1e-4, atol=1e-4)
        clean = [denoised(scheduler, step.guided(step.full(s)), step.sample, step.level) for s in SCALES]
        limit = 1e-5 * max(x.abs().max().item() for x in clean)  # x0 predictions of pure noise are huge
        torch.testing.assert_close(step.candidates(SCALES, "denoised"), torch.stack(clean, 1), rtol=1e-4, atol=limit)


@pytest.mark.parametrize("name", FALLBACK_CASES)
def test_fallback_steps_every_scale(name):
    scheduler = build(name)
    assert not is_affine(scheduler)
    for step in steps(scheduler):
        norm = (step.next_level[0] ** 2 + step.next_level[1] ** 2) ** 0.5
        noisy = torch.stack([copied_step(step, s).prev_sample / norm for s in SCALES], 1)
        assert torch.equal(step.candidates(SCALES, "noisy"), noisy)


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("name", ["ddim", "ddpm", "edm", "euler", "euler-a"])
def test_denoised_is_what_the_scheduler_calls_pred_original_sample(name, prediction_type):
    scheduler = build(name, prediction_type=prediction_type)
    for step in steps(scheduler, seeded()):
        expected = torch.stack([copied_step(step, s).pred_original_sample for s in SCALES], 1)
        limit = 1e-5 * expected.abs().max().item()
        torch.testing.assert_close(step.candidates(SCALES, "denoised"), expected, rtol=1e-4, atol=limit)


def state(scheduler):
    return {k: copy.deepcopy(v) for k, v in scheduler.__dict__.items()}


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return np.array_equal(a, b)


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("name", CASES | FLOW_CASES)
def test_probing_leaves_no_mark(name, generator):
    scheduler, generator = build(name), GENERATORS[generator]()
    generators = generator if isinstance(generator, list) else [generator] if generator else []
    for step in steps(scheduler, generator, eta=1.0):
        before = state(scheduler), [g.get_state() for g in generators], torch.get_rng_state()
        first = step.candidates(SCALES, "noisy")
        again = step.candidates(SCALES, "noisy")
        assert before[0].keys() == scheduler.__dict__.keys()
        assert [k for k, v in before[0].items() if not same(v, scheduler.__dict__[k])] == []
        assert all(map(torch.equal, before[1], [g.get_state() for g in generators]))
        assert torch.equal(before[2], torch.get_rng_state())
        assert torch.equal(first, again), "every candidate must see the same noise"


def test_a_failing_probe_restores_randomness():
    scheduler, generator = build("ddpm"), seeded()
    step = next(steps(scheduler, generator))
    before = generator.get_state(), torch.get_rng_state()
    with pytest.raises(RuntimeError):
        probe(scheduler, step.pred_cond, step.timestep, torch.zeros(2, 2), {"generator": generator})
    assert torch.equal(before[0], generator.get_state()) and torch.equal(before[1], torch.get_rng_state())


@pytest.mark.parametrize("name", CASES)
def test_noise_schedule_agrees_with_add_noise(name):
    scheduler = build(name)
    scheduler.set_timesteps(6)
    levels = noise_schedule(scheduler)
    assert len(levels) == len(scheduler.timesteps) + 1
    clean, noise = randn(1, 4, 8, 8, seed=1), randn(1, 4, 8, 8, seed=2)
    for (alpha, sigma), t in zip(levels, scheduler.timesteps, strict=False):
        expected = scheduler.add_noise(clean, noise, t[None])
        torch.testing.assert_close(alpha * clean + sigma * noise, expected, rtol=1e-4, atol=1e-4)


def test_noise_schedule_agrees_with_scale_noise():
    scheduler = build("flow")
    scheduler.set_timesteps(6)
    clean, noise = randn(1, 4, 8, 8, seed=1), randn(1, 4, 8, 8, seed=2)
    for (alpha, sigma), t in zip(noise_schedule(scheduler), scheduler.timesteps, strict=False):
        torch.testing.assert_close(alpha * clean + sigma * noise, scheduler.scale_noise(clean, t[None], noise))


@pytest.mark.parametrize("name", ["ddim", "dpm++2m", "euler", "flow", "heun", "pndm", "pndm-prk", "unipc"])
def test_next_level_is_where_the_step_leads(name):
    """A perfect denoiser moves along alpha · x0 + sigma · noise, so the step's result tells its level."""
    scheduler = build(name)
    scheduler.set_timesteps(6)
    levels = noise_schedule(scheduler)
    clean, noise = randn(1, 4, 8, 8, seed=1), randn(1, 4, 8, 8, seed=2)
    prediction = noise - clean if name == "flow" else noise
    sample = levels[0][0] * clean + levels[0][1] * noise
    for t, (alpha, sigma) in zip(scheduler.timesteps, levels[1:], strict=True):
        sample = scheduler.step(prediction, t, sample).prev_sample
        torch.testing.assert_close(sample, alpha * clean + sigma * noise, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("share, expected", [("noisy", 0.6), ("denoised", 0.8)])
def test_noise_level_is_the_share_of_noise(share, expected):
    step = next(steps(build("ddim")))
    step.level, step.next_level = (0.6, 0.8), (1.2, 0.9)
    assert step.noise_level(share) == pytest.approx(expected)
