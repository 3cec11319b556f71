"""The search as a guider of modular pipelines."""

import diffusers
import pytest
import torch
from diffusers.guiders import ClassifierFreeGuidance

from evaluators.base import FunctionEvaluator
from guidance import GreedySearch, Static
from pipelines import OnlineGuider, guide

PROMPTS = ["two red circles", "a blue star"]
BLOCKS = {"sdxl": "StableDiffusionXLAutoBlocks", "sd3": "StableDiffusion3AutoBlocks"}
SIZE = {"height": 16, "width": 16, "num_inference_steps": 4}


def calm(candidates, context):
    return -candidates.flatten(2).std(2)


@pytest.fixture(params=BLOCKS)
def modular(request, stock):
    """Makes a modular pipeline around the stock one's models, with a scheduler of its own."""

    def make(scheduler=None):
        parts = stock(request.param).components
        scheduler = scheduler or type(parts["scheduler"])
        pipe = getattr(diffusers, BLOCKS[request.param])().init_pipeline()
        named = {name: part for name, part in parts.items() if name in pipe._component_specs and part is not None}
        pipe.update_components(**named | {"scheduler": scheduler.from_config(parts["scheduler"].config)})
        pipe.set_progress_bar_config(disable=True)
        return pipe

    make.host = request.param
    return make


def call(pipe, **kwargs):
    generator = torch.Generator().manual_seed(0)
    return pipe(prompt=PROMPTS, negative_prompt=["", ""], generator=generator, output="latents", **SIZE | kwargs)


def test_one_scale_is_the_stock_guider(modular):
    pipe = modular()
    pipe.update_components(guider=ClassifierFreeGuidance(6.0))
    expected = call(pipe)
    guider = OnlineGuider(Static(6.0), pipe.scheduler, guidance_scale=3.0)
    pipe.update_components(guider=guider)
    found = [call(pipe) for _ in range(2)]
    assert torch.equal(found[0], expected) and torch.equal(found[1], expected)
    assert [trace.scales.unique().tolist() for trace in guider.traces] == [[6.0], [6.0]]
    assert guider.traces[0].nfe.tolist() == [8, 8] and "step" not in pipe.scheduler.__dict__


def test_a_stochastic_scheduler(modular):
    if modular.host == "sd3":
        pytest.skip("its sampler draws no noise")
    pipe = modular(diffusers.EulerAncestralDiscreteScheduler)
    pipe.update_components(guider=ClassifierFreeGuidance(6.0))
    expected = call(pipe)
    search = GreedySearch([FunctionEvaluator(calm, "calm", "noisy")], (6.0, 7.0))
    pipe.update_components(guider=OnlineGuider(Static(6.0), pipe.scheduler))
    assert torch.equal(call(pipe), expected)
    guider = OnlineGuider(search, pipe.scheduler)
    pipe.update_components(guider=guider)
    assert torch.equal(call(pipe), expected) == (guider.traces[0].scales == 6.0).all()


def test_the_search_chooses_what_it_does_in_the_classic_pipeline(modular, stock):
    search = GreedySearch([calm], (1.0, 2.0, 4.0, 8.0), start=0.3)
    classic, pipe = stock(modular.host), modular()
    noise = torch.randn(2, 16 if modular.host == "sd3" else 4, 8, 8, generator=torch.Generator().manual_seed(1))
    with guide(classic, search) as traces:
        options = {"latents": noise.clone(), "output_type": "latent", "guidance_scale": 3.0, **SIZE}
        expected = classic(PROMPTS, negative_prompt=["", ""], **options).images
    guider = OnlineGuider(search, pipe.scheduler, PROMPTS, guidance_scale=3.0)
    pipe.update_components(guider=guider)
    torch.testing.assert_close(call(pipe, latents=noise.clone()), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(guider.traces[0].scales, traces[0].scales) and guider.traces[0].prompt == PROMPTS
    assert guider.traces[0].scales[0].tolist() == [3.0, 3.0]


def test_refuses(modular, clip):
    pipe = modular()
    in_channels = 16 if modular.host == "sd3" else 4
    cases = [
        (OnlineGuider(GreedySearch([clip(in_channels)]), pipe.scheduler), "'clip' reads the prompt"),
        (OnlineGuider(GreedySearch([clip(8)]), pipe.scheduler, PROMPTS), "belongs to another VAE"),
        (OnlineGuider(Static(6.0), pipe.scheduler, PROMPTS[:1]), "`prompt` must give one for each of 2 images, got 1"),
    ]
    for guider, match in cases:
        pipe.update_components(guider=guider)
        with pytest.raises(ValueError, match=match):
            call(pipe)
        assert "step" not in pipe.scheduler.__dict__
    with pytest.raises(ValueError, match="`guidance` must be a GreedySearch or a Schedule, got float"):
        OnlineGuider(6.0, pipe.scheduler)
    with pytest.raises(ValueError, match="is not supported: a scheduler must have"):
        OnlineGuider(Static(6.0), diffusers.IPNDMScheduler())
