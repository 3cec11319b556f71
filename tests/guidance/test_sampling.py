"""A sampling without a pipeline: a loop of one's own gives what `guide` gives, and an engine that only asks for the
combined prediction what the loop gives."""

import inspect

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler, StableDiffusionPipeline
from scheduler_cases import BETAS, randn, seeded

from guidance import (
    Budget,
    Decision,
    FeynmanKac,
    GreedySearch,
    GuidedSampling,
    Interval,
    NoiseSearch,
    PlainScheduler,
    Static,
)
from guidance.formula import Rescaled
from pipelines import guide

PROMPTS = ["two red circles", "a blue star"]
SCALES = (1.0, 2.5, 5.0, 7.5)
STEPS = 6


def hashed(space):
    """An evaluator whose choice changes with every sample and step."""

    def score(candidates, context):
        return torch.frac(candidates.flatten(2).double().sum(2).abs() * 1e3).float()

    score.space, score.__name__ = space, f"hashed_{space}"
    return score


def calm(candidates, context):
    return -candidates.flatten(2).std(2)


GUIDANCE = {
    "static": lambda: Static(5.0),
    "interval": lambda: Interval(5.0, 0.3, 0.7),
    "denoised": lambda: GreedySearch([hashed("denoised")], SCALES),
    "noisy": lambda: GreedySearch([hashed("noisy")], SCALES, every=2),
    "budget": lambda: Budget(GreedySearch([hashed("denoised")], SCALES), tolerance=0.5),
    "noise": lambda: NoiseSearch([hashed("noisy")], SCALES, noises=3),
    "feynman-kac": lambda: FeynmanKac([calm], particles=2),
}
SCHEDULERS = {
    "ddim": (lambda: DDIMScheduler(**BETAS, clip_sample=False, steps_offset=1), {"eta": 1.0}),
    "euler": (lambda: EulerDiscreteScheduler(**BETAS), {}),
}


def same_trace(found, expected):
    assert torch.equal(found.scales, expected.scales) and torch.equal(found.nfe, expected.nfe)
    assert [step["noise_level"] for step in found.steps] == [step["noise_level"] for step in expected.steps]
    assert found.prompt == expected.prompt


# --------------------------------------------------------------------------------------- the same as on a pipeline


@pytest.mark.parametrize(
    "kind, scheduler",
    [(k, s) for k in GUIDANCE for s in SCHEDULERS if (k, s) != ("noise", "euler")],  # which draws none
)
@torch.no_grad()
def test_a_loop_of_ones_own_is_the_guided_pipeline(stock, kind, scheduler):
    make, step_kwargs = SCHEDULERS[scheduler]
    pipe = StableDiffusionPipeline(**stock("sd").components, requires_safety_checker=False)
    pipe.scheduler = make()
    pipe.set_progress_bar_config(disable=True)
    prompts = PROMPTS[:1] * 2 if kind == "feynman-kac" else PROMPTS
    latents = randn(2, 4, 8, 8)
    size = {"height": 16, "width": 16, "num_inference_steps": STEPS, "output_type": "latent", "guidance_scale": 4.0}
    with guide(pipe, GUIDANCE[kind]()) as traces:
        expected = pipe(prompts, latents=latents, generator=seeded(7), **size, **step_kwargs).images

    denoiser, scheduler = pipe.unet, make()
    cond, uncond = pipe.encode_prompt(prompts, "cpu", 1, True)
    scheduler.set_timesteps(STEPS)
    step_kwargs = step_kwargs | {"generator": seeded(7)}
    latents = latents * scheduler.init_noise_sigma
    sampling = GuidedSampling(GUIDANCE[kind](), scheduler, prompts)
    for t in scheduler.timesteps:
        scaled = torch.cat([scheduler.scale_model_input(latents, t)] * 2)
        needed = torch.ones(4).bool() if sampling.skip is None else torch.cat([~sampling.skip, torch.ones(2).bool()])
        both = torch.full_like(scaled, torch.nan)  # what is left out is not read
        both[needed] = denoiser(scaled[needed], t, torch.cat([uncond, cond])[needed]).sample
        pred_uncond, pred_cond = both.chunk(2)
        latents = sampling.step(pred_cond, pred_uncond, latents, t, guidance_scale=4.0, **step_kwargs)
    assert torch.equal(latents, expected)
    same_trace(sampling.trace, traces[0])
    assert (sampling.trace.nfe < 2 * STEPS).any() == (kind in ("interval", "budget"))
    assert any("rows" in step for step in sampling.trace.steps) == (kind == "feynman-kac")
    assert len(set(sampling.trace.scales.flatten().tolist())) > 1 or kind in ("static", "feynman-kac")


# ------------------------------------------------------------------------------------------- without a diffusers one


