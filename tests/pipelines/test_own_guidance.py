"""The pipeline's own guidance is read at every step, and a pipeline that guides otherwise is told, not overwritten."""

import itertools
import warnings

import diffusers
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import pipelines
from guidance import Decision, GreedySearch, GuidanceTrace, NoiseSearch, Static
from pipelines import guide
from pipelines import run as run_module

SIZE = {"height": 16, "width": 16, "output_type": "latent", "num_inference_steps": 6}
PROMPT = ["two red circles", "a blue star"]


class Leave:
    def decide(self, step):
        return Decision(None, {})


def calm(candidates, context):
    return -candidates.flatten(2).std(2)


def call(pipe, **kwargs):
    return pipe(PROMPT, generator=torch.Generator().manual_seed(0), **{"guidance_scale": 5.0} | SIZE | kwargs).images


def changes_scale(pipe, i, timestep, tensors):
    """The documented way to change the scale on the way."""
    pipe._guidance_scale = 5.0 - i / 2
    return {}


@pytest.mark.parametrize("host", ["sd", "sdxl", "sd3"])
def test_a_callback_that_changes_the_scale_is_followed(stock, host):
    pipe = stock(host)
    expected = call(pipe, callback_on_step_end=changes_scale)
    with guide(pipe, Leave()) as traces:
        assert torch.equal(call(pipe, callback_on_step_end=changes_scale), expected)
    assert traces[0].scales[:, 0].tolist() == [5.0, 5.0, 4.5, 4.0, 3.5, 3.0]
    # A search that cannot tell anything leaves the pipeline's own scale, that of now.
    with guide(pipe, GreedySearch([lambda c, context: torch.zeros(c.shape[:2])], (1.0, 9.0))) as traces:
        assert torch.allclose(call(pipe, callback_on_step_end=changes_scale), expected, atol=1e-5)
    assert traces[0].scales[:, 0].tolist() == [5.0, 5.0, 4.5, 4.0, 3.5, 3.0]


def test_draws_are_compared_at_the_scale_of_now(stock):
    pipe, seen = stock("sd"), []

    def watch(candidates, context):
        seen.append(context.timestep)
        return calm(candidates, context)

    watch.space = "noisy"
    with guide(pipe, NoiseSearch([watch], noises=2)) as traces:
        call(pipe, callback_on_step_end=changes_scale, eta=1.0)
    assert traces[0].scales[:, 0].tolist() == [5.0, 5.0, 4.5, 4.0, 3.5, 3.0]


@pytest.mark.parametrize("rescales", [(0.1, 0.2, 0.3, 0.4, 0.5), (0.4, 0.2, 0.0, 0.0, 0.3)])
def test_a_callback_that_changes_the_rescale_is_followed(stock, rescales):
    def change(pipe, i, timestep, tensors):
        pipe._guidance_rescale = (*rescales, 0.0)[i]
        return {}

    pipe = stock("sd")
    expected = call(pipe, guidance_scale=3.0, guidance_rescale=0.5, callback_on_step_end=change)
    with guide(pipe, Static(3.0)):
        found = call(pipe, guidance_rescale=0.5, callback_on_step_end=change)
    assert torch.equal(found, expected)


class Changing(diffusers.StableDiffusionPipeline):
    """Guides as everybody does, and after two steps otherwise."""

    def encode_prompt(self, *args, **kwargs):
        self.count = 0
        return super().encode_prompt(*args, **kwargs)

    @torch.no_grad()
    def __call__(self, prompt, guidance_scale=5.0, generator=None, num_inference_steps=6, **kwargs):
        positive, negative = self.encode_prompt(prompt, "cpu", 1, True)
        embeds, latents = torch.cat([negative, positive]), torch.randn(len(prompt), 4, 8, 8, generator=generator)
        self.scheduler.set_timesteps(num_inference_steps)
        for i, t in enumerate(self.scheduler.timesteps):
            u, c = self.unet(torch.cat([latents] * 2), t, embeds).sample.chunk(2)
            guided = u + guidance_scale * (c - u) + (i > 2) * 0.1 * u.flip(0)
            latents = self.scheduler.step(guided, t, latents).prev_sample
        return diffusers.pipelines.stable_diffusion.StableDiffusionPipelineOutput(latents, None)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_pipeline_that_changes_its_formula_is_not_overwritten(stock, at_once, monkeypatch):
    """At once where that is free to see, else at the end of the call."""
    pipe = Changing(**stock("sd").components, requires_safety_checker=False)
    monkeypatch.setattr(run_module, "free_to_read", lambda tensor: at_once)
    with guide(pipe, Static(2.0)) as traces, pytest.raises(ValueError, match="does not guide by u"):
        call(pipe)
    assert len(traces[0].steps) == (3 if at_once else 6)


