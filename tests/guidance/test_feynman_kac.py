"""Feynman–Kac steering against the paper's recursion in plain Python, and rows that change places in schedulers."""

import math

import diffusers
import numpy as np
import pytest
import torch

from evaluators.base import FunctionEvaluator
from guidance import Decision, DenoisingStep, FeynmanKac
from pipelines import guide

PROMPTS = ["two red circles", "a blue star"]
P = 3


def contrast(candidates, context):
    return candidates.flatten(2).std(2)


class Step(DenoisingStep):
    """A step whose candidates hold their row's number."""

    def candidates(self, scales, space):
        assert scales == (5.0,)
        return torch.arange(len(self.sample)).float().view(-1, 1, 1, 1, 1).expand(-1, 1, 4, 2, 2)


def step(index, num_steps, rows, **kwargs):
    values = dict.fromkeys(DenoisingStep.__dataclass_fields__) | {
        "sample": torch.zeros(rows, 4, 2, 2),
        "timestep": torch.tensor(500),
        "index": index,
        "num_steps": num_steps,
        "level": (0.6, 0.8),
        "next_level": (0.8, 0.6),
        "own_scale": 5.0,
        "start_index": 0,
    }
    return Step(**values | kwargs)


def plain(table, potential, strength, due, threshold, seed):
    """The rows of every step, for raw rewards ``table[step][group][particle]``."""
    generator, steps, groups = torch.Generator().manual_seed(seed), len(table), len(table[0])
    weight = [[1.0] * P for _ in range(groups)]
    history = [[[] for _ in range(P)] for _ in range(groups)]  # of every particle's ancestors: rewards, potentials
    found = []
    for t in range(steps):
        if t not in due:
            found.append(None)
            continue
        rewards = np.array(table[t])
        rewards = (rewards - rewards.mean(1, keepdims=True)) / rewards.std(1, keepdims=True)
        for g in range(groups):
            for i in range(P):
                past = history[g][i]
                r = rewards[g][i]
                if potential == "difference":
                    value = math.exp(strength * (r - (past[-1][0] if past else 0.0)))
                elif t < steps - 1:
                    value = math.exp(strength * max([r] + [p[0] for p in past]))
                else:
                    value = math.exp(strength * r) / math.prod(p[1] for p in past)
                history[g][i] = [*past, (r, value)]
                weight[g][i] *= value
        share = np.array(weight) / np.sum(weight, 1, keepdims=True)
        drawn = torch.multinomial(torch.tensor(share).float(), P, replacement=True, generator=generator).tolist()
        rows = []
        for g in range(groups):
            if 1 / (share[g] ** 2).sum() < threshold * P - 1e-4:
                history[g] = [history[g][i] for i in drawn[g]]
                weight[g] = [1.0] * P
                rows += [g * P + i for i in drawn[g]]
            else:
                rows += [g * P + i for i in range(P)]
        found.append(rows)
    return found


@pytest.mark.parametrize("potential", ["max", "difference"])
@pytest.mark.parametrize("threshold", [0.5, 0.8, 1.0])
@pytest.mark.parametrize("window, due", [({}, range(6)), ({"start": 0.2, "stop": 0.8, "every": 2}, [1, 3, 5])])
def test_as_the_paper_has_it(potential, threshold, window, due):
    table = np.random.default_rng(3).normal(size=(6, 4, P)).tolist()
    now = []
    evaluator = FunctionEvaluator(lambda candidates, context: torch.tensor(table[now[-1]]), "table")
    steering = FeynmanKac([evaluator], P, 1.5, potential, threshold=threshold, seed=7, **window)
    expected = plain(table, potential, 1.5, due, threshold, 7)
    for _ in range(2):  # the second call starts anew
        found = []
        for index in range(6):
            now.append(index)
            decision = steering.decide(step(index, 6, 4 * P))
            assert decision.scale is None and decision.prediction is None
            found.append(None if decision.rows is None else decision.rows.tolist())
        assert found == expected
    kept = [list(range(4 * P)), None]
    assert any(rows not in kept for rows in found), "some were copied"


