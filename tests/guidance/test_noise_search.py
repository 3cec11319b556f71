"""The search over the sampler's noise: what is chosen, that the sampler adds it, and what is refused."""

import pytest
import torch
from diffusers import DDIMScheduler, EulerAncestralDiscreteScheduler, FlowMatchEulerDiscreteScheduler, PNDMScheduler
from PIL import Image

from guidance import Budget, NoiseSearch, Static
from pipelines import guide

PROMPTS = ["a red circle", "two blue squares"]
STOCHASTIC = {
    "ddim": (DDIMScheduler, {"eta": 1.0}),
    "euler-ancestral": (EulerAncestralDiscreteScheduler, {}),
}


def level(candidates, context):
    """Higher where the latents are."""
    return candidates.mean(dim=(2, 3, 4))


level.space = "noisy"


def call(pipe, prompts=PROMPTS, **kwargs):
    options = {"num_inference_steps": 4, "guidance_scale": 3.0, "output_type": "latent"}
    return pipe(prompts, **options | kwargs).images


def generators(seed=0):
    return [torch.Generator().manual_seed(seed + i) for i in range(len(PROMPTS))]


@pytest.fixture(params=[None, (3.5,), (2.0, 4.0)], ids=["own", "one", "two"])
def scales(request):
    return request.param


@pytest.fixture(params=STOCHASTIC)
def host(request, stock, monkeypatch):
    cls, options = STOCHASTIC[request.param]
    pipe = stock("sd")
    monkeypatch.setattr(pipe, "scheduler", cls.from_config(pipe.scheduler.config))
    return pipe, options


def test_the_sampler_adds_the_noise_that_was_chosen(host, scales):
    """What comes out of each step is the best candidate that was shown: of the draws, or with it of the scales."""
    pipe, options = host
    best, seen = [], []

    def watched(candidates, context):
        scores = level(candidates, context)
        best.append(scores.amax(1))
        return scores

    watched.space = "noisy"

    def keep(pipe, index, timestep, tensors):
        seen.append(tensors["latents"])
        return {}

    with guide(pipe, NoiseSearch([watched], scales, noises=5)) as traces:
        call(pipe, generator=generators(), callback_on_step_end=keep, **options)
    asked = [step["noise_levels"]["watched"] for step in traces[0].steps if "noise" in step]
    # DDIM, as it is set here, adds noise at the last step as well.
    assert len(asked) == len(traces[0].steps) - (not isinstance(pipe.scheduler, DDIMScheduler))
    of_each = best[1:] if scales is None or len(scales) == 1 else best[2::2]  # the first was the check
    for latents, expected, noise_level in zip(seen, of_each, asked, strict=False):
        # Evaluators see unit variance: of Euler's latents sqrt(1 + sigma²) is taken out.
        norm = 1.0 if isinstance(pipe.scheduler, DDIMScheduler) else (1 - noise_level**2) ** -0.5
        torch.testing.assert_close(latents.mean(dim=(1, 2, 3)), expected * norm, atol=2e-4, rtol=1e-3)
    assert traces[0].scales.unique().tolist() == {None: [3.0], (3.5,): [3.5], (2.0, 4.0): [2.0, 4.0]}[scales]
    assert len({int(n) for step in traces[0].steps[:-1] for n in step["noise"]}) > 1


def test_the_search_reaches_more_than_one_draw_does(host):
    pipe, options = host
    plain = call(pipe, generator=generators(), **options).mean(dim=(1, 2, 3))
    with guide(pipe, NoiseSearch([level], [3.0], noises=8)):
        searched = call(pipe, generator=generators(), **options).mean(dim=(1, 2, 3))
    assert (searched > plain).all()


