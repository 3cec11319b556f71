"""Guiders of diffusers give through `guide` what they give where they are called by hand."""

import diffusers
import pytest
import torch
from diffusers import guiders
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer

from guidance import GUIDERS, Decision, DenoisingStep, Guider, Static
from pipelines import guide

PROMPTS = ["two red circles", "a blue star"]
STEPS = 4
ARGUMENTS = {
    "apg": {"guidance_scale": 6.0, "adaptive_projected_guidance_momentum": -0.5, "eta": 0.3},
    "cfg_zero_star": {"guidance_scale": 6.0, "zero_init_steps": 1},
    "fdg": {"guidance_scales": [8.0, 4.0], "parallel_weights": [0.5, 1.0]},
    "mambo_g": {"guidance_scale": 6.0, "alpha": 2.0},
    "tcfg": {"guidance_scale": 6.0, "guidance_rescale": 0.5},
}


def make(name):
    if name == "fdg":
        pytest.importorskip("kornia")
    return GUIDERS[name](**ARGUMENTS[name])


def call(pipe, prompts=PROMPTS, **kwargs):
    options = {"num_inference_steps": STEPS, "output_type": "latent", "height": 16, "width": 16}
    options["generator"] = torch.Generator().manual_seed(0)
    if isinstance(pipe, diffusers.FluxPipeline):
        options |= {"true_cfg_scale": 3.0, "negative_prompt": [""] * len(prompts)}
    return pipe(prompts, **options | kwargs).images


@torch.no_grad()
def by_hand(pipe, combine, size=8):
    """Stable Diffusion's loop with ``combine(index, t, cond, uncond)`` in place of its guidance."""
    cond, uncond = pipe.encode_prompt(PROMPTS, "cpu", 1, True)
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    scheduler.set_timesteps(STEPS)
    latents = torch.randn(2, 4, size, size, generator=torch.Generator().manual_seed(0)) * scheduler.init_noise_sigma
    for index, t in enumerate(scheduler.timesteps):
        at = scheduler.scale_model_input(torch.cat([latents] * 2), t)
        u, c = pipe.unet(at, t, encoder_hidden_states=torch.cat([uncond, cond])).sample.chunk(2)
        latents = scheduler.step(combine(index, t, c, u), t, latents).prev_sample
    return latents


@pytest.mark.parametrize("name", GUIDERS)
def test_as_by_hand(stock, name):
    pipe, guider = stock("sd"), make(name)
    if name == "apg":
        guider.momentum_buffer = MomentumBuffer(-0.5)

    def combine(index, t, c, u):
        guider.set_state(step=index, num_inference_steps=STEPS, timestep=t)
        if name == "mambo_g":  # diffusers' own norm takes no (batch, C, H, W)
            norm = lambda x: x.square().sum((1, 2, 3), keepdim=True).sqrt()  # noqa: E731
            return u + (1 + 5.0 * torch.exp(-2.0 * norm(c - u) / norm(u))) * (c - u)
        return guider.forward(c, u).pred

    expected = by_hand(pipe, combine)
    with guide(pipe, Guider(make(name))) as traces:
        found = [call(pipe) for _ in range(2)]
    torch.testing.assert_close(found[0], expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(*found), "nothing of a call is left for the next"
    assert not torch.allclose(expected, call(pipe, guidance_scale=6.0), atol=1e-3), "it is not plain guidance"
    assert traces[0].scales.shape == (STEPS, 2) and traces[0].scales.isfinite().all()


def test_momentum_matters_and_formula_of_apg(stock):
    """``u + s (d_orthogonal + eta d_parallel)`` with ``d_t = c - u + beta d_{t+1}``, written out."""
    state = {"d": 0.0}

    def combine(index, t, c, u):
        state["d"] = d = (c - u) - 0.5 * state["d"]
        unit = c / c.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        parallel = (d * unit).flatten(1).sum(1).view(-1, 1, 1, 1) * unit
        return u + 6.0 * (d - parallel + 0.3 * parallel)

    pipe = stock("sd")
    options = ARGUMENTS["apg"] | {"adaptive_projected_guidance_rescale": 0.0}
    with guide(pipe, Guider(GUIDERS["apg"](**options))):
        found = call(pipe)
    torch.testing.assert_close(found, by_hand(pipe, combine), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("host", ["sd", "sdxl", "sd3", "flux"])
def test_plain_guidance_as_a_guider_is_a_static_scale(stock, host):
    pipe = stock(host)
    with guide(pipe, Static(6.0)):
        expected = call(pipe)
    with guide(pipe, Guider(guiders.ClassifierFreeGuidance(6.0))) as traces:
        found = call(pipe)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert traces[0].scales.flatten().tolist() == pytest.approx([6.0] * 2 * STEPS, rel=1e-3)


def step(index, num_steps=4, **kwargs):
    values = dict.fromkeys(DenoisingStep.__dataclass_fields__) | {
        "pred_cond": torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)),
        "pred_uncond": torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2)),
        "timestep": torch.tensor(500),
        "index": index,
        "num_steps": num_steps,
        "start_index": 0,
    }
    return DenoisingStep(**values | kwargs)


def test_steps_count_from_the_start_of_the_call():
    """Image to image starts in the middle of the scheduler's timesteps."""
    guider = Guider(make("cfg_zero_star"))
    for index in (2, 3):
        prediction = guider.decide(step(index, start_index=2)).prediction
        assert (prediction == 0).all() == (index == 2)


def test_outside_its_window_a_guider_wants_the_conditional_prediction():
    guider = Guider(guiders.ClassifierFreeGuidance(6.0, start=0.5))
    for index in range(4):
        found = step(index)
        scale, record, prediction, rows, *_ = guider.decide(found)
        assert torch.equal(prediction, found.pred_cond) == (index < 2)
        assert scale.tolist() == pytest.approx([1.0 if index < 2 else 6.0] * 2, rel=1e-4)
        assert record == {} and rows is None


def test_a_prediction_of_any_object_that_decides(stock):
    class Conditional:
        def decide(self, step):
            return Decision(None, {}, prediction=step.pred_cond)

    pipe = stock("sd")
    with guide(pipe, Conditional()):
        found = call(pipe)
    torch.testing.assert_close(found, by_hand(pipe, lambda index, t, c, u: c), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "guider",
    [
        lambda: guiders.SkipLayerGuidance(skip_layer_guidance_layers=[0]),
        lambda: guiders.PerturbedAttentionGuidance(perturbed_guidance_layers=[0]),
        lambda: guiders.AutoGuidance(auto_guidance_layers=[0], dropout=0.5),
    ],
)
def test_refuses_guiders_that_need_passes_of_their_own(guider):
    guider = guider()
    with pytest.raises(ValueError, match=f"`guider` {type(guider).__name__} needs passes .* AdaptiveProjectedGuidance"):
        Guider(guider)


@pytest.mark.parametrize("guider", ["apg", None, Static(3.0)])
def test_refuses_what_is_no_guider(guider):
    with pytest.raises(TypeError, match="`guider` must be a diffusers guider, got"):
        Guider(guider)
