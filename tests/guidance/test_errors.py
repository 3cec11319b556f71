"""Bad input is refused by one line that names the argument, before any denoising."""

import math
import warnings

import diffusers
import pytest
import torch

from evaluators import load_evaluator
from evaluators.base import FunctionEvaluator, as_evaluator
from guidance import Cosine, GreedySearch, Interval, Linear, Static
from pipelines import DynamicGuidanceFluxPipeline, DynamicGuidanceStableDiffusion3Pipeline, guide
from pipelines import DynamicGuidanceStableDiffusionPipeline as Dynamic

HOSTS = ("sd", "sdxl", "sd3", "flux")
SIZE = {"height": 16, "width": 16, "num_inference_steps": 4, "output_type": "latent"}


def loudest(candidates, context):
    return candidates.flatten(2).std(2)


def search(*evaluators, **kwargs):
    return GreedySearch(evaluators or [loudest], **kwargs)


def true_cfg(host, count=1):
    return {"negative_prompt": [""] * count, "true_cfg_scale": 3.0} if host == "flux" else {}


class Refuses:
    """``with refuses(pipe, "words"):`` a ValueError of one line with these words, and not one forward pass."""

    def __init__(self, pipe, match, error=ValueError):
        self.denoiser = getattr(pipe, "unet", None) or pipe.transformer
        self.raises, self.passes = pytest.raises(error, match=match), 0

    def __enter__(self):
        self.hook = self.denoiser.register_forward_pre_hook(self.count)
        self.info = self.raises.__enter__()

    def count(self, *_):
        self.passes += 1

    def __exit__(self, *exception):
        self.hook.remove()
        caught = self.raises.__exit__(*exception)
        assert self.passes == 0, "refused only after denoising had begun"
        assert "\n" not in str(self.info.value)
        return caught


# -------------------------------------------------------------------------------------------- a search, a schedule


@pytest.mark.parametrize(
    "arguments, match",
    [
        ({"scales": []}, "`scales` must be distinct and at least one"),
        ({"scales": [2.0, 3.0, 2.0]}, "`scales` must be distinct"),
        ({"scales": [1.0, math.nan]}, "`scales` must be finite and at least 0"),
        ({"scales": [1.0, math.inf]}, "`scales` must be finite and at least 0"),
        ({"scales": [1.0, -2.0]}, "`scales` must be finite and at least 0"),
        ({"evaluators": []}, "`evaluators` is empty"),
        ({"evaluators": [loudest, loudest]}, "`evaluators` must have distinct names"),
        ({"weights": {"clip": 1.0}}, r"`weights` names no evaluator: \['clip'\]; there are \['loudest'\]"),
        ({"weights": {"loudest": -1.0}}, "`weights` must be finite and at least 0"),
        ({"weights": {"loudest": math.nan}}, "`weights` must be finite and at least 0"),
        ({"start": -0.1}, "`start` and `stop` must satisfy 0 <= start < stop <= 1"),
        ({"stop": 1.1}, "`start` and `stop` must satisfy"),
        ({"start": 0.5, "stop": 0.5}, "`start` and `stop` must satisfy"),
        ({"start": math.nan}, "`start` and `stop` must satisfy"),
        ({"every": 0}, "`every` must be an integer of at least 1"),
        ({"every": 1.5}, "`every` must be an integer of at least 1"),
    ],
)
def test_search_refuses(arguments, match):
    with pytest.raises(ValueError, match=match):
        GreedySearch(**{"evaluators": [loudest]} | arguments)


@pytest.mark.parametrize(
    "arguments, match",
    [
        ({"evaluators": ["clip"]}, "`evaluators` must hold evaluators or functions, got str"),
        ({"evaluators": loudest}, "`evaluators` must be a list, got function"),
        ({"scales": 7.5}, "`scales` must be a list, got float"),
    ],
)
def test_search_refuses_types(arguments, match):
    with pytest.raises(TypeError, match=match):
        GreedySearch(**{"evaluators": [loudest]} | arguments)


def test_unknown_space():
    with pytest.raises(ValueError, match=r"`space` of evaluator 'loudest' must be one of .*, got"):
        as_evaluator(FunctionEvaluator(loudest, "loudest", "colours"))


@pytest.mark.parametrize("schedule", [Static, Interval, Linear, Cosine])
@pytest.mark.parametrize("scale", [-1.0, math.nan, math.inf, "7.5", None, True])
def test_schedule_refuses_scale(schedule, scale):
    with pytest.raises(ValueError, match="`guidance_scale` must be a finite number of at least 0"):
        schedule(scale)


def test_interval_refuses_window():
    with pytest.raises(ValueError, match="`start` and `stop` must satisfy"):
        Interval(5.0, 0.8, 0.2)