def velocity(latents, t, prompt):
    """A denoiser without a batch: every row by itself. `prompt` is one number for each."""
    return torch.stack([torch.tanh(x * (1 + p)) - p * x for x, p in zip(latents, prompt, strict=True)]) * (1 + t / 1e4)


def flow(scheduler_of, guidance, rows=3, first=0, **kwargs):
    """A run of a flow from noise, of `rows` rows from the number `first` on: latents and trace."""
    scheduler = scheduler_of()
    latents = torch.stack([randn(4, 8, 8, seed=i) for i in range(first, first + rows)])
    prompt = [0.1 * i for i in range(first, first + rows)]
    sampling = GuidedSampling(guidance, scheduler, [str(p) for p in prompt], **kwargs)
    for t in scheduler.timesteps:
        pred_cond, pred_uncond = velocity(latents, t, prompt), velocity(latents, t, [-1.0] * rows)
        latents = sampling.step(pred_cond, pred_uncond, latents, t, guidance_scale=4.0)
    return latents, sampling.trace


def diffusers_flow():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(STEPS)
    return scheduler


def plain_flow(affine=True):
    sigmas, timesteps = diffusers_flow().sigmas, diffusers_flow().timesteps

    def euler(prediction, t, x):
        i = int((timesteps == t).nonzero())
        return x + (sigmas[i + 1] - sigmas[i]) * prediction

    levels = [(1 - sigma, sigma) for sigma in sigmas.tolist()]
    return PlainScheduler(euler, timesteps.tolist(), levels, "flow_prediction", affine)


@pytest.mark.parametrize("space", ["noisy", "denoised"])
def test_a_step_function_is_flow_matching(space):
    search = GreedySearch([hashed(space)], SCALES)
    (found, trace), (expected, other) = flow(plain_flow, search), flow(diffusers_flow, search)
    assert torch.equal(found, expected)
    same_trace(trace, other)
    assert len(set(trace.scales.flatten().tolist())) == len(SCALES), "the search must be exercised"


def test_candidates_of_a_step_function_that_is_not_affine_are_its_own_steps():
    bent = plain_flow(affine=False)
    bent.function = lambda prediction, t, x: (x - 0.1 * prediction).clamp(-1, 1)
    seen = []

    def look(candidates, context):
        seen.append(candidates)
        return calm(candidates, context)

    look.space = "noisy"
    sampling, x = GuidedSampling(GreedySearch([look], (2.0, 9.0)), bent), randn(2, 4, 8, 8)
    u, c, t = velocity(x, 0, [0.1, 0.2]), velocity(x, 0, [1.0, 0.5]), bent.timesteps[0]
    sampling.step(c, u, x, t, guidance_scale=4.0)
    alpha, sigma = bent.noise_schedule[1]
    for k, scale in enumerate((2.0, 9.0)):
        expected = (x - 0.1 * (u + scale * (c - u))).clamp(-1, 1) / (alpha**2 + sigma**2) ** 0.5
        torch.testing.assert_close(seen[-1][:, k], expected)


@pytest.mark.parametrize("space", ["noisy", "denoised"])
def test_it_is_deterministic_and_no_row_knows_another(space):
    search = GreedySearch([hashed(space)], SCALES)
    (latents, trace), (again, _) = flow(plain_flow, search), flow(plain_flow, search)
    assert torch.equal(latents, again)
    for row in range(3):
        alone, its = flow(plain_flow, search, rows=1, first=row)
        assert torch.equal(alone[0], latents[row]) and torch.equal(its.scales[:, 0], trace.scales[:, row])


def test_a_formula_and_a_layout_of_ones_own():
    rescaled, _ = flow(plain_flow, Static(5.0), formula=Rescaled(0.7))
    assert not torch.equal(rescaled, flow(plain_flow, Static(5.0))[0])
    shapes = []

    def look(candidates, context):
        shapes.append(tuple(candidates.shape))
        return calm(candidates, context)

    unpack = lambda x: x.flatten(2).unflatten(2, (4, 16))  # noqa: E731
    flow(plain_flow, GreedySearch([look], SCALES), unpack=unpack)
    assert set(shapes[1:]) == {(3, len(SCALES), 4, 4, 16)}


def test_guidance_that_leaves_everything_takes_the_scale_that_is_given():
    class Leave:
        def decide(self, step):
            return Decision(None, {})

    assert torch.equal(flow(plain_flow, Leave())[0], flow(plain_flow, Static(4.0))[0])
    assert flow(plain_flow, Leave())[1].scales.unique().tolist() == [4.0]


