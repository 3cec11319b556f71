"""Every host carries decisions out exactly, and is left exactly as it was."""

import diffusers
import numpy as np
import pytest
import torch
from host_cases import (
    ALL,
    CHOSEN,
    HOSTS,
    OWN,
    PROMPTS,
    Capricious,
    every_class,
    every_host,
    only,
    search,
    text_to_image,
)

from guidance import Static
from pipelines import guide

# ----------------------------------------------------------------------------------------------- exactness


@every_class
def test_one_candidate_is_the_stock_pipeline(case, stock):
    pipe = case.stock(stock)
    expected = case(pipe, CHOSEN).images
    with guide(pipe, only()) as traces:
        found = case(pipe).images
    assert np.array_equal(found, expected)
    assert not np.array_equal(found, case(pipe).images), "the scale must matter"
    assert torch.equal(traces[0].scales, torch.full_like(traces[0].scales, CHOSEN))


@every_class
def test_dynamic_class_loads_from_the_stock_folder(case, stock, folder):
    pipe = case.dynamic(folder)
    output = case(pipe, guidance=only())
    assert np.array_equal(output.images, case(case.stock(stock), CHOSEN).images)
    assert output.guidance_trace.prompt == PROMPTS
    images = case(pipe, guidance=only(), return_dict=False)[0]
    assert np.array_equal(images, output.images)
    assert torch.equal(pipe.guidance_trace.scales, output.guidance_trace.scales)


@pytest.mark.parametrize("host", ["sd", "sdxl", "sd3"])
def test_defaults_of_the_dynamic_class(host, folder, stock):
    case = text_to_image(host)
    pipe = case.dynamic(folder)
    pipe.guidance = Static(CHOSEN)
    generator = torch.Generator().manual_seed(0)
    found = pipe(PROMPTS[0], num_inference_steps=2, height=16, width=16, output_type="np", generator=generator).images
    expected = case(case.stock(stock), CHOSEN, prompt=PROMPTS[0], num_inference_steps=2).images
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("negative", [None, "", "blurry", ["blurry", "blurry"]])
def test_flux_needs_no_negative_prompt_and_one_serves_all(folder, stock, negative):
    case = text_to_image("flux")
    pipe = case.dynamic(folder)
    found = case(pipe, guidance=only(), negative_prompt=negative).images
    words = "blurry" if negative else ""
    assert np.array_equal(found, case(case.stock(stock), CHOSEN, negative_prompt=[words] * 2).images)
    one = pipe(PROMPTS[0], num_inference_steps=2, height=16, width=16, output_type="np", guidance=only())
    assert one.images.shape == (1, 16, 16, 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("host", HOSTS)
def test_half_precision(host, stock, dtype):
    case, parts = text_to_image(host), stock(host, dtype).components
    pipe = case.stock(stock, **{k: v for k, v in parts.items() if isinstance(v, torch.nn.Module)})
    for scale in (CHOSEN, 7.3):  # 7.3 is no half-precision number
        expected = case(pipe, scale, output_type="latent").images
        with guide(pipe, only(scale)):
            found = case(pipe, output_type="latent").images
        assert found.dtype == dtype and torch.equal(found, expected)
    with guide(pipe, only(start=0.5)) as traces:
        case(pipe, OWN)
    assert traces[0].scales[0].tolist() == [OWN, OWN]


@every_host
def test_a_generator_for_every_image(case, stock):
    pipe = case.stock(stock)
    generators = lambda: [torch.Generator().manual_seed(i) for i in (3, 4)]  # noqa: E731
    expected = case(pipe, CHOSEN, generator=generators()).images
    with guide(pipe, only()):
        found = case(pipe, generator=generators()).images
    assert np.array_equal(found, expected)


@every_host
def test_negative_prompts(case, stock):
    pipe, evaluator = case.stock(stock), Capricious()
    expected = case(pipe, CHOSEN, negative_prompt=["blurry", "an arrow"]).images
    with guide(pipe, only()):
        found = case(pipe, negative_prompt=["blurry", "an arrow"]).images
    assert np.array_equal(found, expected)
    assert not np.array_equal(found, case(pipe, CHOSEN).images)
    with guide(pipe, search(evaluator)):
        case(pipe, negative_prompt=["blurry", "an arrow"])
    assert evaluator.prompts == {tuple(PROMPTS)}


@pytest.mark.parametrize("name", ["StableDiffusionPipeline", "StableDiffusionXLPipeline"])
def test_guidance_rescale(name, stock):
    case = ALL[name]
    pipe = case.stock(stock)
    expected = case(pipe, CHOSEN, guidance_rescale=0.7).images
    with guide(pipe, only()):
        found = case(pipe, guidance_rescale=0.7).images
    assert np.array_equal(found, expected)
    assert not np.array_equal(found, case(pipe, CHOSEN).images)
    with guide(pipe, search(start=0.5)) as traces:
        case(pipe, guidance_rescale=0.7)
    assert traces[0].scales[0].tolist() == [OWN, OWN]


# --------------------------------------------------------------------------------------------- leaving no mark


def marks(pipe):
    """Every place where a patch or hook could stay behind."""
    denoiser = getattr(pipe, "unet", None) or pipe.transformer
    scheduler = pipe.scheduler
    return (
        sorted(pipe.__dict__),
        sorted(scheduler.__dict__),
        sorted(denoiser.__dict__),
        [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in denoiser.modules()],
        [type(pipe), type(scheduler), getattr(scheduler.step, "__func__", None)],
        repr(scheduler.config),
    )


@every_class
def test_nothing_stays_behind(case, stock):
    pipe = case.stock(stock)
    expected, before = case(pipe).images, marks(pipe)
    with guide(pipe, search()):
        assert marks(pipe) != before
        case(pipe)
    assert marks(pipe) == before
    assert np.array_equal(case(pipe).images, expected)


@every_host
def test_nothing_stays_behind_after_an_error(case, stock, folder):
    pipe = case.stock(stock)
    expected, before = case(pipe).images, marks(pipe)

    def stop(pipe, index, timestep, tensors):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), guide(pipe, search()):
        case(pipe, callback_on_step_end=stop)
    assert marks(pipe) == before
    assert np.array_equal(case(pipe).images, expected)
    dynamic = case.dynamic(folder)
    case(dynamic, guidance=only())
    before = marks(dynamic)
    with pytest.raises(KeyboardInterrupt):
        case(dynamic, guidance=search(), callback_on_step_end=stop)
    assert marks(dynamic) == before


