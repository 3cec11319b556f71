"""Every scheduler of diffusers that Stable Diffusion or SD3 can run with: guided at one scale it is the stock pipeline
at that scale, candidates are its own steps; and what is not supported is refused before any denoising. A few in the
default run, all with ``-m slow``."""

import inspect

import diffusers
import pytest
import torch
from checks import CHOSEN, OWN, Exact, Leave
from diffusers.utils import is_torchsde_available
from scheduler_cases import BETAS

from guidance import Static
from pipelines import guide

V = {"prediction_type": "v_prediction"}
SDE = {"algorithm_type": "sde-dpmsolver++"}
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
SIGMAS = [{"use_karras_sigmas": True}, {"use_exponential_sigmas": True}, {"use_beta_sigmas": True}]
ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} | V
# By pipeline, class and configurations.
EVERY = {
    "sd": {
        "CMStochasticIterativeScheduler": [{}],
        "CogVideoXDDIMScheduler": [{}, V],
        "CosineDPMSolverMultistepScheduler": [{}],
        "DDIMInverseScheduler": [{}, V],
        "DDIMParallelScheduler": [{}, V],
        "DDIMScheduler": [{}, V, ZERO_SNR, {"clip_sample": True}, {"thresholding": True}],
        "DDPMParallelScheduler": [{}, V],
        "DDPMScheduler": [{}, V, {"thresholding": True}],
        "DEISMultistepScheduler": [{}, V, *SIGMAS, {"thresholding": True}],
        "DPMSolverMultistepInverseScheduler": [{}, V],
        "DPMSolverMultistepScheduler": [{}, V, *SIGMAS, SDE, SDE | SIGMAS[0], {"solver_order": 3}, ZERO_SNR],
        "DPMSolverSDEScheduler": [{}, V, *SIGMAS],
        "DPMSolverSinglestepScheduler": [{}, V, *SIGMAS, SDE, {"solver_order": 3}],
        "EDMDPMSolverMultistepScheduler": [{}, V, SDE],
        "EDMEulerScheduler": [{}, V],
        "EulerAncestralDiscreteScheduler": [{}, V, ZERO_SNR],
        "EulerDiscreteScheduler": [{}, V, *SIGMAS, ZERO_SNR, {"timestep_spacing": "leading"}],
        "HeunDiscreteScheduler": [{}, V, *SIGMAS],
        "KDPM2AncestralDiscreteScheduler": [{}, V, *SIGMAS],
        "KDPM2DiscreteScheduler": [{}, V, *SIGMAS],
        "LCMScheduler": [{}, V],
        "LMSDiscreteScheduler": [{}, V, *SIGMAS],
        "PNDMScheduler": [{}, V, {"skip_prk_steps": True}, {"skip_prk_steps": True} | V],
        "SASolverScheduler": [{}, V, *SIGMAS],
        "TCDScheduler": [{}, V],
        "UniPCMultistepScheduler": [{}, V, *SIGMAS, {"solver_order": 3}],
    },
    "sd3": {
        "DEISMultistepScheduler": [FLOW],
        "DPMSolverMultistepScheduler": [FLOW, FLOW | SDE],
        "DPMSolverSinglestepScheduler": [FLOW],
        "FlowMapEulerDiscreteScheduler": [{}],
        "FlowMatchEulerDiscreteScheduler": [{}, {"invert_sigmas": True}, {"stochastic_sampling": True}, *SIGMAS],
        "FlowMatchHeunDiscreteScheduler": [{}, {"shift": 3.0}],
        "FlowMatchLCMScheduler": [{}, *SIGMAS],
        "LTXEulerAncestralRFScheduler": [{}],
        "MiniMaxH3Scheduler": [{}],
        "SASolverScheduler": [FLOW],
        "UniPCMultistepScheduler": [FLOW],
    },
}
NEEDS_TORCHSDE = ("CosineDPMSolverMultistepScheduler", "DPMSolverSDEScheduler")
REFUSED = ("IPNDMScheduler",)  # which say nothing of their noise
OFTEN = ("DDIMScheduler", "DPMSolverMultistepScheduler", "FlowMatchEulerDiscreteScheduler", "KDPM2DiscreteScheduler")
CASES = [
    pytest.param(
        host,
        name,
        case,
        id=" ".join([host, name, *(f"{key}={value}" for key, value in case.items())]),
        marks=() if name in OFTEN and len(case) < 2 else pytest.mark.slow,
    )
    for host, schedulers in EVERY.items()
    for name, cases in schedulers.items()
    for case in cases
]
SIZE = {"height": 16, "width": 16, "num_inference_steps": 6, "output_type": "latent"}


def make(name, case=None):
    cls = getattr(diffusers, name)
    takes = inspect.signature(cls.__init__).parameters
    return cls(**{key: value for key, value in BETAS.items() if key in takes}, **case or {})


def with_scheduler(stock, host, scheduler):
    pipe = type(stock(host))(**stock(host).components)
    pipe.scheduler = scheduler  # the constructor would change its config
    pipe.set_progress_bar_config(disable=True)
    return pipe


def call(pipe, scale):
    torch.manual_seed(0)  # some draw from the global one
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    return pipe(["two red circles", "a blue star"], guidance_scale=scale, generator=generators, **SIZE).images


@pytest.mark.parametrize("host, name, case", CASES)
def test_guided_at_one_scale_it_is_the_stock_pipeline(stock, host, name, case):
    if name in NEEDS_TORCHSDE and not is_torchsde_available():
        pytest.skip("takes torchsde")
    pipe, exact = with_scheduler(stock, host, make(name, case)), Exact()
    own, expected = call(pipe, OWN), call(pipe, CHOSEN)
    assert expected.isfinite().all() and not torch.equal(own, expected)
    with guide(pipe, Static(CHOSEN)) as traces:
        assert torch.equal(call(pipe, OWN), expected)
    assert len(traces[0].steps) == len(pipe.scheduler.timesteps)
    for leave in (Leave(), exact):
        with guide(pipe, leave):
            assert torch.equal(call(pipe, OWN), own)
    assert exact.off < 1e-3, f"candidates are off by {exact.off:.2g}"
    assert torch.equal(call(pipe, OWN), own), "something stayed behind"


@pytest.mark.parametrize("host", EVERY)
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_supported_is_refused_before_any_denoising(stock, host, name):
    pipe, passes = with_scheduler(stock, host, make(name)), []
    denoiser = pipe.unet if host == "sd" else pipe.transformer
    hook = denoiser.register_forward_hook(lambda *_: passes.append(1))
    words = f"`scheduler` {name} is not supported: .* must have `timesteps` and `sigmas` or `alphas_cumprod`"
    with pytest.raises(ValueError, match=words), guide(pipe, Static(CHOSEN)):
        call(pipe, OWN)
    hook.remove()
    assert not passes and not hasattr(pipe.scheduler, "sigmas") and not hasattr(pipe.scheduler, "alphas_cumprod")


@pytest.mark.slow
@pytest.mark.parametrize("host", EVERY)
def test_no_scheduler_is_forgotten(stock, host):
    """Those that are not named above cannot run in the stock pipeline either."""
    known = {*EVERY["sd"], *EVERY["sd3"], *REFUSED} if host == "sd3" else {*EVERY["sd"], *REFUSED}
    others = {name for name in dir(diffusers) if name.endswith("Scheduler")} - known
    assert len(others) > 15
    runs = []
    for name in sorted(others):
        try:
            call(with_scheduler(stock, host, make(name)), OWN)
        except (AttributeError, ImportError, KeyError, RuntimeError, TypeError, ValueError):
            continue
        runs.append(name)
    assert not runs
