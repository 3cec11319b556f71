"""Samplers that are made to draw: a search over draws then has something to choose among."""

import pytest
import tiny
import torch
from diffusers import DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler, EulerDiscreteScheduler

from guidance import NoiseSearch
from pipelines import guide, make_stochastic


def brightness(latents, context):
    return latents.flatten(2).mean(2)


brightness.space = "noisy"


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "flux"])
def test_draws_differ(name):
    torch.manual_seed(0)
    pipe = tiny.BUILDERS[name]()
    pipe.set_progress_bar_config(disable=True)
    call = make_stochastic(pipe) | ({"true_cfg_scale": 3.0, "negative_prompt": ""} if name == "flux" else {})
    with guide(pipe, NoiseSearch([brightness], noises=3)) as traces:
        pipe("two red cats", num_inference_steps=3, output_type="latent", height=16, width=16, **call)
    first = traces[-1].steps[0]["noise_scores"]["brightness"][0]
    assert len(set(first.tolist())) == 3


def test_which_sampler():
    pipe = tiny.BUILDERS["sd"]()
    config = pipe.scheduler.config
    assert make_stochastic(pipe) == {"eta": 1.0} and pipe.scheduler.config == config
    for scheduler in (EulerDiscreteScheduler, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler):
        pipe.scheduler = scheduler.from_config(config)
        assert make_stochastic(pipe) == {} and isinstance(pipe.scheduler, EulerAncestralDiscreteScheduler)
    flow = tiny.BUILDERS["sd3"]()
    make_stochastic(flow)
    assert flow.scheduler.config.stochastic_sampling