def test_unknown_evaluator_name(tmp_path):
    with pytest.raises(ValueError, match=r"names 'clpi', which is unknown; there are .*clip"):
        load_evaluator("clpi", tmp_path)


# ---------------------------------------------------------------------------------------------- the pipeline's call


@pytest.mark.parametrize("prompt", [[], [1, 2], ["a", None]])
@pytest.mark.parametrize("host", HOSTS)
def test_prompt_list(stock, host, prompt):
    pipe = stock(host)
    with Refuses(pipe, "`prompt` must be a string or a list of at least one string"), guide(pipe, search()):
        pipe(prompt, **SIZE, **true_cfg(host, len(prompt)))


def test_prompt_list_of_the_dynamic_flux(folder):
    pipe = DynamicGuidanceFluxPipeline.from_pretrained(folder("flux"))
    with Refuses(pipe, "`prompt` must be a string or a list of at least one string"):
        pipe([], guidance=search(), **SIZE)


@pytest.mark.parametrize("host", ["sd", "sdxl", "sd3"])
@pytest.mark.parametrize("guidance", [search(), Static(5.0)], ids=["search", "static"])
def test_guidance_off(stock, host, guidance):
    with Refuses(stock(host), "guidance is off.*`guidance_scale` > 1"), guide(stock(host), guidance):
        stock(host)("a red circle", guidance_scale=1.0, **SIZE)


@pytest.mark.parametrize("options", [{}, {"true_cfg_scale": 4.0}, {"negative_prompt": ""}])
def test_flux_without_true_cfg(stock, options):
    pipe = stock("flux")
    with guide(pipe, search()):
        for _ in range(2):  # what the first call encoded must not count for the second
            with Refuses(pipe, "guidance is off.*`true_cfg_scale` > 1 and a `negative_prompt`"):
                pipe("a red circle", **options, **SIZE)


def test_dynamic_flux_with_true_cfg_off(folder):
    pipe = DynamicGuidanceFluxPipeline.from_pretrained(folder("flux"))
    with Refuses(pipe, "guidance is off"):
        pipe("a red circle", true_cfg_scale=1.0, guidance=search(), **SIZE)


@pytest.mark.parametrize(
    "returned, match",
    [
        (lambda c: c[:, :1, 0, 0, 0], r"'bad' must return scores \(batch, candidates\) = \(2, 2\), got \(2, 1\)"),
        (lambda c: c.flatten(1).std(1), r"'bad' must return scores \(batch, candidates\) = \(2, 2\), got \(2,\)"),
        (lambda c: [[0.0, 1.0]] * 2, "'bad' must return scores .* got list"),
        (lambda c: None, "'bad' must return scores .* got NoneType"),
        (lambda c: c.flatten(2).std(2) * math.nan, "'bad' must return finite scores"),
        (lambda c: c.flatten(2).std(2) * math.inf, "'bad' must return finite scores"),
    ],
)
@pytest.mark.parametrize("host", ["sd", "flux"])
def test_what_an_evaluator_returns(stock, host, returned, match):
    bad = FunctionEvaluator(lambda candidates, context: returned(candidates), "bad")
    with Refuses(stock(host), match), guide(stock(host), search(bad)):
        stock(host)(["a red circle", "a blue star"], **SIZE, **true_cfg(host, 2))


@pytest.mark.parametrize("host, channels", [("sd", 16), ("sdxl", 8), ("sd3", 4), ("flux", 16)])
def test_an_evaluator_of_another_vae(stock, discriminator, host, channels):
    theirs = 16 if host == "sd3" else 4
    match = f"'discriminator' takes latents of {channels} channels, this pipeline's have {theirs}"
    with Refuses(stock(host), match), guide(stock(host), search(discriminator(channels))):
        stock(host)("a red circle", **SIZE, **true_cfg(host))


@pytest.mark.parametrize("host", ["sd", "flux"])
def test_an_evaluator_that_reads_the_prompt_where_there_is_none(stock, clip, host):
    pipe = stock(host)
    with torch.no_grad():
        if host == "flux":  # its negative prompt is no prompt
            embeds, pooled, _ = pipe.encode_prompt("a star", None)
            embeds = {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}
        else:
            embeds = {"prompt_embeds": pipe.encode_prompt("a star", "cpu", 1, False)[0], "negative_prompt": ""}
    with Refuses(pipe, "'clip' reads the prompt, and the pipeline was given only embeddings"):  # noqa: SIM117
        with guide(pipe, search(clip())):
            pipe(**embeds, **SIZE, **true_cfg(host))


