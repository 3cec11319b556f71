"""What evaluators are shown of a call of every host, and what callbacks and windows change in it."""

import diffusers
import numpy as np
import pytest
import torch
from host_cases import (
    ALL,
    CHOSEN,
    EMBEDS,
    OWN,
    PROMPTS,
    Capricious,
    every_class,
    every_host,
    only,
    search,
    text_to_image,
)

from guidance import GreedySearch
from pipelines import guide

# ------------------------------------------------------------------------------------- what evaluators are shown


@every_class
def test_evaluators_see_latents_of_the_vae(case, stock):
    pipe, evaluator = case.stock(stock), Capricious()
    with guide(pipe, search(evaluator)) as traces:
        case(pipe)
    assert {shape for shape, _ in evaluator.seen} == {
        (2, n, case.channels, 8, 8) for n in (2, 3)
    }  # the check, the steps
    steps = traces[0].steps
    levels = [context.noise_level for _, context in evaluator.seen[1:]]
    assert levels[:-1] == pytest.approx([step["noise_level"] for step in steps[1:]]), "before a step is after the last"
    assert levels == sorted(levels, reverse=True) and levels[-1] < 0.1
    assert len(steps) == (4 if case.name == text_to_image(case.host).name else 3)  # strength 0.75


@every_host
def test_prompts_repeat_in_the_order_of_the_images(case, stock):
    pipe, evaluator = case.stock(stock), Capricious()
    noise = torch.randn((1, case.channels, 8, 8), generator=torch.Generator().manual_seed(0)).repeat(4, 1, 1, 1)
    if case.host == "flux":
        noise = pipe._pack_latents(noise, 4, 4, 8, 8)
    with guide(pipe, search(evaluator)) as traces:
        images = case(pipe, num_images_per_prompt=2, latents=noise).images
    expected = [PROMPTS[0]] * 2 + [PROMPTS[1]] * 2
    assert evaluator.prompts == {tuple(expected)} and traces[0].prompt == expected
    assert traces[0].scales.shape == (4, 4) and len(images) == 4
    with guide(pipe, only()):
        images = case(pipe, num_images_per_prompt=2, latents=noise).images
    assert np.allclose(images[0], images[1], atol=1e-5) and np.allclose(images[2], images[3], atol=1e-5)
    assert not np.allclose(images[0], images[2], atol=1e-3), "the same noise under another prompt"


def embeds(pipe, host):
    """What ``pipe(prompt_embeds=…)`` takes for `PROMPTS`."""
    if host == "flux":
        positive = pipe.encode_prompt(PROMPTS, None)[:2]
        negative = pipe.encode_prompt(["", ""], None)[:2]
        names = EMBEDS[host]
        return dict(zip(names, positive, strict=True)) | {
            f"negative_{k}": v for k, v in zip(names, negative, strict=True)
        }
    arguments = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": True}
    if host == "sd3":
        arguments |= {"prompt_2": None, "prompt_3": None}
    with torch.no_grad():
        return dict(zip(EMBEDS[host], pipe.encode_prompt(PROMPTS, **arguments), strict=True))


@every_host
def test_embeddings_with_an_evaluator_prompt(case, folder):
    pipe, evaluator = case.dynamic(folder), Capricious()
    expected = case(pipe, guidance=search()).images
    with torch.no_grad():
        given = embeds(pipe, case.host)
    found = case(pipe, **given, guidance=search(evaluator), evaluator_prompt=PROMPTS)
    assert np.array_equal(found.images, expected)
    assert evaluator.prompts == {tuple(PROMPTS)} and found.guidance_trace.prompt == PROMPTS


@every_host
def test_embeddings_alone_serve_evaluators_that_read_no_prompt(case, folder, discriminator):
    pipe = case.dynamic(folder)
    with torch.no_grad():
        given = embeds(pipe, case.host)
    trace = case(pipe, **given, guidance=search(discriminator(case.channels))).guidance_trace
    assert trace.prompt is None and "scores" in trace.steps[0]


@every_host
def test_rows_are_independent(case, stock, clip, discriminator):
    pipe = case.stock(stock)
    prompts = [*PROMPTS, "three green squares"]
    generators = lambda: [torch.Generator().manual_seed(i) for i in range(3)]  # noqa: E731
    panel = [clip(case.channels), discriminator(case.channels)]
    # Unequal weights and no last step: two nearly linear scores must not cancel, nor the candidates nearly agree.
    panel = GreedySearch(panel, scales=(1.0, 4.0, 8.0), weights={"discriminator": 0.3}, stop=0.7)
    empty = {"negative_prompt": [""] * 3}
    with guide(pipe, panel) as traces:
        together = case(pipe, prompt=prompts, generator=generators(), **empty).images
        for i, prompt in enumerate(prompts):
            alone = case(pipe, prompt=[prompt], generator=generators()[i : i + 1], negative_prompt=[""]).images
            assert np.allclose(alone[0], together[i], atol=1e-4)
            assert torch.equal(traces[-1].scales[:, 0], traces[0].scales[:, i])
    assert len(traces[0].scales.unique()) > 1


