"""The classes with ``guidance=``: a stock class that takes one argument more, to people and to diffusers."""

import copy
import inspect
import json
import pickle
import warnings

import diffusers
import numpy as np
import pytest
import torch
from checks import CHOSEN, OWN, same
from diffusers import AutoPipelineForImage2Image, AutoPipelineForInpainting
from hosts import HOSTS

import pipelines
from guidance import GreedySearch, Static
from pipelines import DynamicGuidanceMixin
from pipelines.dynamic import CLASSES, PREFIX

SIZE = {"height": 16, "width": 16, "num_inference_steps": 3, "output_type": "np"}
PROMPT = ["two red circles", "a blue star"]
OURS = ("guidance", "evaluator_prompt")
QUICK = ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "FluxPipeline", "QwenImagePipeline", "WanPipeline")
STOCK = {"sd": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline", "sd3": "StableDiffusion3Pipeline"}
STOCK |= {"flux": "FluxPipeline"}
OFF = {"sd": {"guidance_scale": 1.0}, "sdxl": {"guidance_scale": 1.0}, "flux": {"true_cfg_scale": 1.0}}


def calm(candidates, context):
    return -candidates.flatten(2).std(2)


def dynamic(name):
    return getattr(pipelines, PREFIX + name)


@pytest.fixture
def loaded(folder):
    """``loaded(host)``: our pipeline from the stock one's folder."""

    def load(host="sd"):
        pipe = dynamic(STOCK[host]).from_pretrained(folder(host))
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return load


def call(pipe, **kwargs):
    return pipe(**{"prompt": PROMPT, "generator": torch.Generator().manual_seed(0)} | SIZE | kwargs)


# ------------------------------------------------------------------------------------------------------ the classes


@pytest.mark.parametrize("name", CLASSES)
def test_signature(name):
    ours, stock = dynamic(name), getattr(diffusers, name)
    stated = inspect.signature(stock.__call__).parameters
    found = inspect.signature(ours.__call__).parameters
    assert [p for p in found.values() if p.name not in OURS] == list(stated.values())
    assert all(found[n].kind is inspect.Parameter.KEYWORD_ONLY and found[n].default is None for n in OURS)
    assert ours.__call__.__doc__ == stock.__call__.__doc__
    assert issubclass(ours, stock)
    if name != "KolorsPipeline":  # an annotation of its own names what needs another package
        assert ours._get_signature_keys(ours) == stock._get_signature_keys(stock)
        assert ours._get_signature_types() == stock._get_signature_types()


def test_every_name():
    assert set(HOST_OF) == set(CLASSES)
    assert [PREFIX + name for name in CLASSES] == pipelines.DYNAMIC
    for name in pipelines.DYNAMIC:
        assert issubclass(getattr(pipelines, name), DynamicGuidanceMixin)
        assert getattr(pipelines, name) is getattr(pipelines, name)
        assert name in dir(pipelines) and name in pipelines.__all__
    for name in ("DynamicGuidanceNoSuchPipeline", "DynamicGuidanceDiTPipeline", "no_such_name"):
        with pytest.raises(AttributeError, match=name):
            getattr(pipelines, name)


# The conformance host of each class.
HOST_OF = {
    "AuraFlowPipeline": "aura-flow",
    "ChromaPipeline": "chroma",
    "CogVideoXPipeline": "cogvideox-dpm",
    "CogView4Pipeline": "cogview4",
    "FluxImg2ImgPipeline": "flux-img2img",
    "FluxInpaintPipeline": "flux-inpaint",
    "FluxKontextPipeline": "flux-kontext",
    "FluxPipeline": "flux",
    "HiDreamImagePipeline": "hidream",
    "HunyuanDiTPipeline": "hunyuandit",
    "KolorsPipeline": "kolors",
    "LTXPipeline": "ltx",
    "Lumina2Pipeline": "lumina2",
    "PixArtAlphaPipeline": "pixart-alpha",
    "PixArtSigmaPipeline": "pixart-sigma",
    "QwenImageEditPipeline": "qwen-image-edit",
    "QwenImageImg2ImgPipeline": "qwen-image-img2img",
    "QwenImageInpaintPipeline": "qwen-image-inpaint",
    "QwenImagePipeline": "qwen-image",
    "SanaPipeline": "sana",
    "StableDiffusion3Img2ImgPipeline": "sd3-img2img",
    "StableDiffusion3InpaintPipeline": "sd3-inpaint",
    "StableDiffusion3Pipeline": "sd3",
    "StableDiffusionImg2ImgPipeline": "sd-img2img",
    "StableDiffusionInpaintPipeline": "sd-inpaint",
    "StableDiffusionPipeline": "sd",
    "StableDiffusionXLImg2ImgPipeline": "sdxl-img2img",
    "StableDiffusionXLInpaintPipeline": "sdxl-inpaint",
    "StableDiffusionXLPipeline": "sdxl",
    "WanPipeline": "wan-t2v",
    "ZImagePipeline": "z-image",
}
CALLED = [
    pytest.param(name, host, id=host, marks=() if name in QUICK else pytest.mark.slow) for name, host in HOST_OF.items()
]


@pytest.mark.parametrize("name, host", CALLED)
def test_a_guided_call(name, host):
    host = HOSTS[host]
    stock = host.make()
    if hasattr(getattr(diffusers, name), "_backends"):
        pytest.skip("diffusers needs another package for it")
    assert type(stock) is getattr(diffusers, name)
    expected = host.run(stock, CHOSEN)
    pipe = dynamic(name).from_pipe(host.make())
    pipe.set_progress_bar_config(disable=True)
    if host.name == "hidream":  # the host's own, after it is made
        pipe.default_sample_size = stock.default_sample_size
    same(host, host.run(pipe, CHOSEN), expected)
    assert pipe.guidance_trace is None
    same(host, host.run(pipe, OWN, guidance=Static(CHOSEN)), expected)
    assert set(pipe.guidance_trace.scales.unique().tolist()) <= {CHOSEN, 0.0, 1.0}


# -------------------------------------------------------------------------------------------------------- the calls


@pytest.mark.parametrize("host", STOCK)
def test_without_guidance_it_is_the_stock_call(host, loaded, stock):
    """FLUX too: nothing is added to its arguments."""
    pipe = loaded(host)
    output = call(pipe)
    assert np.array_equal(output.images, call(stock(host)).images)
    assert output.guidance_trace is pipe.guidance_trace is None
    assert np.array_equal(call(pipe, return_dict=False)[0], output.images)


@pytest.mark.parametrize("host", OFF)
def test_guidance_for_a_call_that_has_none_is_an_error_before_denoising(host, loaded):
    pipe, passes = loaded(host), []
    denoiser = pipe.transformer if host == "flux" else pipe.unet
    hook = denoiser.register_forward_hook(lambda *args: passes.append(1))
    with pytest.raises(ValueError, match="classifier-free guidance is off"):
        call(pipe, guidance=Static(CHOSEN), **OFF[host])
    assert passes == [] and pipe.guidance_trace is None
    hook.remove()


@pytest.mark.parametrize("host", OFF)
def test_guidance_of_the_pipeline_lets_a_call_without_be(host, loaded, stock):
    pipe = loaded(host)
    pipe.guidance = Static(CHOSEN)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        output = call(pipe, **OFF[host])
    ours = [str(w.message) for w in said if "classifier-free guidance is off" in str(w.message)]
    assert len(ours) == 1 and ours[0].endswith("This call is not guided.")
    assert np.array_equal(output.images, call(stock(host), **OFF[host]).images)
    assert output.guidance_trace is None


def test_the_warning_points_at_the_call(loaded):
    pipe = loaded()
    pipe.guidance = Static(CHOSEN)
    with pytest.warns(UserWarning, match="not guided") as said:
        call(pipe, guidance_scale=1.0)
    assert said[0].filename == __file__


def test_embeddings_where_nothing_reads_a_negative_prompt(loaded):
    """FLUX without its text encoders, to save memory: guided where both embeddings are given, else told as any call
    without guidance is."""
    pipe = loaded("flux")
    with torch.no_grad():
        embeds, pooled, _ = pipe.encode_prompt(PROMPT, None, max_sequence_length=8)
        other, other_pooled, _ = pipe.encode_prompt(["", ""], None, max_sequence_length=8)
    expected = call(pipe, guidance=Static(CHOSEN), max_sequence_length=8).images
    bare = type(pipe)(
        **pipe.components | {"text_encoder": None, "text_encoder_2": None, "tokenizer": None, "tokenizer_2": None}
    )
    bare.set_progress_bar_config(disable=True)
    given = {"prompt": None, "prompt_embeds": embeds, "pooled_prompt_embeds": pooled, "guidance": Static(CHOSEN)}
    negative = {"negative_prompt_embeds": other, "negative_pooled_prompt_embeds": other_pooled}
    with pytest.raises(ValueError, match="guidance is off"):
        call(bare, **given)
    assert np.array_equal(call(bare, **given | negative).images, expected)


def test_the_trace_is_of_the_last_call(loaded):
    pipe = loaded("sdxl")
    assert len(call(pipe, guidance=Static(CHOSEN)).guidance_trace.steps) == 3
    output = call(pipe, guidance=Static(CHOSEN), denoising_end=0.01, output_type="latent")
    assert output.guidance_trace is pipe.guidance_trace is None, "no step ran"
    for fails in ({"height": 17}, {"callback_on_step_end": interrupt}):
        call(pipe, guidance=Static(CHOSEN))
        assert pipe.guidance_trace is not None
        with pytest.raises((ValueError, KeyboardInterrupt)):
            call(pipe, guidance=Static(CHOSEN), **fails)
        assert pipe.guidance_trace is None
    call(pipe, guidance=Static(CHOSEN))
    call(pipe)
    assert pipe.guidance_trace is None


def interrupt(pipe, step, timestep, tensors):
    raise KeyboardInterrupt


def test_callbacks(loaded, stock):
    """diffusers looks at what they may ask for, and they get it."""
    seen = []

    def look(pipe, step, timestep, tensors):
        seen.append(sorted(tensors))
        return {}

    pipe = loaded()
    wanted = {"callback_on_step_end": look, "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"]}
    call(pipe, guidance=Static(CHOSEN), **wanted)
    assert seen == [["latents", "prompt_embeds"]] * 3
    with pytest.raises(ValueError, match="callback_on_step_end_tensor_inputs"):
        call(pipe, guidance=Static(CHOSEN), callback_on_step_end_tensor_inputs=["no_such"])