def test_a_picture_can_be_made_again_alone(host):
    """With a generator for each row the draws of one do not depend on the others in its batch."""
    pipe, options = host
    search = NoiseSearch([level], [2.0, 3.0], noises=3)
    with guide(pipe, search):
        both = call(pipe, generator=generators(), **options)
        alone = call(pipe, PROMPTS[1:], generator=generators()[1:], **options)
        other = call(pipe, generator=generators(5), **options)
    torch.testing.assert_close(both[1:], alone, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(both, other)
    torch.manual_seed(3)
    with guide(pipe, search):
        without = call(pipe, generator=None, **options)
        torch.manual_seed(3)
        torch.testing.assert_close(without, call(pipe, generator=None, **options))


def test_the_record(stock):
    """Of the draws at the pipeline's own scale, then of the scales with the draw that was chosen."""
    with guide(stock("sd"), NoiseSearch([level], [1.0, 3.0, 4.0], noises=4)) as traces:
        call(stock("sd"), generator=generators(), eta=1.0)
    trace = traces[0]
    step = trace.steps[0]
    assert step["total"].shape == step["scores"]["level"].shape == (2, 3) and step["noise"].shape == (2,)
    assert step["noise_total"].shape == step["noise_scores"]["level"].shape == (2, 4)
    assert torch.equal(trace.scales[0], torch.tensor(trace.candidates)[step["total"].argmax(1)])
    assert torch.equal(step["noise"], step["noise_scores"]["level"].argmax(1))
    torch.testing.assert_close(step["scores"]["level"][:, 1], step["noise_scores"]["level"].amax(1))  # at 3, its own
    alone = trace.sample(1).steps[0]
    assert alone["noise"].tolist() == step["noise"][1:].tolist()
    assert alone["noise_scores"]["level"].tolist() == step["noise_scores"]["level"][1:].tolist()
    assert trace.to_dict()["steps"][0]["noise"] == step["noise"].tolist()
    assert trace.to_pandas()["noise"].tolist()[:2] == step["noise"].tolist()


@pytest.mark.parametrize("own, column", [(7.5, 2), (1.2, 0), (3.0, 1)])
def test_draws_are_compared_at_a_scale_that_may_be_chosen(stock, own, column):
    """The pipeline's own, or the candidate next to it."""
    with guide(stock("sd"), NoiseSearch([level], [2.0, 3.0, 4.0], noises=4)) as traces:
        call(stock("sd"), generator=generators(), eta=1.0, guidance_scale=own)
    for step in traces[0].steps[:-1]:
        torch.testing.assert_close(step["scores"]["level"][:, column], step["noise_scores"]["level"].amax(1))


def test_only_those_that_read_noisy_latents_are_asked_about_draws(stock):
    """Predictions of the clean latents are the same for all draws, up to rounding, which uncalibrated evaluators would
    take for a difference."""
    seen = []

    def clean(candidates, context):
        seen.append(candidates.shape[1])
        return candidates.flatten(2).std(2)

    with guide(stock("sd"), NoiseSearch([level, clean], [1.0, 3.0, 4.0], noises=5)) as traces:
        call(stock("sd"), generator=generators(), eta=1.0)
    assert seen[1:] == [3] * 4, "the first was the check"
    step = traces[0].steps[0]
    assert set(step["noise_scores"]) == {"level"} and set(step["scores"]) == {"level", "clean"}
    assert torch.equal(step["noise"], step["noise_scores"]["level"].argmax(1))


def test_without_scales_the_pipeline_keeps_its_own(stock):
    """Whatever that is at each step, also between searches."""

    def raised(pipe, index, timestep, tensors):
        pipe._guidance_scale = 9.0
        return {}

    pipe = stock("sd")
    for every in (1, 2):
        with guide(pipe, NoiseSearch([level], noises=3, every=every)) as traces:
            plain = call(pipe, generator=generators(), eta=1.0)
            changed = call(pipe, generator=generators(), eta=1.0, callback_on_step_end=raised)
        assert not torch.allclose(plain, changed, atol=1e-3)
        assert [i for i, step in enumerate(traces[0].steps) if "noise" in step] == list(range(0, 4, every))


def test_the_record_without_scales(stock, tmp_path):
    with guide(stock("sd"), NoiseSearch([level], noises=4)) as traces:
        call(stock("sd"), generator=generators(), eta=1.0)
    trace = traces[0]
    step = trace.steps[0]
    assert "total" not in step and trace.candidates == () and step["weights"] == {"level": 1.0}
    assert trace.to_pandas()["level"].tolist()[:2] == pytest.approx(
        step["noise_total"]
        .new_tensor([float(values[n]) for values, n in zip(step["noise_scores"]["level"], step["noise"], strict=True)])
        .tolist()
    )
    trace.plot(tmp_path / "schedule.png")
    for record in trace.steps:
        record.pop("noise_total")
    trace.plot(tmp_path / "bare.png")
    heights = [Image.open(tmp_path / f"{name}.png").height for name in ("schedule", "bare")]
    assert heights[0] > heights[1], "draws are shown below the schedule"


def test_an_evaluator_that_fails_is_named(stock):
    def failing(candidates, context):
        return level(candidates, context) * (torch.nan if context.noise_level < 0.9 else 1.0)

    failing.space = "noisy"
    with pytest.warns(UserWarning, match="failing"), guide(stock("sd"), NoiseSearch([failing, level], noises=3)):
        call(stock("sd"), generator=generators(), eta=1.0)


def test_no_more_passes_and_within_a_budget(stock):
    pipe = stock("sd")
    with guide(pipe, NoiseSearch([level], [1.0, 3.0], noises=4)) as traces:
        call(pipe, generator=generators(), eta=1.0)
    assert traces[0].nfe.tolist() == [8, 8]
    with guide(pipe, Budget(NoiseSearch([level], [1.0, 3.0], noises=4), 10.0)) as traces:
        call(pipe, generator=generators(), eta=1.0)
    assert max(traces[0].nfe.tolist()) < 8 and "noise" in traces[0].steps[0]


def test_where_it_does_not_search_it_is_the_pipeline(stock):
    pipe = stock("sd")
    plain = call(pipe, generator=generators(), eta=1.0)
    with guide(pipe, NoiseSearch([level], [1.0, 3.0], start=0.99)):
        late = call(pipe, generator=generators(), eta=1.0)
    with guide(pipe, Static(3.0)):
        torch.testing.assert_close(call(pipe, generator=generators(), eta=1.0), plain)
    assert not torch.equal(late, plain) and (late - plain).abs().mean() < (plain - plain.flip(0)).abs().mean() / 10


@pytest.mark.parametrize(
    "kind, scheduler, options",
    [("sd", DDIMScheduler, {}), ("sd", PNDMScheduler, {}), ("sd3", FlowMatchEulerDiscreteScheduler, {})],
)
def test_refuses_a_scheduler_without_noise(stock, monkeypatch, kind, scheduler, options):
    pipe = stock(kind)
    monkeypatch.setattr(pipe, "scheduler", scheduler.from_config(pipe.scheduler.config))
    match = f"`scheduler` {scheduler.__name__} adds no noise at this step"
    with pytest.raises(ValueError, match=match), guide(pipe, NoiseSearch([level], [1.0, 3.0])):
        call(pipe, **options)


@pytest.mark.parametrize(
    "arguments, match",
    [
        ({"noises": 1}, "`noises` must be an integer of at least 2, got 1"),
        ({"noises": 2.0}, "`noises` must be an integer of at least 2, got 2.0"),
        ({"evaluators": [lambda candidates, context: 0]}, "`evaluators` has none that reads noisy latents"),
        ({"evaluators": []}, "`evaluators` is empty"),
        ({"evaluators": [], "scales": [3.0]}, "`evaluators` has none that reads noisy latents"),
        ({"every": 0}, "`every` must be an integer of at least 1"),
    ],
)
def test_refuses(arguments, match):
    with pytest.raises(ValueError, match=match):
        NoiseSearch(**{"evaluators": [level]} | arguments)
