"""Every scheduler, made small, and denoising steps along its trajectory."""

import inspect

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
    UniPCMultistepScheduler,
)

from guidance import DenoisingStep
from guidance.schedulers import noise_schedule

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
ROWS = 3
GENERATORS = {
    "one generator": lambda: seeded(1),
    "a generator per row": lambda: [seeded(i) for i in range(ROWS)],
    "global": lambda: None,
}


def build(name, **kwargs):
    cls, config = (CASES | FLOW_CASES)[name]
    betas = {} if name in FLOW_CASES or name == "edm" else BETAS
    return cls(**betas, **config, **kwargs)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed))


def step_kwargs(scheduler, generator, eta=0.0):
    accepted = set(inspect.signature(scheduler.step).parameters)
    return {k: v for k, v in {"generator": generator, "eta": eta}.items() if k in accepted}


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
            own_scale=5.0,
            previous=None,
            unpack=lambda x: x,
        )
        yield step
        guided = step.guided(torch.tensor([1.0, 3.0, 7.5]))
        sample = scheduler.step(guided, t, sample, **step.step_kwargs).prev_sample