@pytest.mark.parametrize("at", [0, 2])
def test_a_denoiser_that_returns_nan_is_named_and_the_trace_is_whole(stock, at, tmp_path):
    pipe, steps = stock("sd"), itertools.count()

    def break_a_row(module, args, output):
        if next(steps) >= at:
            output[0][0] = torch.nan

    hook = pipe.unet.register_forward_hook(break_a_row)
    with warnings.catch_warnings(record=True) as caught, guide(pipe, GreedySearch([calm], (1.0, 5.0))) as traces:
        warnings.simplefilter("always")
        call(pipe)
    hook.remove()
    said = [str(warning.message) for warning in caught]
    assert f"the denoiser UNet2DConditionModel returned values that are not finite, first at step {at}" in said
    assert not any("evaluators" in text for text in said)
    trace = traces[0]
    trace.to_json(tmp_path / "trace.json")
    for held in (trace, GuidanceTrace.from_json(tmp_path / "trace.json")):
        assert len(held.to_pandas()) == 12
        held.plot(tmp_path / "trace.png")
        held.sample(0).plot(tmp_path / "trace.png")


class Syncs(TorchDispatchMode):
    """Counts what waits for a device: a number read, a tensor brought to the CPU."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket._qualified_op_name
        to_cpu = name == "aten::_to_copy" and (kwargs or {}).get("device") == torch.device("cpu")
        self.count += name in ("aten::_local_scalar_dense", "aten::equal", "aten::nonzero") or to_cpu
        return func(*args, **kwargs or {})


def syncs_of_steps(pipe, guidance, **kwargs):
    """Of each step after the first, beyond the stock pipeline's: what the host's loop does itself does not count."""
    counts = []

    def read(pipe, i, timestep, tensors):
        counts.append(mode.count)
        return {}

    with Syncs() as mode:
        if guidance is None:
            call(pipe, callback_on_step_end=read, **kwargs)
        else:
            with guide(pipe, guidance):
                call(pipe, callback_on_step_end=read, **kwargs)
    return [b - a for a, b in itertools.pairwise(counts)]


@pytest.mark.parametrize("host", ["sd", "sdxl", "sd3"])
def test_no_step_after_the_first_waits_for_the_device(stock, host, monkeypatch):
    """As on a GPU, where looking at a value is not free."""
    monkeypatch.setattr(run_module, "free_to_read", lambda tensor: False)
    pipe = stock(host)
    own = syncs_of_steps(pipe, None)
    noisy = lambda c, context: calm(c, context)  # noqa: E731
    noisy.space = "noisy"
    assert syncs_of_steps(pipe, GreedySearch([calm], (1.0, 5.0))) == own
    # With the scheduler's own steps for candidates, which are two more a step.
    steps = syncs_of_steps(pipe, GreedySearch([calm, noisy], (1.0, 5.0)))
    assert all(found == 3 * stock_ for found, stock_ in zip(steps, own, strict=True)), (steps, own)


def test_what_a_search_over_noise_waits_for(stock, monkeypatch):
    """Each step, however many draws: two steps of the scheduler more, which waits itself, and whether the draws differ
    at all."""
    monkeypatch.setattr(run_module, "free_to_read", lambda tensor: False)
    noisy = lambda c, context: calm(c, context)  # noqa: E731
    noisy.space = "noisy"
    own = syncs_of_steps(stock("sd"), None, eta=1.0)
    for noises in (3, 6):
        found = syncs_of_steps(stock("sd"), NoiseSearch([noisy], noises=noises), eta=1.0)
        assert found == [3 * waits + 1 for waits in own]


def test_the_classes_know_their_host(stock, folder):
    for name in pipelines.DYNAMIC:
        cls = getattr(pipelines, name)
        assert cls.__qualname__ == name and cls.__name__ == name.removeprefix("DynamicGuidance")