# ---------------------------------------------------------------------------------------------- callbacks


@every_host
def test_callback_may_change_latents(case, stock):
    def shift(pipe, index, timestep, tensors):
        called.append(index)
        return {"latents": tensors["latents"] + 0.1 * (index == 1)}

    pipe, called = case.stock(stock), []
    expected = case(pipe, CHOSEN, callback_on_step_end=shift).images
    with guide(pipe, only()):
        found = case(pipe, callback_on_step_end=shift).images
    assert called == [0, 1, 2, 3] * 2
    assert np.array_equal(found, expected)
    assert not np.array_equal(found, case(pipe, CHOSEN).images)


def test_callback_may_turn_guidance_off(stock):
    def turn_off(pipe, index, timestep, tensors):
        if index == 1:
            pipe._guidance_scale = 0.0
            tensors["prompt_embeds"] = tensors["prompt_embeds"].chunk(2)[-1]
        return tensors

    case = text_to_image("sd")
    pipe = case.stock(stock)
    options = {"callback_on_step_end": turn_off, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    expected = case(pipe, CHOSEN, **options).images
    with guide(pipe, only()) as traces:
        found = case(pipe, **options).images
    assert np.array_equal(found, expected)
    assert traces[0].scales[:, 0].tolist() == [CHOSEN, CHOSEN, 1, 1]
    with guide(pipe, search()) as traces:
        case(pipe, **options)
    assert ["scores" in step for step in traces[0].steps] == [True, True, False, False]


def scheduled(scales):
    """The stock way to another scale at every step."""

    def callback(pipe, index, timestep, tensors):
        pipe._guidance_scale = [*scales, 0][index + 1]
        return {}

    return {"callback_on_step_end": callback, "num_inference_steps": len(scales)}


# -------------------------------------------------------------------------------------------- window, every


@pytest.mark.parametrize("host", ["sd", "sdxl", "sd3"])
def test_outside_the_window_the_pipelines_own_scale_stays(host, stock):
    case = text_to_image(host)
    pipe, scales = case.stock(stock), [OWN, OWN, CHOSEN, CHOSEN, CHOSEN, OWN]
    expected = case(pipe, scales[0], **scheduled(scales)).images
    with guide(pipe, only(start=0.4, stop=0.8)) as traces:
        found = case(pipe, num_inference_steps=6).images
    assert traces[0].scales[:, 0].tolist() == scales
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("name", ["FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline"])
def test_own_scale_is_read_from_two_calls(name, stock):
    """Img2img and inpaint do not name their two passes."""
    case = ALL[name]
    pipe = case.stock(stock)
    with guide(pipe, only(stop=0.6)) as traces:
        case(pipe, OWN)
    assert traces[0].scales[-1].tolist() == [OWN, OWN] and traces[0].scales[0].tolist() == [CHOSEN, CHOSEN]


def test_the_scale_that_flux_has_as_an_input_is_not_its_own(stock):
    """However near the two lie."""
    case = ALL["FluxPipeline"]
    pipe = case.stock(stock)
    with guide(pipe, only(stop=0.6)) as traces:
        case(pipe, 3.45, guidance_scale=3.5)
    assert traces[0].scales[-1].tolist() == pytest.approx([3.45, 3.45])


@pytest.mark.parametrize("start, searched", [(0.0, [0, 2, 4]), (0.2, [1, 3, 5])])
def test_every_holds_the_scale(start, searched, stock):
    case = text_to_image("sd")
    pipe = case.stock(stock)
    with guide(pipe, search(every=2, start=start)) as traces:
        case(pipe, num_inference_steps=6)
    assert [i for i, step in enumerate(traces[0].steps) if "scores" in step] == searched
    scales = traces[0].scales
    held = [i for i in range(searched[0], 6) if i not in searched]
    assert all(torch.equal(scales[i], scales[i - 1]) for i in held)
    assert len({tuple(scales[i].tolist()) for i in searched}) > 1


def test_a_step_of_img2img_knows_its_place(stock):
    """With a second-order scheduler timesteps repeat, so a timestep alone does not tell the place."""
    case = ALL["StableDiffusionImg2ImgPipeline"]
    scheduler = diffusers.HeunDiscreteScheduler.from_config(stock("sd").scheduler.config)
    pipe, evaluator = case.stock(stock, scheduler=scheduler), Capricious()
    with guide(pipe, search(evaluator)) as traces:
        case(pipe)
    sigmas = scheduler.sigmas[-len(traces[0].steps) :].double()
    levels = [context.noise_level for _, context in evaluator.seen[1:]]
    assert levels == pytest.approx((sigmas / (1 + sigmas**2).sqrt()).tolist())