# ------------------------------------------------------------------------------------------------- diffusers' relatives


RELATIVES = [
    ("sd", AutoPipelineForImage2Image, "StableDiffusionImg2ImgPipeline"),
    ("sd", AutoPipelineForInpainting, "StableDiffusionInpaintPipeline"),
    ("sdxl", AutoPipelineForImage2Image, "StableDiffusionXLImg2ImgPipeline"),
    ("sd3", AutoPipelineForInpainting, "StableDiffusion3InpaintPipeline"),
    ("flux", AutoPipelineForImage2Image, "FluxImg2ImgPipeline"),
]


@pytest.mark.parametrize("host, auto, name", RELATIVES)
def test_from_ours_to_a_stock_relative(host, auto, name, loaded):
    pipe = loaded(host)
    expected = call(pipe, guidance=Static(CHOSEN)).images
    relatives = [auto.from_pipe(pipe), getattr(diffusers, name).from_pipe(pipe)]
    assert all(type(relative) is getattr(diffusers, name) for relative in relatives)
    assert all(relative.vae is pipe.vae for relative in relatives)
    assert np.array_equal(call(pipe, guidance=Static(CHOSEN)).images, expected)


@pytest.mark.parametrize("host, auto, name", RELATIVES)
def test_from_a_stock_pipeline_to_one_of_ours(host, auto, name, stock, loaded):
    ours = dynamic(name).from_pipe(stock(host))
    assert type(ours) is dynamic(name) and ours.vae is stock(host).vae
    again = dynamic(STOCK[host]).from_pipe(ours)
    again.set_progress_bar_config(disable=True)
    found, expected = (call(pipe, guidance=Static(CHOSEN)).images for pipe in (again, loaded(host)))
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("host", STOCK)
def test_what_is_saved_is_a_stock_pipeline(host, loaded, folder, tmp_path):
    pipe = loaded(host)
    pipe.guidance = Static(CHOSEN)
    call(pipe)
    pipe.save_pretrained(tmp_path)
    saved = diffusers.DiffusionPipeline.from_pretrained(tmp_path)
    saved.set_progress_bar_config(disable=True)
    assert type(saved) is getattr(diffusers, STOCK[host])
    index = json.loads((tmp_path / "model_index.json").read_text())
    del index["_name_or_path"]
    assert index == json.loads((folder(host) / "model_index.json").read_text()) and index["_class_name"] == STOCK[host]
    pipe.guidance = None
    assert np.array_equal(call(saved).images, call(pipe).images)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pipe: pickle.loads(pickle.dumps(pipe))])
def test_copies(copied, loaded):
    pipe = loaded()
    pipe.guidance = Static(CHOSEN)
    expected = call(pipe)
    twin = copied(pipe)
    assert type(twin) is type(pipe) and twin.unet is not pipe.unet
    found = call(twin)
    assert np.array_equal(found.images, expected.images)
    assert torch.equal(found.guidance_trace.scales, expected.guidance_trace.scales)


def test_a_class_of_ones_own(folder):
    """The mixin before any pipeline class, and a subclass of that."""

    class Mine(DynamicGuidanceMixin, diffusers.StableDiffusionPipeline):
        """Mine."""

    class Child(Mine):
        def __call__(self, *args, **kwargs):
            return super().__call__(*args, **kwargs | {"guidance_scale": 3.0})

    for kind in (Mine, Child):
        pipe = kind.from_pretrained(folder("sd"))
        pipe.set_progress_bar_config(disable=True)
        search = GreedySearch([calm], (2.0, 8.0), start=0.9)
        assert call(pipe, guidance=search).guidance_trace.scales[0].tolist() == [7.5 if kind is Mine else 3.0] * 2
