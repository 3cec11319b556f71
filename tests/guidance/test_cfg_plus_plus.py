"""CFG++ against its step written out, in a pipeline and without one."""

from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler, LCMScheduler

from guidance import CFGPlusPlus, GuidedSampling, Static
from guidance.schedulers import denoised, noise_schedule
from pipelines import guide

PROMPTS = ["a red circle", "two blue squares"]
STEPS = 5
LATENTS = (2, 4, 8, 8)


def predictions():
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(2, *LATENTS, generator=generator) for _ in range(STEPS)]


def written_out(scheduler, strength):
    """The paper's step for each kind of prediction: x0 of the guided one, the noise of the unconditional one."""
    x = torch.randn(LATENTS, generator=torch.Generator().manual_seed(0))
    levels = noise_schedule(scheduler)
    for i, (cond, uncond) in enumerate(predictions()):
        (alpha, sigma), (next_alpha, next_sigma) = levels[i], levels[i + 1]
        clean = denoised(scheduler, uncond + strength * (cond - uncond), x, (alpha, sigma))
        noise = (x - alpha * denoised(scheduler, uncond, x, (alpha, sigma))) / sigma
        x = next_alpha * clean + next_sigma * noise
    return x


def sampled(scheduler, guidance, **kwargs):
    x = torch.randn(LATENTS, generator=torch.Generator().manual_seed(0))
    sampling = GuidedSampling(guidance, scheduler)
    for (cond, uncond), timestep in zip(predictions(), scheduler.timesteps, strict=True):
        x = sampling.step(cond, uncond, x, timestep, 5.0, **kwargs)
    return x, sampling.trace


@pytest.mark.parametrize("strength", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_ddim(kind, strength):
    scheduler = DDIMScheduler(prediction_type=kind, clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(STEPS)
    found, trace = sampled(scheduler, CFGPlusPlus(strength))
    torch.testing.assert_close(found, written_out(scheduler, strength), rtol=1e-3, atol=1e-3)
    ratio = [sigma / alpha for alpha, sigma in noise_schedule(scheduler)]
    scales = [strength * here / (here - after) for here, after in pairwise(ratio)]
    torch.testing.assert_close(trace.scales[:, 0], torch.tensor(scales), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("cls", [EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler])
def test_other_schedulers(cls):
    scheduler = cls()
    scheduler.set_timesteps(STEPS)
    found, _ = sampled(scheduler, CFGPlusPlus(0.7))
    scheduler.set_timesteps(STEPS)
    torch.testing.assert_close(found, written_out(scheduler, 0.7), rtol=1e-3, atol=1e-3)


def test_a_sampler_whose_noise_is_all_new():
    """LCM puts none of the prediction's noise back: there CFG++ is static guidance."""
    scheduler = LCMScheduler()
    found, static = [], []
    for guidance, kept in ((CFGPlusPlus(0.7), found), (Static(0.7), static)):
        scheduler.set_timesteps(STEPS)
        kept += sampled(scheduler, guidance, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(found[0], static[0], rtol=1e-3, atol=1e-3)


def test_two_equal_predictions():
    scheduler = DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(STEPS)
    same = torch.randn(LATENTS, generator=torch.Generator().manual_seed(1))
    sampling = GuidedSampling(CFGPlusPlus(0.6), scheduler)
    sampling.step(same, same, same, scheduler.timesteps[0], 5.0)
    assert sampling.trace.scales.tolist() == [[pytest.approx(0.6)] * 2]


def test_in_a_pipeline(stock):
    """Without guidance in the clean prediction it is the unconditional picture; each row has its own scale."""
    pipe, options = stock("sd"), {"num_inference_steps": 3, "guidance_scale": 3.0, "output_type": "latent"}
    call = lambda: pipe(PROMPTS, generator=[torch.Generator().manual_seed(i) for i in (0, 1)], **options).images  # noqa: E731
    with guide(pipe, CFGPlusPlus(0.0)):
        none = call()
    with guide(pipe, Static(0.0)):
        uncond = call()
    assert torch.equal(none, uncond)
    with guide(pipe, CFGPlusPlus(0.8)) as traces:
        guided = call()
    assert not torch.equal(guided, none) and traces[0].nfe.tolist() == [6, 6]
    pipe.scheduler.set_timesteps(3)
    ratio = [sigma / alpha for alpha, sigma in noise_schedule(pipe.scheduler)]
    expected = [0.8 * here / (here - after) for here, after in pairwise(ratio)]
    assert traces[0].scales[:, 1].tolist() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_refuses(strength):
    with pytest.raises(ValueError, match="`strength` must be from 0 to 1"):
        CFGPlusPlus(strength)