@every_host
def test_a_call_after_a_failed_one_starts_anew(case, stock):
    pipe, evaluator = case.stock(stock), Capricious()

    def stop(pipe, index, timestep, tensors):
        raise KeyboardInterrupt

    with guide(pipe, search(evaluator)) as traces:
        first = case(pipe).images
        with pytest.raises(KeyboardInterrupt):
            case(pipe, prompt=["an arrow"], negative_prompt=[""], callback_on_step_end=stop)
        with pytest.raises(ValueError, match="is off"):
            case(pipe, 1.0, prompt=["a cross"], negative_prompt=[""])
        assert np.array_equal(case(pipe).images, first)
    assert evaluator.prompts == {tuple(PROMPTS), ("an arrow",)}
    assert traces[0].to_dict() == traces[-1].to_dict()


# --------------------------------------------------------------------------------------------- other layouts


class UncondFirst(diffusers.DiffusionPipeline):
    """A host that denoises in two calls without names, the unconditional one first."""

    def __init__(self, unet, scheduler):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    def encode_prompt(self, prompt, do_classifier_free_guidance=True):
        embeds = torch.randn(2, len(prompt), 3, 16, generator=torch.Generator().manual_seed(0))
        return embeds.unbind(0)

    @torch.no_grad()
    def __call__(self, prompt, scale, steps=3):
        positive, negative = self.encode_prompt(prompt)
        latents = torch.randn(len(prompt), 4, 8, 8, generator=torch.Generator().manual_seed(1))
        self.scheduler.set_timesteps(steps)
        for t in self.scheduler.timesteps:
            uncond = self.unet(latents, t, encoder_hidden_states=negative).sample
            cond = self.unet(latents, t, encoder_hidden_states=positive).sample
            latents = self.scheduler.step(self.combine(uncond, cond, scale), t, latents).prev_sample
        return latents

    def combine(self, uncond, cond, scale):
        return uncond + scale * (cond - uncond)


def test_two_nameless_calls_in_the_other_order(stock):
    parts = stock("sd").components
    pipe = UncondFirst(parts["unet"], type(parts["scheduler"]).from_config(parts["scheduler"].config))
    expected = pipe(PROMPTS, CHOSEN)
    with guide(pipe, only()):
        assert torch.equal(pipe(PROMPTS, OWN), expected)
    with guide(pipe, only(start=0.4)) as traces:
        pipe(PROMPTS, OWN)
        pipe(PROMPTS[:1], 4.0)
    assert [trace.scales[0].tolist() for trace in traces] == [[OWN, OWN], [4.0]]


def test_another_guidance_is_told_by_what_it_gives(stock):
    parts = stock("sd").components
    pipe = UncondFirst(parts["unet"], parts["scheduler"])
    pipe.combine = lambda uncond, cond, scale: uncond + scale * (cond - uncond) ** 2
    with pytest.raises(ValueError, match="does not guide by u"), guide(pipe, only()):
        pipe(PROMPTS, OWN)


@pytest.mark.parametrize("host", HOSTS)
def test_what_a_dynamic_pipeline_saves_is_a_stock_pipeline(host, folder, tmp_path):
    case = text_to_image(host)
    case.dynamic(folder).save_pretrained(tmp_path)
    assert type(diffusers.DiffusionPipeline.from_pretrained(tmp_path)).__name__ == case.name
