"""When a budget leaves the unconditional pass out, by hand."""

import math

import diffusers
import pytest
import torch

from evaluators.base import FunctionEvaluator
from guidance import Budget, DenoisingStep, FeynmanKac, Formula, GreedySearch, Static
from pipelines import guide

PROMPTS = ["two red circles", "a blue star", "three green squares"]


def contrast(candidates, context):
    return candidates.flatten(2).std(2)


def step(index, uncond, cond, skipped=None, direction=None, num_steps=8):
    """A step of a model that predicts x0, whose predictions are constants: one number for each row."""
    full = lambda x: torch.tensor(x, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 4, 2, 2)  # noqa: E731
    values = dict.fromkeys(DenoisingStep.__dataclass_fields__) | {
        "scheduler": diffusers.DDIMScheduler(prediction_type="sample"),
        "pred_uncond": full(uncond),
        "pred_cond": full(cond),
        "sample": torch.zeros(len(cond), 4, 2, 2),
        "index": index,
        "num_steps": num_steps,
        "level": (0.6, 0.8),
        "own_scale": 3.0,
        "formula": Formula(),
        "start_index": 0,
        "skipped": None if skipped is None else torch.tensor(skipped),
        "direction": None if direction is None else full(direction),
    }
    return DenoisingStep(**values)


def test_the_error_that_is_measured():
    """u = 1, c = 2, d = 0.9 before: u would have been taken for 1.1, and 1 + 3 · 1 = 4 is the guided prediction."""
    error = 2 * 0.1 / 4
    for tolerance, skip in ((0.99 * error, False), (1.01 * error, True)):
        budget = Budget(Static(3.0), tolerance)
        budget.decide(step(0, [0.0], [9.0]))
        decision = budget.decide(step(1, [1.0], [2.0], direction=[0.9]))
        assert decision.skip.tolist() == [skip] and decision.scale.tolist() == [3.0]


def test_without_reuse_the_error_is_that_of_no_guidance():
    error = 2 * 1.0 / 4
    for tolerance, skip in ((0.99 * error, False), (1.01 * error, True)):
        budget = Budget(Static(3.0), tolerance, reuse=False)
        budget.decide(step(0, [0.0], [9.0]))
        assert budget.decide(step(1, [1.0], [2.0], direction=[0.9])).skip.tolist() == [skip]
    decision = budget.decide(step(2, [1.0, 1.0], [2.0, 2.0], skipped=[True, False], direction=[1.0, 1.0]))
    assert decision.scale.tolist() == [1.0, 3.0]


def test_rows_differ():
    budget = Budget(Static(3.0), 0.1)
    budget.decide(step(0, [0.0, 0.0, 0.0], [9.0, 9.0, 9.0]))
    decision = budget.decide(step(1, [1.0, 1.0, 1.0], [2.0, 2.0, 2.0], direction=[1.0, 0.95, 0.5]))
    assert decision.skip.tolist() == [True, True, False]


def test_a_larger_scale_asks_for_the_pass_again():
    """What was measured at scale 2 is five times as far off at scale 6."""
    scales = iter([2.0, 2.0, 2.0, 6.0, 2.0])

    class Given:
        def decide(self, step):
            return step.full(next(scales)), {}

    budget = Budget(Given(), 0.1, recheck=None)
    budget.decide(step(0, [0.0], [9.0]))
    assert budget.decide(step(1, [1.0], [2.0], direction=[0.9])).skip.tolist() == [True]  # 0.1 / 3
    found = [budget.decide(step(i, [1.1], [2.0], [True], [0.9])).skip.tolist() for i in (2, 3, 4)]
    assert found == [[True], [False], [True]]  # 5 · 0.1 / 3 = 0.167 is too much


@pytest.mark.parametrize("recheck, expected", [(2, [2, 1] * 4), (4, [2, 1, 1, 1] * 2), (None, [2] + [1] * 7)])
@pytest.mark.parametrize("reuse", [True, False])
def test_recheck(stock, recheck, expected, reuse):
    with guide(stock("sd"), Budget(Static(3.0), 1e9, reuse, recheck)) as traces:
        stock("sd")(PROMPTS, num_inference_steps=8, output_type="latent")
    assert [s["nfe"].tolist() for s in traces[0].steps] == [[n] * 3 for n in expected]
    assert traces[0].scales[:, 0].tolist() == [3.0 if reuse or n == 2 else 1.0 for n in expected]
    assert traces[0].nfe.tolist() == [sum(expected)] * 3


def test_at_scale_1_the_pass_is_never_needed(stock):
    """With no tolerance at all, and the pictures are those of the conditional prediction alone."""

    class Conditional:
        def decide(self, step):
            return step.full(1.0), {}

    options = {"num_inference_steps": 4, "output_type": "latent"}
    pipe, images = stock("sd"), []
    for guidance in (Conditional(), Budget(Conditional(), 0.0, recheck=None)):
        with guide(pipe, guidance) as traces:
            images.append(pipe(PROMPTS, generator=torch.Generator().manual_seed(0), **options).images)
    torch.testing.assert_close(*images, rtol=1e-4, atol=1e-4)
    assert traces[0].nfe.tolist() == [5, 5, 5]


def test_rows_are_independent(stock):
    """A row saves what it saves alone, and the search in it chooses the same."""
    pipe = stock("sd")
    options = {"num_inference_steps": 8, "output_type": "latent"}
    generator = lambda i: torch.Generator().manual_seed(i)  # noqa: E731
    search = GreedySearch([FunctionEvaluator(lambda c, context: -contrast(c, context), "calm")], (1.0, 2.0, 4.0))

    def run(prompts, generators):
        with guide(pipe, Budget(search, 0.02)) as traces:
            images = pipe(prompts, generator=generators, **options).images
        return images, traces[0]

    together, trace = run(PROMPTS, [generator(i) for i in range(3)])
    assert trace.candidates == (1.0, 2.0, 4.0) and len({tuple(s["nfe"].tolist()) for s in trace.steps}) > 1
    for i, prompt in enumerate(PROMPTS):
        alone, own = run([prompt], [generator(i)])
        torch.testing.assert_close(alone[0], together[i], rtol=1e-4, atol=1e-4)
        assert [s["nfe"][0] for s in own.steps] == [s["nfe"][i] for s in trace.steps]
        assert trace.sample(i).nfe.tolist() == own.nfe.tolist()


@pytest.mark.parametrize(
    "arguments, match",
    [
        ({"tolerance": -0.1}, "`tolerance` must be a finite number of at least 0"),
        ({"tolerance": math.nan}, "`tolerance` must be a finite number"),
        ({"recheck": 1}, "`recheck` must be None or an integer of at least 2, got 1"),
        ({"recheck": 2.5}, "`recheck` must be None or an integer"),
    ],
)
def test_refuses(arguments, match):
    with pytest.raises(ValueError, match=match):
        Budget(Static(3.0), **arguments)


@pytest.mark.parametrize(
    "guidance, match",
    [
        (7.5, "`guidance` must be a GreedySearch or a Schedule, got float"),
        (FeynmanKac([contrast], 2), "`guidance` must leave rows in their places, and FeynmanKac does not"),
    ],
)
def test_refuses_types(guidance, match):
    with pytest.raises(TypeError, match=match):
        Budget(guidance)


def test_the_guidance_inside_is_checked(stock, discriminator):
    with (
        pytest.raises(ValueError, match="belongs to another VAE"),
        guide(stock("sd"), Budget(GreedySearch([discriminator(8)]))),
    ):
        stock("sd")(PROMPTS, num_inference_steps=2)
