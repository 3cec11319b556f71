"""Every host carries decisions out exactly, and is left exactly as it was."""

from dataclasses import dataclass, field

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

import pipelines
from guidance import GreedySearch, Static
from pipelines import guide

PROMPTS = ["two red circles", "a blue star"]
OWN, CHOSEN = 3.0, 6.0
HOSTS = ("sd", "sdxl", "sd3", "flux")
EMBEDS = {
    "sd": ("prompt_embeds", "negative_prompt_embeds"),
    "sdxl": ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"),
    "sd3": ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"),
    "flux": ("prompt_embeds", "pooled_prompt_embeds"),
}


def picture(mode="RGB"):
    shape = (16, 16, 3) if mode == "RGB" else (16, 16)
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8), mode)


@dataclass
class Case:
    """A pipeline class and how its tests call it."""

    host: str
    name: str
    extra: dict = field(default_factory=dict)

    @property
    def channels(self):
        return 16 if self.host == "sd3" else 4

    def stock(self, stock, **components):
        """An instance of the diffusers class around the shared models, with a scheduler of its own."""
        parts = stock(self.host).components
        scheduler = type(parts["scheduler"]).from_config(parts["scheduler"].config)
        options = {"requires_safety_checker": False} if self.host == "sd" else {}
        pipe = getattr(diffusers, self.name)(**{**parts, "scheduler": scheduler, **components}, **options)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def dynamic(self, folder):
        pipe = getattr(pipelines, f"DynamicGuidance{self.name}").from_pretrained(folder(self.host))
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def __call__(self, pipe, scale=OWN, **kwargs):
        prompt = None if "prompt_embeds" in kwargs else PROMPTS
        arguments = {"prompt": prompt, "num_inference_steps": 4, "output_type": "np", **self.extra}
        if "generator" not in kwargs and "latents" not in kwargs:
            arguments["generator"] = torch.Generator().manual_seed(0)
        if self.host == "flux":
            arguments |= {"true_cfg_scale": scale}
            if "negative_prompt_embeds" not in kwargs:
                arguments["negative_prompt"] = [""] * len(kwargs.get("prompt", PROMPTS))
        else:
            arguments["guidance_scale"] = scale
        return pipe(**arguments | kwargs)


def text_to_image(host):
    names = {"sd": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"}
    names |= {"sd3": "StableDiffusion3Pipeline", "flux": "FluxPipeline"}
    return Case(host, names[host], {"height": 16, "width": 16})


def cases():
    for host in HOSTS:
        case = text_to_image(host)
        image = {"image": [picture()] * 2, "strength": 0.75} | ({} if host in ("sd", "sdxl") else case.extra)
        mask = {"mask_image": picture("L"), "height": 16, "width": 16}
        yield case
        yield Case(host, case.name.replace("Pipeline", "Img2ImgPipeline"), image)
        yield Case(host, case.name.replace("Pipeline", "InpaintPipeline"), image | mask)


ALL = {case.name: case for case in cases()}
every_class = pytest.mark.parametrize("case", ALL.values(), ids=list(ALL))
every_host = pytest.mark.parametrize("case", [text_to_image(host) for host in HOSTS], ids=HOSTS)


def only(scale=CHOSEN, **kwargs):
    """A search over a single scale: static guidance."""
    return GreedySearch([], scales=[scale], **kwargs)


class Capricious:
    """Scores are a hash of the candidate, so that the choice changes with every sample and step. Keeps what it saw."""

    name, space, needs_prompt, in_channels, calibration = "capricious", "noisy", True, None, None

    def __init__(self):
        self.seen = []

    def __call__(self, candidates, context):
        self.seen.append((tuple(candidates.shape), context))
        return torch.frac(candidates.flatten(2).double().sum(2).abs() * 1e3)

    @property
    def prompts(self):
        return {tuple(context.prompt) for _, context in self.seen}


def search(evaluator=None, scales=(1.0, 4.0, 8.0), **kwargs):
    return GreedySearch([evaluator or Capricious()], scales=scales, **kwargs)


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
        [getattr(scheduler.step, "__func__", None), getattr(pipe.encode_prompt, "__func__", None)],
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
