"""The search as a guider in every family of modular pipelines that calls one."""

import diffusers.modular_pipelines.krea2.encoders as krea2
import pytest
import torch
from checks import Watched
from diffusers import ModularPipeline
from diffusers.guiders import ClassifierFreeGuidance, LTX2Guidance
from diffusers.modular_pipelines.wan.denoise import WanLoopAfterDenoiser
from host import PROMPTS
from modular_cases import FAMILIES, STEPS

from guidance import GreedySearch, Static
from pipelines import OnlineGuider

OWN, CHOSEN, SCALES = 3.0, 6.0, (2.0, 4.0, 8.0)
CASES = [pytest.param(f, id=f.name, marks=() if f.common else pytest.mark.slow) for f in FAMILIES]


@pytest.fixture(autouse=True)
def few_layers(monkeypatch):
    """Krea 2's modular pipeline reads its text at layers up to the 36th, and cannot be told otherwise."""
    monkeypatch.setattr(krea2, "KREA2_TEXT_ENCODER_SELECT_LAYERS", (1, 2))


def by_name(name):
    return next(family for family in FAMILIES if family.name == name)


def stock(family, scale):
    """The family's own guider."""
    return LTX2Guidance(scale) if family.module == "ltx2" else ClassifierFreeGuidance(scale, **family.guider)


@pytest.mark.parametrize("family", CASES)
def test_one_scale_is_the_stock_guider(family):
    pipe = family.make()
    own, expected = (family.run(pipe, stock(family, scale)) for scale in (OWN, CHOSEN))
    assert not torch.equal(own, expected), "the scale has no effect: nothing is tested"
    guider = OnlineGuider(Static(CHOSEN), pipe.scheduler, guidance_scale=OWN, **family.guider)
    for _ in range(2):
        found = family.run(pipe, guider)
        assert torch.equal(found, expected) if family.exact else torch.allclose(found, expected, atol=1e-4)
    assert [trace.scales.unique().tolist() for trace in guider.traces] == [[CHOSEN]] * 2
    assert guider.traces[0].scales.shape[1] == family.batch
    assert "step" not in pipe.scheduler.__dict__


@pytest.mark.parametrize("family", CASES)
def test_a_search(family):
    pipe, watched = family.make(), [Watched("noisy"), Watched("denoised")]
    search = GreedySearch(watched, SCALES)
    guider = OnlineGuider(search, pipe.scheduler, PROMPTS[: family.batch], guidance_scale=OWN, **family.guider)
    family.run(pipe, guider)
    (trace,) = guider.traces
    assert set(trace.scales.unique().tolist()) <= {*SCALES, OWN}
    shapes = {shape for evaluator in watched for shape in evaluator.shapes}
    assert (family.batch, len(SCALES), *family.shape) in shapes, shapes
    assert len({len(shape) for shape in shapes}) == 1 and len(trace.scales) >= STEPS // 2
    assert "step" not in pipe.scheduler.__dict__


@pytest.mark.parametrize("own", [1.0, OWN])
@pytest.mark.parametrize("name, rescale", [("sdxl", 0.7), ("qwenimage", 0.0), ("qwenimage", 0.7), ("krea2", 0.7)])
def test_rescales_are_kept(name, rescale, own):
    """The guider's own, and the pipeline's after it; also where the pipeline's own scale shows nothing of them."""
    family = by_name(name)
    pipe, options = family.make(), family.guider | {"guidance_rescale": rescale}
    expected = family.run(pipe, ClassifierFreeGuidance(CHOSEN, **options))
    assert not torch.equal(expected, family.run(pipe, ClassifierFreeGuidance(CHOSEN))) or name == "qwenimage"
    guider = OnlineGuider(Static(CHOSEN), pipe.scheduler, guidance_scale=own, **options)
    assert torch.equal(family.run(pipe, guider), expected)


def test_a_scale_of_one_is_not_renormalised_where_the_pipeline_does_not():
    family = by_name("qwenimage21")
    pipe = family.make()
    expected = family.run(pipe, ClassifierFreeGuidance(CHOSEN))
    assert torch.equal(family.run(pipe, OnlineGuider(Static(CHOSEN), pipe.scheduler, guidance_scale=1.0)), expected)


def test_two_guiders():
    """Wan 2.2: the second takes over where little noise is left."""
    family = by_name("wan-2.2")
    pipe = family.make()
    scheduler = pipe.scheduler

    def run(first, second):
        pipe.update_components(guider_2=second)
        pipe._component_specs.pop("guider_2")  # else both become one
        try:
            return family.run(pipe, first)
        finally:
            pipe._component_specs["guider_2"] = pipe._component_specs["guider"]

    expected = run(ClassifierFreeGuidance(CHOSEN), ClassifierFreeGuidance(OWN))
    guiders = [OnlineGuider(Static(scale), scheduler, guidance_scale=2.0) for scale in (CHOSEN, OWN)]
    assert torch.equal(run(*guiders), expected)
    first, second = (guider.traces[0] for guider in guiders)
    assert len(first.steps) + len(second.steps) == STEPS and len(second.steps) > 0
    levels = [step["noise_level"] for step in [*first.steps, *second.steps]]
    assert levels == sorted(levels, reverse=True) and len(set(levels)) == STEPS
    assert torch.equal(run(OnlineGuider(Static(CHOSEN), scheduler), ClassifierFreeGuidance(OWN)), expected)


