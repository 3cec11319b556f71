"""The levels of noise that guidance reads off a scheduler, against a denoiser that knows the truth.

It is told the scheduler's timestep, as any denoiser, and answers what is right for the level that this timestep means
to a model. So latents, predictions and timesteps are a real run's, and nothing here asks the code under test.
"""

import inspect
import math

import diffusers
import numpy as np
import pytest
import torch
from diffusers.utils import is_torchsde_available
from scheduler_cases import BETAS, seeded

from guidance.schedulers import check_supported, denoised, noise_schedule

KINDS = ("epsilon", "v_prediction")
KARRAS = {"use_karras_sigmas": True}
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
# Class and configuration, the timesteps of all of which are exact: rounded ones say less than the scheduler knows.
OF_KINDS = {
    "CogVideoXDDIMScheduler": [{}, {"rescale_betas_zero_snr": True}, {"timestep_spacing": "trailing"}],
    "DDIMInverseScheduler": [{}],
    "DDIMParallelScheduler": [{}],
    "DDIMScheduler": [{}, {"timestep_spacing": "trailing"}, {"set_alpha_to_one": True}],
    "DDPMParallelScheduler": [{}],
    "DDPMScheduler": [{}, {"timestep_spacing": "linspace"}],
    "DEISMultistepScheduler": [{}],
    "DPMSolverMultistepInverseScheduler": [{}],
    "DPMSolverMultistepScheduler": [{}, {"algorithm_type": "sde-dpmsolver++"}, {"final_sigmas_type": "sigma_min"}],
    "DPMSolverSDEScheduler": [{}, KARRAS],
    "DPMSolverSinglestepScheduler": [{}, {"solver_order": 3}],
    "EDMDPMSolverMultistepScheduler": [{}, {"algorithm_type": "sde-dpmsolver++"}],
    "EDMEulerScheduler": [{}],
    "EulerAncestralDiscreteScheduler": [{}, {"rescale_betas_zero_snr": True}],
    "EulerDiscreteScheduler": [{}, KARRAS, {"use_exponential_sigmas": True}, {"use_beta_sigmas": True}],
    "HeunDiscreteScheduler": [{}, KARRAS],
    "KDPM2AncestralDiscreteScheduler": [{}, {"use_exponential_sigmas": True}],
    "KDPM2DiscreteScheduler": [{}, {"timestep_spacing": "trailing"}],
    "LCMScheduler": [{}, {"set_alpha_to_one": True}],
    "LMSDiscreteScheduler": [{}, KARRAS],
    "SASolverScheduler": [{}],
    "TCDScheduler": [{}, {"set_alpha_to_one": True}],
    "UniPCMultistepScheduler": [{}],
}
OF_ONE_KIND = {
    "CMStochasticIterativeScheduler": [{}],
    "CosineDPMSolverMultistepScheduler": [{}],
    "DEISMultistepScheduler": [FLOW],
    "DPMSolverMultistepScheduler": [FLOW],
    "FlowMapEulerDiscreteScheduler": [{}],
    "FlowMatchEulerDiscreteScheduler": [{}, {"invert_sigmas": True}, {"shift": 3.0}, {"stochastic_sampling": True}],
    "FlowMatchHeunDiscreteScheduler": [{}],
    "FlowMatchLCMScheduler": [{}],
    "LTXEulerAncestralRFScheduler": [{}],
    "MiniMaxH3Scheduler": [{}],
    # Which extrapolates over velocities: exact of noise alone.
    "PNDMScheduler": [{"skip_prk_steps": True}, {"skip_prk_steps": False}],
    "UniPCMultistepScheduler": [FLOW],
}
CASES = [
    (name, case | {"prediction_type": kind}) for name, cases in OF_KINDS.items() for case in cases for kind in KINDS
]
CASES += [(name, case) for name, cases in OF_ONE_KIND.items() for case in cases]
IDS = [" ".join([name, *(f"{key}={value}" for key, value in case.items())]) for name, case in CASES]
STOCHASTIC = ("Ancestral", "CMStochastic", "CosineDPM", "DDPM", "LCM", "SASolver", "SDE", "TCD")
NEEDS_TORCHSDE = ("CosineDPMSolverMultistepScheduler", "DPMSolverSDEScheduler")
OWN = {"clip_sample": False, "clip_denoised": False, "set_alpha_to_one": False, "steps_offset": 1}


def make(name, case):
    if name in NEEDS_TORCHSDE and not is_torchsde_available():
        pytest.skip("takes torchsde")
    if not hasattr(diffusers, name):
        pytest.skip(f"not in diffusers {diffusers.__version__}")
    cls = getattr(diffusers, name)
    takes = inspect.signature(cls.__init__).parameters
    return cls(**{key: value for key, value in (BETAS | OWN | case).items() if key in takes})