@pytest.mark.parametrize(
    "prompt, match",
    [
        (["a", "b", "c"], "`prompt` must give one for each of 2 images, got 3"),
        ("a", "`prompt` must give one for each of 2 images, got 1"),
        ([], "`prompt` must be a string or a list of at least one string"),
    ],
)
def test_evaluator_prompt(folder, prompt, match):
    pipe = Dynamic.from_pretrained(folder("sd"))
    with torch.no_grad():
        embeds = pipe.encode_prompt(["a star", "a cross"], "cpu", 1, True)
    given = dict(zip(("prompt_embeds", "negative_prompt_embeds"), embeds, strict=True))
    with Refuses(pipe, match):
        pipe(**given, evaluator_prompt=prompt, guidance=search(), **SIZE)


def test_without_guidance_the_call_is_the_stock_one(folder, stock):
    pipe = Dynamic.from_pretrained(folder("sd"))
    generator = lambda: torch.Generator().manual_seed(0)  # noqa: E731
    expected = stock("sd")("a red circle", generator=generator(), **SIZE | {"output_type": "latent"}).images
    found = pipe("a red circle", generator=generator(), **SIZE | {"output_type": "latent"})
    assert torch.equal(found.images, expected) and found.guidance_trace is None


@pytest.mark.parametrize("guidance", [7.5, "static", [1.0, 2.0]])
def test_guidance_of_another_type(folder, guidance):
    pipe = Dynamic.from_pretrained(folder("sd"))
    with Refuses(pipe, "`guidance` must be a GreedySearch or a Schedule, got"):
        pipe("a red circle", guidance=guidance, **SIZE)


def test_skip_layer_guidance(stock, folder):
    """It would only start after the first step."""
    match = "`skip_guidance_layers` must be off: .*skip-layer or another guidance is on"
    with Refuses(stock("sd3"), match), guide(stock("sd3"), search()):
        stock("sd3")("a red circle", skip_guidance_layers=[0], skip_layer_guidance_stop=0.9, **SIZE)
    pipe = DynamicGuidanceStableDiffusion3Pipeline.from_pretrained(folder("sd3"))
    with Refuses(pipe, match):
        pipe("a red circle", guidance=search(), skip_guidance_layers=[0], **SIZE)


def test_another_guidance(folder):
    parts = diffusers.DiffusionPipeline.from_pretrained(folder("sd")).components
    pipe = diffusers.StableDiffusionPAGPipeline(**parts, pag_applied_layers=["mid"])
    pipe.set_progress_bar_config(disable=True)
    with Refuses(pipe, "does not guide by u"), guide(pipe, search()):
        pipe("a red circle", pag_scale=3.0, **SIZE)


# ------------------------------------------------------------------------------------------------- the pipeline


def test_nested(stock):
    pipe = stock("sd")
    with guide(pipe, search()) as traces:
        with pytest.raises(ValueError, match="already guided: `guide` cannot be nested"), guide(pipe, Static(3.0)):
            pass
        pipe("a red circle", **SIZE)
    assert len(traces) == 1, "the outer one goes on"
    with guide(pipe, search()):
        pass


@pytest.mark.parametrize("scheduler", [None, torch.nn.Identity(), diffusers.IPNDMScheduler()])
def test_unknown_scheduler(stock, scheduler):
    pipe = diffusers.StableDiffusionPipeline(**stock("sd").components, requires_safety_checker=False)
    pipe.scheduler = scheduler
    words = f"`scheduler` {type(scheduler).__name__} is not supported: .* say how much noise there is, as most of"
    with Refuses(pipe, words), guide(pipe, search()):
        pipe("a red circle", **SIZE)


def test_scheduler_replaced_while_guided(stock):
    pipe = diffusers.StableDiffusionPipeline(**stock("sd").components, requires_safety_checker=False)
    with guide(pipe, Static(3.0)) as traces:
        pipe.scheduler = diffusers.EulerDiscreteScheduler()
        pipe("a red circle", num_inference_steps=2, output_type="latent", height=16, width=16)
        assert traces[0].scales.tolist() == [[3.0], [3.0]]
        pipe.scheduler = diffusers.IPNDMScheduler()
        with Refuses(pipe, "`scheduler` IPNDMScheduler is not supported"):
            pipe("a red circle", **SIZE)


def test_a_pipeline_without_text(stock):
    pipe = diffusers.DDPMPipeline(stock("sd").unet, diffusers.DDPMScheduler())
    with (
        Refuses(pipe, "`pipe` must be a diffusers pipeline with a guidance scale, got DDPMPipeline"),
        guide(pipe, search()),
    ):
        pipe()


def test_a_guide_that_is_never_entered_says_so(stock):
    pipe = stock("sd")
    with pytest.warns(RuntimeWarning, match="outside a `with` statement, so nothing was guided"):
        guide(pipe, search())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with guide(pipe, Static(3.0)):
            pass
    stopped = guide(pipe, Static(3.0))
    with pytest.raises(RuntimeError, match="mine"), stopped:
        raise RuntimeError("mine")