def test_refused():
    family = by_name("ltx-i2v")
    pipe = family.make()
    cut = OnlineGuider(Static(CHOSEN), pipe.scheduler, guidance_rescale=0.5)
    with pytest.raises(ValueError, match="measured on tokens that LTXModularPipeline leaves out afterwards"):
        family.run(pipe, cut)
    assert cut.traces == [] and "step" not in pipe.scheduler.__dict__
    pipe.update_components(scheduler=type(pipe.scheduler).from_config(pipe.scheduler.config))
    with pytest.raises(ValueError, match="`scheduler` is not that of the pipeline"):
        family.run(pipe, OnlineGuider(Static(CHOSEN), cut.scheduler))
    assert "step" not in cut.scheduler.__dict__ and "step" not in pipe.scheduler.__dict__


@pytest.fixture
def between(monkeypatch):
    """Has a function make something of Wan's prediction between its guider and its scheduler."""
    step = WanLoopAfterDenoiser.__call__

    def put(function):
        def call(self, components, block_state, i, t):
            block_state.noise_pred = function(block_state.noise_pred)
            return step(self, components, block_state, i=i, t=t)

        monkeypatch.setattr(WanLoopAfterDenoiser, "__call__", call)

    return put


def test_a_pipeline_that_does_something_else_is_refused(between):
    family = by_name("wan")
    pipe = family.make()
    between(lambda prediction: prediction / 2)
    with pytest.raises(ValueError, match="WanModularPipeline makes of its guider's prediction what is not known here"):
        family.run(pipe, OnlineGuider(Static(CHOSEN), pipe.scheduler))
    assert "step" not in pipe.scheduler.__dict__


def test_after_an_interrupted_call(between):
    """Nothing of a call that ended between the guider and the step is left in the next one, guided or not."""
    family = by_name("wan")
    pipe = family.make()
    expected, own = (family.run(pipe, ClassifierFreeGuidance(scale)) for scale in (CHOSEN, OWN))
    guider = OnlineGuider(Static(CHOSEN), pipe.scheduler)

    def interrupt(prediction):
        raise KeyboardInterrupt

    for following, latents in ((guider, expected), (ClassifierFreeGuidance(OWN), own)):
        between(interrupt)
        with pytest.raises(KeyboardInterrupt):
            family.run(pipe, guider)
        between(lambda prediction: prediction)
        assert torch.equal(family.run(pipe, following), latents)
        assert "step" not in pipe.scheduler.__dict__
    assert len(guider.traces) == 1


def test_disabled_it_is_the_stock_guider():
    family = by_name("z-image")
    pipe = family.make()
    stocks = [ClassifierFreeGuidance(OWN), ClassifierFreeGuidance(OWN, enabled=False)]
    guider = OnlineGuider(Static(CHOSEN), pipe.scheduler, guidance_scale=OWN)
    guider.disable()
    assert torch.equal(family.run(pipe, guider), family.run(pipe, stocks[1])) and guider.traces == []
    guider.enable()
    guider.guidance = None
    assert torch.equal(family.run(pipe, guider), family.run(pipe, stocks[0])) and guider.traces == []


def test_one_trace_for_all_chunks_and_nothing_kept():
    family = by_name("helios")
    pipe = family.make()
    guider = OnlineGuider(Static(CHOSEN), pipe.scheduler)
    family.run(pipe, guider, num_frames=17)
    (trace,) = guider.traces
    assert len(trace.steps) > STEPS and len(trace.steps) % STEPS == 0
    assert guider.state() is None, "the tensors of a call outlive it"


class Bright:
    """A judge of pictures."""

    name, space, needs_prompt, in_channels, calibration, video = "bright", "pixels", False, None, None, True

    def __init__(self):
        self.shapes = set()

    def __call__(self, pictures, context):
        self.shapes.add(tuple(pictures.shape[2:]))
        return pictures.flatten(2).mean(2)


def test_judges_of_pictures():
    family, bright = by_name("sdxl"), Bright()
    pipe = family.make()
    family.run(pipe, OnlineGuider(GreedySearch([bright], SCALES), pipe.scheduler, preview="linear"))
    assert {shape[0] for shape in bright.shapes} == {3}


def test_saves_and_loads(tmp_path):
    family = by_name("sdxl")
    pipe = family.make()
    guider = OnlineGuider(Static(CHOSEN), pipe.scheduler, PROMPTS, guidance_scale=OWN, guidance_rescale=0.3)
    expected = family.run(pipe, guider)
    guider.save_pretrained(tmp_path / "guider")
    loaded = OnlineGuider.from_pretrained(tmp_path / "guider")
    assert (loaded.guidance_scale, loaded.guidance_rescale) == (OWN, 0.3) and loaded.guidance is loaded.prompt is None
    assert not loaded.active and loaded.num_conditions == 2
    loaded.guidance = Static(CHOSEN)
    with pytest.raises(ValueError, match="`scheduler` is not that of the pipeline"):
        family.run(pipe, loaded)
    loaded.scheduler, loaded.prompt = pipe.scheduler, PROMPTS
    assert torch.equal(family.run(pipe, loaded), expected) and loaded.traces[0].prompt == PROMPTS
    assert guider.new(guidance_scale=2.0).guidance_scale == 2.0


def test_a_pipeline_that_holds_one_saves_and_loads(tmp_path):
    """diffusers saves no guiders within pipelines: the loaded one has its default, and takes ours again."""
    family = by_name("sdxl")
    pipe = family.make()
    guider = OnlineGuider(Static(CHOSEN), pipe.scheduler)
    expected = family.run(pipe, guider)
    pipe.save_pretrained(str(tmp_path), overwrite_modular_index=True)
    loaded = ModularPipeline.from_pretrained(tmp_path)
    loaded.load_components()
    assert type(loaded.guider) is ClassifierFreeGuidance
    guider.scheduler = loaded.scheduler
    assert torch.equal(family.run(loaded, guider), expected)