def test_a_run_may_start_in_the_middle():
    scheduler = diffusers_flow()
    sampling, x = GuidedSampling(Static(5.0), scheduler), randn(2, 4, 8, 8)
    for t in scheduler.timesteps[2:]:
        x = sampling.step(0.9 * x, x, x, t, guidance_scale=4.0)
    levels = [float(sigma) for sigma in scheduler.sigmas[2:-1]]
    expected = [sigma / ((1 - sigma) ** 2 + sigma**2) ** 0.5 for sigma in levels]
    assert [step["noise_level"] for step in sampling.trace.steps] == pytest.approx(expected)


# -------------------------------------------------------------------------------- for an engine with its own sampler


@pytest.mark.parametrize("kind", ["static", "interval", "denoised", "noisy", "budget"])
def test_an_engine_that_steps_itself_is_the_loop(kind):
    expected, other = flow(plain_flow, GUIDANCE[kind]())
    scheduler, prompt = plain_flow(), [0.0, 0.1, 0.2]
    latents = torch.stack([randn(4, 8, 8, seed=i) for i in range(3)])
    sampling = GuidedSampling(GUIDANCE[kind](), scheduler, [str(p) for p in prompt])
    for t in scheduler.timesteps:
        pred_cond, pred_uncond = velocity(latents, t, prompt), velocity(latents, t, [-1.0] * 3)
        prediction = sampling.combine(pred_cond, pred_uncond, latents, t, guidance_scale=4.0)
        latents = scheduler.function(prediction, t, latents)
    assert torch.equal(latents, expected)
    same_trace(sampling.trace, other)


def test_of_clean_latents_no_step_is_taken():
    scheduler, x = plain_flow(), randn(3, 4, 8, 8)
    scheduler.function = None
    sampling = GuidedSampling(GreedySearch([hashed("denoised")], SCALES), scheduler)
    for t in scheduler.timesteps:
        assert sampling.combine(0.9 * x, x, x, t, guidance_scale=4.0).shape == x.shape
    assert len(sampling.trace.steps) == STEPS


@pytest.mark.parametrize("kind", ["noise", "feynman-kac"])
def test_an_engine_cannot_have_what_takes_the_step(kind):
    scheduler = SCHEDULERS["ddim"][0]()
    scheduler.set_timesteps(STEPS)
    sampling, x = GuidedSampling(GUIDANCE[kind](), scheduler), randn(4, 4, 8, 8)
    with pytest.raises(ValueError, match="chooses noise or rows, not only a prediction: let `step` take the step"):
        for t in scheduler.timesteps:
            sampling.combine(0.9 * x, x, x, t, guidance_scale=4.0, eta=1.0, generator=seeded())


def test_step_and_combine_take_the_same():
    step, combine = (inspect.signature(getattr(GuidedSampling, name)).parameters for name in ("step", "combine"))
    assert list(step) == list(combine)


# ------------------------------------------------------------------------------------------------- what is not right


class Takes16:
    name, space, needs_prompt, in_channels, calibration = "sixteen", "denoised", False, 16, None

    def __call__(self, candidates, context):
        return calm(candidates, context)


@pytest.mark.parametrize("method", ["step", "combine"])
@pytest.mark.parametrize(
    "evaluator, prompt, match",
    [
        (calm, ["only one"], "`prompt` must give one for each of 3 images, got 1"),
        (calm, "a string", "`prompt` must give one for each of 3 images, got 1"),
        (Takes16(), None, "evaluator 'sixteen' takes latents of 16 channels, this pipeline's have 4"),
        (lambda candidates, context: candidates.mean(), None, r"must return scores \(batch, candidates\) = \(3, 2\)"),
    ],
)
def test_errors_come_before_the_first_step(method, evaluator, prompt, match):
    taken, x = [], randn(3, 4, 8, 8)
    scheduler = plain_flow()
    scheduler.function = lambda prediction, t, x: taken.append(t) or x
    sampling = GuidedSampling(GreedySearch([evaluator], SCALES), scheduler, prompt)
    with pytest.raises(ValueError, match=match):
        getattr(sampling, method)(x, x, x, scheduler.timesteps[0], guidance_scale=4.0)
    assert not taken and not sampling.trace.steps


@pytest.mark.parametrize(
    "arguments, match",
    [
        ({"prediction_type": "velocity"}, "`prediction_type` must be one of .*'flow_prediction'.*, got 'velocity'"),
        ({"noise_schedule": [(0.0, 1.0)] * 3}, "`noise_schedule` must be one longer than `timesteps`, got 3 and 3"),
    ],
)
def test_a_plain_scheduler_says_what_it_takes(arguments, match):
    given = {"step": lambda p, t, x: x, "timesteps": range(3), "noise_schedule": [(0.0, 1.0)] * 4}
    with pytest.raises(ValueError, match=match):
        PlainScheduler(**given | arguments)
