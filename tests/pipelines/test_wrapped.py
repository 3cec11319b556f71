"""What people put around a pipeline's parts, around the pipeline, and around `guide`."""

import diffusers
import pytest
import torch
from checks import CHOSEN, OWN, Watched
from hosts import HOSTS

import pipelines
from guidance import Decision, GreedySearch, Static
from pipelines import guide


class Around(torch.nn.Module):
    """A module around a denoiser, as parallel training has it: it knows nothing of the arguments."""

    def __init__(self, module):
        super().__init__()
        self.module, self.config = module, module.config

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


class FirstUnguided:
    """Guidance that has the first row unguided from the second step on, with or without its unconditional pass."""

    def __init__(self, leaves_out):
        self.leaves_out = leaves_out

    def decide(self, step):
        mask, scale = torch.arange(len(step.sample)) == 0, step.full(CHOSEN)
        if step.index > 0:
            scale[0] = step.formula.unguided
        return Decision(scale, {}, skip=mask if self.leaves_out else None)


@pytest.mark.parametrize("prompts", [1, 2])
@pytest.mark.parametrize("name", ["sd", "flux", "wan-t2v", "z-image"])
def test_a_module_around_the_denoiser(name, prompts):
    """Passes are left out where every argument has a name, else none; one prompt makes as many rows as the UNet and
    Z-Image have arguments without."""
    host = HOSTS[name]
    pipe = host.make()
    part = "unet" if getattr(pipe, "unet", None) is not None else "transformer"
    setattr(pipe, part, Around(getattr(pipe, part)))

    def run(scale):
        texts = {key: text[:prompts] for key, text in host.call().items() if isinstance(text, list)}
        generator = [torch.Generator().manual_seed(i) for i in range(prompts)]
        return host.run(pipe, scale, **texts, generator=generator)

    expected = run(CHOSEN)
    with guide(pipe, Static(CHOSEN)):
        assert torch.equal(run(OWN), expected)
    with guide(pipe, FirstUnguided(False)):
        every = run(OWN)
    with guide(pipe, FirstUnguided(True)) as traces:
        assert torch.allclose(run(OWN), every, atol=1e-3)
    assert int(traces[0].nfe.sum()) == (7 + 12 * (prompts - 1) if name in ("flux", "wan-t2v") else 12 * prompts)


def test_a_step_put_in_the_place_of_the_schedulers():
    """It is called, whatever it says of its arguments, and stays."""
    host, calls = HOSTS["sd"], []
    pipe = host.make()
    stock = pipe.scheduler.step

    def step(*args, **kwargs):
        calls.append(1)
        return stock(*args, **kwargs)

    pipe.scheduler.step = step
    expected, steps = host.run(pipe, CHOSEN), len(calls)
    with guide(pipe, Static(CHOSEN)):
        assert torch.equal(host.run(pipe, OWN), expected)
    assert len(calls) == 2 * steps and pipe.scheduler.step is step


def test_a_pipeline_class_of_ones_own():
    host = HOSTS["sd"]

    class Mine(diffusers.StableDiffusionPipeline):
        def __call__(self, *args, **kwargs):
            return super().__call__(*args, **kwargs)

    pipe = Mine.from_pipe(host.make())
    pipe.set_progress_bar_config(disable=True)
    expected = host.run(pipe, CHOSEN)
    with guide(pipe, Static(CHOSEN)):
        assert torch.equal(host.run(pipe, OWN), expected)


def test_guide_around_one_of_our_classes():
    host = HOSTS["sd"]
    pipe = pipelines.DynamicGuidanceStableDiffusionPipeline.from_pipe(host.make())
    pipe.set_progress_bar_config(disable=True)
    expected = host.run(pipe, CHOSEN)
    with guide(pipe, Static(CHOSEN)) as traces:
        assert torch.equal(host.run(pipe, OWN), expected)
        with pytest.raises(ValueError, match="already guided"):
            host.run(pipe, OWN, guidance=Static(OWN))
    assert len(traces) == 1 and pipe.guidance_trace is None
    assert torch.equal(host.run(pipe, OWN, guidance=Static(CHOSEN)), expected)


def test_guides_on_shared_models_end_in_any_order():
    host = HOSTS["sd"]
    first, second = host.make(), host.make()
    first.unet = second.unet
    expected = host.run(first, CHOSEN)
    one, two = guide(first, Static(CHOSEN)), guide(second, Static(CHOSEN))
    one.__enter__()
    two.__enter__()
    assert torch.equal(host.run(first, OWN), expected)
    one.__exit__(None, None, None)
    assert torch.equal(host.run(second, OWN), expected)
    two.__exit__(None, None, None)
    assert torch.equal(host.run(second, CHOSEN), expected) and not torch.equal(host.run(first, OWN), expected)


@pytest.mark.parametrize("name", ["sd", "sd3", "flux", "qwen-image"])
def test_an_evaluator_may_guide_another_pipeline_on_the_same_models(name):
    host, inner = HOSTS[name], []
    pipe = host.make()
    parts = pipe.components | {"scheduler": type(pipe.scheduler).from_config(pipe.scheduler.config)}
    other = type(pipe)(**parts)
    other.set_progress_bar_config(disable=True)
    expected, others = host.run(pipe, CHOSEN), host.run(other, 2.0)

    def looks(candidates, context):
        if not inner:
            with guide(other, Static(2.0)):
                inner.append(host.run(other, OWN))
            inner.append(host.run(other, 2.0))
        return -candidates.flatten(2).std(2)

    with guide(pipe, GreedySearch([looks, Watched()], (CHOSEN,))):
        found = host.run(pipe, OWN)
    assert torch.equal(found, expected) and all(torch.equal(latents, others) for latents in inner)
