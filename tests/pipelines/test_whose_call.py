"""A run begins and ends with the call it belongs to: other pipelines, callbacks, threads and copies are not touched."""

import copy
import pickle
import threading

import diffusers
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline

from guidance import Budget, GreedySearch, Interval, Static
from pipelines import guide

SIZE = {"height": 16, "width": 16, "output_type": "latent", "num_inference_steps": 4}
PROMPT = ["two red circles", "a blue star"]


def calm(candidates, context):
    return -candidates.flatten(2).std(2)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def call(pipe, seed=0, **kwargs):
    return pipe(PROMPT, generator=seeded(seed), **{"guidance_scale": 5.0} | SIZE | kwargs).images


@pytest.fixture
def pipe(stock):
    pipe = StableDiffusionPipeline(**stock("sd").components, requires_safety_checker=False)
    pipe.scheduler = copy.deepcopy(pipe.scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def relative(pipe):
    """Image to image from the same components, the scheduler too."""
    relative = StableDiffusionImg2ImgPipeline.from_pipe(pipe)
    relative.set_progress_bar_config(disable=True)
    return lambda: (
        relative(
            PROMPT, image=torch.zeros(2, 3, 16, 16), generator=seeded(), guidance_scale=5.0, output_type="latent"
        ).images
    )


def test_a_relative_called_inside_guide_is_the_stock_one(pipe, relative):
    expected, guided = relative(), call(pipe, guidance_scale=2.0)
    with guide(pipe, Static(2.0)) as traces:
        assert torch.equal(call(pipe), guided)
        assert torch.equal(relative(), expected)
        assert torch.equal(call(pipe), guided)
    assert [len(trace.steps) for trace in traces] == [4, 4]


def stop_after(index):
    def stop(pipe, i, timestep, tensors):
        if i == index:
            raise KeyboardInterrupt
        return {}

    return stop


def interrupt(pipe, i, timestep, tensors):
    pipe._interrupt = True
    return {}


@pytest.mark.parametrize("ends", ["error", "interrupt"])
@pytest.mark.parametrize("guidance", [Interval(5.0, 0.0, 0.3), Budget(Static(5.0), tolerance=9.0)])
def test_a_call_that_ends_early_leaves_nothing(pipe, relative, guidance, ends):
    """Passes left out of the next step must not be left out of somebody else's."""
    expected = relative()
    with guide(pipe, guidance) as traces:
        if ends == "error":
            with pytest.raises(KeyboardInterrupt):
                call(pipe, callback_on_step_end=stop_after(1))
        else:
            call(pipe, callback_on_step_end=interrupt)
        assert len(traces) == 1 and "_compiled_call_impl" not in pipe.unet.__dict__
        assert "step" not in pipe.scheduler.__dict__
        assert torch.equal(relative(), expected)


def test_what_a_callback_runs_is_not_guided(pipe, relative, stock):
    """Another pipeline on the same models, and the denoiser itself."""
    other = StableDiffusionPipeline(**stock("sd").components, requires_safety_checker=False)
    other.scheduler = copy.deepcopy(pipe.scheduler)
    other.set_progress_bar_config(disable=True)
    expected, guided = call(other), call(pipe, guidance_scale=2.0)
    latents = torch.ones(2, 4, 8, 8)
    embeds = torch.ones(2, 3, 16)
    with torch.no_grad():
        alone = pipe.unet(latents, 5, embeds).sample
    found = []

    def run(pipe, i, timestep, tensors):
        found.append((call(other), pipe.unet(latents, 5, embeds).sample))
        return {}

    with guide(pipe, GreedySearch([calm], (2.0,))) as traces:
        assert torch.equal(call(pipe, callback_on_step_end=run), guided)
    assert len(found) == 4 and all(torch.equal(a, expected) and torch.equal(b, alone) for a, b in found)
    assert [len(trace.steps) for trace in traces] == [4]


def test_an_evaluator_may_run_the_denoiser(pipe):
    def asks(candidates, context):
        flat = candidates.flatten(0, 1)
        out = pipe.unet(flat, 5, torch.ones(len(flat), 3, 16)).sample
        return -out.flatten(1).std(1).view(candidates.shape[:2])

    with guide(pipe, GreedySearch([asks], (2.0, 5.0))) as traces:
        call(pipe)
    assert len(traces[0].steps) == 4


def test_threads_on_shared_models(stock):
    """Guided, guided otherwise, and not at all, at the same time: each as if it were alone."""
    made = []
    for _ in range(3):
        pipe = StableDiffusionPipeline(**stock("sd").components, requires_safety_checker=False)
        pipe.scheduler = copy.deepcopy(pipe.scheduler)
        pipe.tokenizer = copy.deepcopy(pipe.tokenizer)  # its padding is a state that stock calls race for
        pipe.set_progress_bar_config(disable=True)
        made.append(pipe)
    guidances = [GreedySearch([calm], (2.0, 6.0)), Budget(Static(3.0), tolerance=9.0), None]

    def work(pipe, guidance, results):
        for seed in range(6):
            if guidance is None:
                results.append(call(pipe, seed))
            else:
                with guide(pipe, guidance):
                    results.append(call(pipe, seed))

    alone = [[] for _ in made]
    for arguments in zip(made, guidances, alone, strict=True):
        work(*arguments)
    together = [[] for _ in made]
    threads = [threading.Thread(target=work, args=a) for a in zip(made, guidances, together, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for a, b in zip(alone, together, strict=True):
        assert len(b) == 6 and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert "_compiled_call_impl" not in made[0].unet.__dict__


def test_a_scheduler_in_use_is_refused_in_one_line(pipe, stock):
    other = StableDiffusionPipeline(**pipe.components, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)

    def run(pipe, i, timestep, tensors):
        with guide(other, Static(2.0)):
            call(other)

    with guide(pipe, Static(2.0)), pytest.raises(ValueError, match="is in use by another guided call"):
        call(pipe, callback_on_step_end=run)
    with guide(other, Static(2.0)):
        call(other)


def test_copies_made_while_guided_are_clean(pipe):
    expected, guided = call(pipe), call(pipe, guidance_scale=2.0)
    copies = []

    def make(pipe, i, timestep, tensors):
        if i == 1:
            copies.extend([copy.deepcopy(pipe.scheduler), copy.deepcopy(pipe.unet)])
        return {}

    with guide(pipe, Static(2.0)) as traces:
        copies += [copy.copy(pipe), copy.deepcopy(pipe), pickle.loads(pickle.dumps(pipe))]
        assert torch.equal(call(pipe, callback_on_step_end=make), guided)
        for made in copies[:3]:
            assert type(made) is StableDiffusionPipeline
            assert torch.equal(call(made), expected)
        scheduler, unet = copies[3:]
        scheduler.set_timesteps(3)
        step = scheduler.step(torch.ones(1, 2), scheduler.timesteps[0], torch.ones(1, 2))
        assert step.prev_sample.shape == (1, 2) and "_compiled_call_impl" not in unet.__dict__
    assert len(traces) == 1 and type(pipe) is StableDiffusionPipeline


def test_a_compiled_denoiser(stock, pipe):
    expected = call(pipe, guidance_scale=2.0)
    whole = pipe.unet
    pipe.unet = torch.compile(whole, backend="eager")
    with guide(pipe, Static(2.0)) as traces:
        torch.testing.assert_close(call(pipe), expected)
    with guide(pipe, Interval(2.0, 0.0, 0.3)):
        call(pipe)
    assert len(traces[0].steps) == 4
    pipe.unet = copy.deepcopy(whole)
    pipe.unet.compile(backend="eager")
    call(pipe)
    with guide(pipe, Budget(Static(2.0), tolerance=9.0)) as traces:
        call(pipe)
    assert traces[0].nfe.tolist() == [5, 5]
    with guide(pipe, Static(2.0)):
        torch.testing.assert_close(call(pipe), expected)


class CondFirst(diffusers.StableDiffusionPipeline):
    """A custom pipeline whose batch begins with the conditional rows."""

    @torch.no_grad()
    def __call__(self, prompt, guidance_scale, generator, num_inference_steps=4):
        positive, negative = self.encode_prompt(prompt, "cpu", 1, True)
        embeds = torch.cat([positive, negative])
        latents = torch.randn(len(prompt), 4, 8, 8, generator=generator)
        self.scheduler.set_timesteps(num_inference_steps)
        for t in self.scheduler.timesteps:
            c, u = self.unet(torch.cat([latents] * 2), t, embeds).sample.chunk(2)
            latents = self.scheduler.step(u + guidance_scale * (c - u), t, latents).prev_sample
        return latents


class WithoutLeavingOut(Interval):
    def decide(self, step):
        return super().decide(step)._replace(skip=None)


def test_the_conditional_half_may_come_first(pipe):
    custom = CondFirst(**pipe.components, requires_safety_checker=False)
    expected = custom(PROMPT, 2.0, seeded())
    with guide(custom, Static(2.0)) as traces:
        assert torch.equal(custom(PROMPT, 5.0, seeded()), expected)
    assert traces[0].scales.unique().tolist() == [2.0]
    with guide(custom, WithoutLeavingOut(5.0, 0.0, 0.3)):
        expected = custom(PROMPT, 5.0, seeded())
    with guide(custom, Interval(5.0, 0.0, 0.3)) as traces:  # rows left out are the unconditional ones
        torch.testing.assert_close(custom(PROMPT, 5.0, seeded()), expected)
    assert traces[0].nfe.tolist() == [5, 5]