def meant(scheduler, t):
    """The level ``(alpha, sigma)`` that a model trained for this scheduler takes the timestep `t` for."""
    name, t = type(scheduler).__name__, float(t)
    if name == "CMStochasticIterativeScheduler":
        return 1.0, math.exp(t / 250)
    if name.startswith("EDM"):
        return 1.0, math.exp(4 * t)
    if name.startswith("Cosine"):
        return 1.0, math.tan(t * math.pi / 2)
    if name == "MiniMaxH3Scheduler":
        return t, 1 - t
    if kind(scheduler) == "flow_prediction":
        share = t / scheduler.config.num_train_timesteps
        return (share, 1 - share) if scheduler.config.get("invert_sigmas") else (1 - share, share)
    if name == "DDIMInverseScheduler":  # whose timesteps say where a step leads
        t = max(0, t - scheduler.config.num_train_timesteps // scheduler.num_inference_steps)
    log_sigmas = -scheduler.alphas_cumprod.double().logit().numpy() / 2
    sigma = math.exp(np.interp(t, np.arange(len(log_sigmas)), log_sigmas))
    scaled = hasattr(scheduler, "sigmas") and not hasattr(scheduler, "_sigma_to_alpha_sigma_t")
    return (1.0, sigma) if scaled else (1 / math.hypot(1, sigma), sigma / math.hypot(1, sigma))


def kind(scheduler):
    return scheduler.config.get("prediction_type", "flow_prediction")


def prediction(scheduler, x, clean, t):
    """What a model says that knows the `clean` latents."""
    alpha, sigma = meant(scheduler, t)
    noise, name = (x - alpha * clean) / sigma, type(scheduler).__name__
    if name == "CMStochasticIterativeScheduler":  # arXiv 2303.01469, Appendix C
        data, least = scheduler.config.sigma_data, scheduler.config.sigma_min
        skip, out = data**2 / ((sigma - least) ** 2 + data**2), (sigma - least) * data / math.hypot(sigma, data)
        return (clean - skip * x) / out
    if name.startswith(("EDM", "Cosine")):  # arXiv 2206.00364, Table 1
        data = scheduler.config.sigma_data
        skip, out = data**2 / (sigma**2 + data**2), sigma * data / math.hypot(sigma, data)
        return (clean - skip * x) / (out if kind(scheduler) == "epsilon" else -out)
    if kind(scheduler) == "epsilon":
        return noise
    if kind(scheduler) == "v_prediction":
        return (alpha * noise - sigma * clean) / math.hypot(alpha, sigma)
    to_clean = scheduler.config.get("invert_sigmas") or name == "MiniMaxH3Scheduler"
    return clean - noise if to_clean else noise - clean


def run(scheduler, steps=6):
    """A run in double precision: at each step its number, timestep, latents, prediction, and the latents after it."""
    generator = seeded()
    clean, noise = (torch.randn(1, 4, 64, 64, generator=generator, dtype=torch.float64) for _ in range(2))
    clean, takes = clean * 0.7, inspect.signature(scheduler.step).parameters
    torch.manual_seed(0)  # some draw from the global one
    alpha, sigma = meant(scheduler, scheduler.timesteps[0])
    x = alpha * clean + sigma * noise
    for i, t in enumerate(scheduler.timesteps):
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(x, t)
        said = prediction(scheduler, x, clean, t)
        given = {key: value for key, value in {"generator": generator, "eta": 0.3}.items() if key in takes}
        given = {} if type(scheduler).__name__.startswith(("DDIM", "CogVideoXDDIM")) else given
        following = scheduler.step(said, t, x, **given).prev_sample
        yield i, clean, noise, x, said, following
        x = following


@pytest.mark.parametrize("name, case", CASES, ids=IDS)
def test_a_denoiser_that_knows_the_truth_is_understood(name, case):
    """What its prediction means is the truth at every step, and the latents hold as much noise as is said, before each
    step and after the last."""
    scheduler = make(name, case)
    scheduler.set_timesteps(6)
    check_supported(scheduler)
    levels = noise_schedule(scheduler)
    assert len(levels) == len(scheduler.timesteps) + 1
    drawn = any(part in name for part in STOCHASTIC) or "sde" in str(case) or "stochastic_sampling" in case
    for i, clean, noise, x, said, following in run(scheduler):
        alpha, sigma = levels[i]
        off = (denoised(scheduler, said, x, levels[i]) - clean).abs().max()
        assert off < 1e-2 * max(1.0, sigma / max(alpha, 1e-6)), f"step {i}: off by {off:.2g}"
        alpha, sigma = levels[i + 1]
        rest = following - alpha * clean
        last = i + 1 == len(scheduler.timesteps)
        if name == "CMStochasticIterativeScheduler" and last:  # its clean prediction counts as of the least level
            assert sigma == pytest.approx(scheduler.config.sigma_min)
        elif drawn:
            assert abs(rest.std() - sigma) < 0.02 * sigma + 1e-3, f"step {i}: {rest.std():.3g}, not {sigma:.3g}"
        else:
            torch.testing.assert_close(rest, sigma * noise, rtol=1e-2, atol=1e-2 * sigma + 3e-3)


@pytest.mark.parametrize("name", ["KDPM2DiscreteScheduler", "DPMSolverSDEScheduler"])
def test_second_order_samplers_stand_between_two_sigmas(name):
    scheduler = make(name, {})
    scheduler.set_timesteps(6)
    sigmas = [sigma for _, sigma in noise_schedule(scheduler)]
    expected = [meant(scheduler, t)[1] for t in scheduler.timesteps]
    assert sigmas[:-1] == pytest.approx(expected, rel=1e-3) and sigmas[-1] == 0
    assert len({round(sigma, 6) for sigma in sigmas}) == len(sigmas), "every step has a level of its own"
