"""What a step makes of a scheduler: every candidate without a mark left, and the levels of noise around it."""

import copy
import inspect

import numpy as np
import pytest
import torch
from scheduler_cases import (
    AFFINE_CASES,
    CASES,
    FALLBACK_CASES,
    FLOW_CASES,
    GENERATORS,
    PREDICTIONS,
    ROWS,
    SCALES,
    build,
    randn,
    seeded,
    steps,
)

from guidance.schedulers import AFFINE, denoised, is_affine, noise_schedule, probe, probe_draws


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


@pytest.mark.parametrize("name", CASES | FLOW_CASES)
def test_draws_in_one_step_are_those_of_a_step_each(name):
    scheduler = build(name)
    if "generator" not in inspect.signature(scheduler.step).parameters:
        pytest.skip("draws nothing by a generator")
    draws = [[seeded(10 * k + row) for row in range(ROWS)] for k in range(4)]
    steps_seen = 0
    for step in steps(scheduler, seeded(1), eta=1.0):
        before = state(scheduler), [g.get_state() for draw in draws for g in draw], torch.get_rng_state()
        about = scheduler, step.pred_cond, step.timestep, step.sample
        together = probe_draws(*about, step.step_kwargs, draws)
        alone = torch.stack([probe(*about, step.step_kwargs | {"generator": draw}) for draw in draws])
        assert torch.equal(together, alone)
        assert [k for k, v in before[0].items() if not same(v, scheduler.__dict__[k])] == []
        assert all(map(torch.equal, before[1], [g.get_state() for draw in draws for g in draw]))
        assert torch.equal(before[2], torch.get_rng_state())
        steps_seen += 1
    assert steps_seen >= 6


@torch.no_grad()
def test_draws_of_a_scheduler_that_is_told_of_each_row():
    """It steps for each draw alone: what it was told cannot be repeated by one who does not know it."""
    scheduler = build("ddim")
    step = next(steps(scheduler, seeded(1), eta=1.0))
    draws = [[seeded(10 * k + row) for row in range(ROWS)] for k in range(2)]
    shape, asked = list(step.sample.shape), []

    class Told:
        config, timesteps = scheduler.config, scheduler.timesteps

        def step(self, model_output, timestep, sample, shift, generator, return_dict):
            asked.append(len(sample))
            noise = torch.cat([torch.randn(1, *shape[1:], generator=g) for g in generator])
            return (sample + shift[:, None, None, None] * noise,)

    shift = torch.arange(ROWS)
    found = probe_draws(Told(), step.pred_cond, step.timestep, step.sample, {"shift": shift}, draws)
    assert asked == [ROWS, ROWS] and found.shape == (2, *shape)
    assert torch.equal(found[:, 0], step.sample[:1].expand(2, -1, -1, -1)) and not torch.equal(found[0, 1], found[1, 1])


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