@pytest.mark.parametrize("potential", ["max", "difference"])
def test_copies_follow_the_weights(potential):
    scores = torch.tensor([0.0, 1.0, 3.0])
    steering = FeynmanKac([lambda c, context: scores.expand(c.shape[:2])], P, 1.2, potential, threshold=1.0)
    groups = 20_000
    rows = steering.decide(step(0, 1, groups * P)).rows.view(groups, P)
    assert torch.equal(rows // P, torch.arange(groups)[:, None].expand(-1, P)), "nobody leaves a group"
    standard = (scores - scores.mean()) / scores.std(correction=0)
    share = torch.bincount((rows % P).flatten(), minlength=P) / rows.numel()
    torch.testing.assert_close(share, (1.2 * standard).softmax(0), rtol=0, atol=0.01)


def test_particles_are_the_candidates_of_their_prompt():
    seen = []

    def spy(candidates, context):
        seen.append((candidates[:, :, 0, 0, 0].tolist(), context.prompt, context.noise_level))
        return contrast(candidates, context)

    for space, level in (("denoised", 0.8), ("noisy", 0.6)):
        steering = FeynmanKac([FunctionEvaluator(spy, "spy", space)], P)
        steering.decide(step(0, 4, 2 * P, prompt=[p for p in PROMPTS for _ in range(P)]))
        assert seen[-1] == ([[0, 1, 2], [3, 4, 5]], PROMPTS, pytest.approx(level))


def test_a_particle_without_a_finite_score_dies_and_a_group_of_these_stays():
    scores = torch.tensor([[0.0, math.nan, 0.1], [math.nan] * 3])
    for potential in ("max", "difference"):
        steering = FeynmanKac([lambda c, context: scores], P, 0.1, potential, threshold=1.0)
        for index in range(4):
            rows = steering.decide(step(index, 4, 2 * P)).rows.tolist()
            assert 1 not in rows[:P] and rows[P:] == [3, 4, 5]


# ------------------------------------------------------------------------------------------------- in pipelines

SCHEDULERS = [
    diffusers.DDIMScheduler,
    diffusers.DEISMultistepScheduler,
    diffusers.DPMSolverMultistepScheduler,
    diffusers.EulerDiscreteScheduler,
    diffusers.HeunDiscreteScheduler,
    diffusers.LMSDiscreteScheduler,
    diffusers.PNDMScheduler,
    diffusers.UniPCMultistepScheduler,
]


class Take:
    """Rows change places at two steps."""

    def __init__(self, rows, at):
        self.rows, self.at = torch.tensor(rows), at

    def decide(self, step):
        return Decision(None, {}, rows=self.rows if step.index in self.at else None)


def call(pipe, prompts=PROMPTS[:1], n=P, **kwargs):
    options = {"num_inference_steps": 6, "num_images_per_prompt": n, "output_type": "latent", "height": 16, "width": 16}
    options["generator"] = torch.Generator().manual_seed(0)
    if isinstance(pipe, diffusers.FluxPipeline):
        options |= {"true_cfg_scale": 3.0, "negative_prompt": [""] * len(prompts)}
    return pipe(prompts, **options | kwargs).images


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_history_goes_with_the_rows(stock, scheduler):
    """Without noise a row is the same wherever it stands, so rows that moved are those of the stock run."""
    parts = stock("sd").components
    pipe = diffusers.StableDiffusionPipeline(**parts, requires_safety_checker=False)
    pipe.scheduler = scheduler.from_config(parts["scheduler"].config)
    pipe.set_progress_bar_config(disable=True)
    expected = call(pipe)
    with guide(pipe, Take([2, 0, 0], at=[2, 4])):
        found = call(pipe)
    torch.testing.assert_close(found, expected[[0, 2, 2]], rtol=1e-4, atol=1e-4)
    assert torch.equal(call(pipe), expected), "nothing stays"


@pytest.mark.parametrize("host", ["sdxl", "sd3", "flux"])
def test_rows_move_in_every_host(stock, host):
    pipe = stock(host)
    expected = call(pipe)
    with guide(pipe, Take([1, 1, 0], at=[3])):
        found = call(pipe)
    torch.testing.assert_close(found, expected[[1, 1, 0]], rtol=1e-4, atol=1e-4)


def test_rows_move_in_an_output_object(stock):
    from guidance.schedulers import reorder

    scheduler = diffusers.DDIMScheduler()
    scheduler.set_timesteps(4)
    sample, noise = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    output = scheduler.step(noise, 500, sample)
    moved = reorder(scheduler, output, torch.tensor([2, 2, 0]), sample.shape)
    assert type(moved) is type(output)
    assert torch.equal(moved.prev_sample, output.prev_sample[[2, 2, 0]])
    assert torch.equal(moved.pred_original_sample, output.pred_original_sample[[2, 2, 0]])


def test_steering_a_stochastic_sampler(stock):
    pipe = stock("sd")
    prompts = [p for p in PROMPTS for _ in range(P)]
    plain = call(pipe, PROMPTS, eta=1.0)
    with guide(pipe, FeynmanKac([contrast], P, 1e-3)):
        assert torch.equal(call(pipe, PROMPTS, eta=1.0), plain), "even weights change nothing, bit for bit"
    state = torch.random.get_rng_state()
    with guide(pipe, FeynmanKac([contrast], P, 3.0, start=0.3, seed=1)) as traces:
        first, second = (call(pipe, PROMPTS, eta=1.0) for _ in range(2))
    assert torch.equal(first, second) and torch.equal(torch.random.get_rng_state(), state)
    trace = traces[0]
    assert trace.prompt == prompts and trace.scales.unique().tolist() == [7.5]
    assert ["rows" in s for s in trace.steps] == [False, False, True, True, True, True]
    # The last decision's rewards are of the images themselves, in their order before it.
    rows = trace.steps[-1]["rows"]
    assert any(s["rows"].tolist() != list(range(2 * P)) for s in trace.steps[2:])
    for row in range(2 * P):
        at = row
        rewards = []
        for s in trace.steps[:1:-1]:
            at = int(s["rows"][at])
            rewards.append(float(s["reward"][at]))
        own = trace.sample(row)
        assert [float(s["reward"][0]) for s in own.steps[:1:-1]] == rewards and own.prompt == prompts[row : row + 1]
    assert len({tuple(x.flatten().tolist()) for x in first}) == len(set(rows.tolist()))


def test_strong_steering_raises_what_it_is_steered_by(stock):
    def reward(candidates, context):
        return candidates.flatten(2).mean(2)

    pipe, gains = stock("sd"), []
    for seed in range(4):
        options = {"n": 4, "eta": 1.0}
        plain = call(pipe, generator=torch.Generator().manual_seed(seed), **options)
        with guide(pipe, FeynmanKac([reward], 4, 5.0, "difference")):
            steered = call(pipe, generator=torch.Generator().manual_seed(seed), **options)
        gains.append(float(steered.mean() - plain.mean()))
    assert min(gains) > 0


@pytest.mark.parametrize(
    "arguments, match",
    [
        ({"evaluators": []}, "`evaluators` is empty"),
        ({"particles": 1}, "`particles` must be an integer of at least 2, got 1"),
        ({"particles": 2.0}, "`particles` must be an integer"),
        ({"strength": 0.0}, "`strength` must be above 0"),
        ({"strength": math.nan}, "`strength` must be a finite number"),
        ({"potential": "sum"}, r"`potential` must be one of \('max', 'difference'\), got 'sum'"),
        ({"weights": {"clip": 1.0}}, r"`weights` names no evaluator: \['clip'\]"),
        ({"start": 0.5, "stop": 0.5}, "`start` and `stop` must satisfy"),
        ({"every": 0}, "`every` must be an integer of at least 1"),
        ({"threshold": 0.3}, "`threshold` must be above 1 / particles and at most 1, got 0.3"),
        ({"threshold": math.nan}, "`threshold` must be above"),
    ],
)
def test_refuses(arguments, match):
    with pytest.raises(ValueError, match=match):
        FeynmanKac(**{"evaluators": [contrast], "particles": P} | arguments)


@pytest.mark.parametrize("prompts, n", [(PROMPTS, 2), (PROMPTS[:1], 4), (["a", "b", "b"], 1)])
def test_refuses_a_batch_that_is_no_groups(stock, prompts, n):
    match = f"`particles` is 3, and the {len(prompts) * n} images are not that many of each prompt: pass `num_images"
    with pytest.raises(ValueError, match=match), guide(stock("sd"), FeynmanKac([contrast], 3)):
        call(stock("sd"), prompts, n)


def test_refuses_an_evaluator_of_another_vae(stock, discriminator):
    with (
        pytest.raises(ValueError, match="belongs to another VAE"),
        guide(stock("sd"), FeynmanKac([discriminator(8)], P)),
    ):
        call(stock("sd"))
