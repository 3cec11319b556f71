"""Which scale is chosen, and what happens when evaluators cannot say."""

import math

import pytest
import torch

from evaluators import Calibration
from evaluators.base import FunctionEvaluator
from guidance import Cosine, DenoisingStep, Formula, GreedySearch, Interval, Linear, Static
from pipelines import guide

SCALES = (1.0, 2.0, 4.0)
OWN = 5.0


def step(index=0, num_steps=5, **kwargs):
    values = dict.fromkeys(DenoisingStep.__dataclass_fields__) | {
        "scheduler": torch.nn.Identity(),
        "pred_cond": torch.ones(2, 4, 8, 8),
        "pred_uncond": torch.zeros(2, 4, 8, 8),
        "sample": torch.zeros(2, 4, 8, 8),
        "timestep": torch.tensor(500),
        "index": index,
        "num_steps": num_steps,
        "level": (0.6, 0.8),
        "next_level": (0.8, 0.6),
        "own_scale": OWN,
        "formula": Formula(),
        "start_index": 0,
    }
    return DenoisingStep(**values | kwargs)


class Step(DenoisingStep):
    """A step whose candidates are the scales themselves."""

    def candidates(self, scales, space, rows=None):
        scales = torch.as_tensor(scales).expand(len(self.sample), -1)
        return scales[:, :, None, None, None].expand(-1, -1, 4, 8, 8)


def decide(search, **kwargs):
    return search.decide(Step(**vars(step(**kwargs))))


def table(*rows, name="table", **kwargs):
    """An evaluator that returns these scores."""
    return FunctionEvaluator(lambda candidates, context: torch.tensor(rows), name, **kwargs)


def test_every_row_takes_its_best_scale():
    scale, record = decide(GreedySearch([table([0.0, 3.0, 1.0], [2.0, 0.0, 1.0])], SCALES))
    assert scale.tolist() == [2.0, 1.0]
    assert record["scores"]["table"].tolist() == [[0.0, 3.0, 1.0], [2.0, 0.0, 1.0]]
    assert record["weights"] == {"table": 1.0} and record["noise_levels"] == {"table": pytest.approx(0.8)}


def test_weights_decide_between_evaluators():
    panel = [
        table([2.0, 1.0, 0.0], [2.0, 1.0, 0.0], name="weak"),
        table([0.0, 1.0, 2.0], [0.0, 1.0, 2.0], name="strong"),
    ]
    assert decide(GreedySearch(panel, SCALES, {"weak": 0.5}))[0].tolist() == [4.0, 4.0]
    assert decide(GreedySearch(panel, SCALES, {"strong": 0.5}))[0].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_score_that_is_not_finite_is_never_chosen(at, bad):
    row = [3.0, 3.0, 3.0]
    row[(at + 1) % 3] = 4.0
    row[at] = bad
    scale, _ = decide(GreedySearch([table(row, [0.0, 1.0, 2.0])], SCALES))
    assert scale.tolist() == [SCALES[(at + 1) % 3], 4.0], "the other row is not touched"


def test_a_candidate_that_one_evaluator_cannot_score_is_out():
    panel = [table([9.0, 1.0, 0.0], [0.0, 1.0, 2.0], name="a"), table([math.nan, 1.0, 0.0], [0.0, 1.0, 2.0], name="b")]
    assert decide(GreedySearch(panel, SCALES))[0].tolist() == [2.0, 4.0]


def test_evaluators_without_weight_cannot_rule_out():
    panel = [table([0.0, 1.0, 2.0], [0.0, 1.0, 2.0], name="a"), table([math.nan] * 3, [math.nan] * 3, name="b")]
    assert decide(GreedySearch(panel, SCALES, {"b": 0.0}))[0].tolist() == [4.0, 4.0]


def test_a_row_without_a_finite_score_keeps_the_pipelines_own_scale():
    scale, _ = decide(GreedySearch([table([math.nan] * 3, [0.0, 1.0, 2.0])], SCALES))
    assert scale.tolist() == [OWN, 4.0]


def test_where_nobody_can_tell_the_pipelines_own_scale_stays():
    chance = Calibration((0.0, 1.0), (1.0, 1.0), (0.9, 0.5))
    search = GreedySearch([table([3.0, 1.0, 0.0], [3.0, 1.0, 0.0], calibration=chance)], SCALES)
    scale, record = decide(search, level=(0.0, 1.0))
    assert scale.tolist() == [OWN, OWN] and record["weights"] == {"table": 0.0}
    assert decide(search)[0].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("start, stop, inside", [(0.0, 1.0, range(5)), (0.25, 0.75, [1, 2, 3]), (0.3, 1.0, [2, 3, 4])])
def test_window(start, stop, inside):
    search = GreedySearch([table([0.0, 1.0, 2.0], [0.0, 1.0, 2.0])], SCALES, start=start, stop=stop)
    assert [i for i in range(5) if decide(search, index=i)[0] is not None] == list(inside)


def test_pull_asks_what_a_change_is_worth():
    search = GreedySearch([table([0.0])], SCALES, pull=1.0)
    total = torch.tensor([[0.0, 0.3, 0.9], [0.0, 0.3, 1.1]])
    # From 1 to 4 is log(5 / 2) = 0.92, from 1 to 2 log(3 / 2) = 0.41.
    assert search.scale_of(total, step(own_scale=1.0)).tolist() == [1.0, 4.0]
    assert search.scale_of(total, step(own_scale=1.0, previous=torch.tensor([4.0, 1.0]))).tolist() == [4.0, 4.0]
    assert GreedySearch([table([0.0])], SCALES).scale_of(total, step(own_scale=1.0)).tolist() == [4.0, 4.0]
    for wrong in (-1.0, math.nan):
        with pytest.raises(ValueError, match="`pull` must be finite and at least 0"):
            GreedySearch([table([0.0])], SCALES, pull=wrong)


def test_every_holds_what_was_chosen_before():
    search, held = GreedySearch([table([0.0, 1.0, 2.0], [0.0, 1.0, 2.0])], SCALES, every=3), torch.tensor([2.0, 1.0])
    chosen = [decide(search, index=i, previous=held)[0].tolist() for i in range(5)]
    assert chosen == [[4.0, 4.0], [2.0, 1.0], [2.0, 1.0], [4.0, 4.0], [2.0, 1.0]]
    assert decide(search, index=1)[0].tolist() == [4.0, 4.0], "nothing to hold yet"


@pytest.mark.parametrize("start_index, searched", [(0, [2, 4, 6]), (3, [3, 5, 7])])
def test_every_counts_from_the_first_step_of_the_call(start_index, searched):
    """Image to image starts in the middle."""
    search = GreedySearch([table([0.0, 1.0, 2.0], [0.0, 1.0, 2.0])], SCALES, every=2, start=0.2)
    held = torch.tensor([2.0, 1.0])
    steps = range(max(2, start_index), 8)
    found = [
        i for i in steps if "total" in decide(search, index=i, num_steps=8, previous=held, start_index=start_index)[1]
    ]
    assert found == searched


@pytest.mark.parametrize(
    "schedule, expected",
    [
        (Static(4.0), [4, 4, 4, 4, 4]),
        (Interval(4.0, 0.2, 0.5), [1, 4, 4, 1, 1]),
        (Linear(4.0), [0, 2, 4, 6, 8]),
        (Cosine(4.0), [0, 4 - 8**0.5, 4, 4 + 8**0.5, 8]),
    ],
)
def test_schedules(schedule, expected):
    decisions = [schedule.decide(step(i)) for i in range(5)]
    assert [decision.scale.tolist() for decision in decisions] == [pytest.approx([e, e]) for e in expected]
    if not isinstance(schedule, Interval):
        assert sum(expected) / 5 == pytest.approx(4.0), "`guidance_scale` is the mean"


def test_nan_while_sampling_warns_and_is_not_chosen(stock):
    def fragile(candidates, context):
        scores = torch.arange(candidates.shape[1]).expand(candidates.shape[:2]).float().clone()
        if 300 < context.timestep < 700:
            scores[0, [0, 2]] = math.nan
            scores[1] = math.nan
        return scores

    pipe = stock("sd")
    search = GreedySearch([fragile], SCALES)
    with pytest.warns(UserWarning, match="not finite.*fragile"), guide(pipe, search) as traces:
        options = {"num_inference_steps": 4, "guidance_scale": OWN, "output_type": "latent"}
        images = pipe(["a red circle", "a blue star", "a cross"], **options).images
    assert images.isfinite().all()
    nan = [[2.0, OWN, 4.0] if 300 < s["timestep"] < 700 else [4.0, 4.0, 4.0] for s in traces[0].steps]
    assert traces[0].scales.tolist() == nan and [2.0, OWN, 4.0] in nan


# --------------------------------------------------------------------------------------------------- adaptive weights


def drifting(name, means, slope):
    """Scores around each of `means` in turn, of which the last candidate is better by `slope`."""
    left = iter(means)
    return FunctionEvaluator(
        lambda candidates, context: next(left) + slope * torch.tensor([[-1.0, 0.0, 1.0]] * 2), name
    )


@pytest.mark.parametrize(
    "weighting, chosen",
    [("calibrated", [4.0, 4.0, 4.0]), ("adaptive", [4.0, 4.0, 1.0]), ("adaptive_abs", [4.0, 4.0, 4.0])],
)
def test_the_gain_since_the_last_step_decides(weighting, chosen):
    """Up by a half, then down by a third."""
    search = GreedySearch([drifting("a", (2.0, 3.0, 2.0), 0.5)], SCALES, weighting=weighting)
    found = [decide(search, index=index) for index in range(3)]
    assert [scale.tolist() for scale, _ in found] == [[scale] * 2 for scale in chosen]
    if weighting != "calibrated":
        third = 1 / 3 if weighting == "adaptive_abs" else -1 / 3
        gains = [record["gain"]["a"][0].item() for _, record in found]
        assert gains == pytest.approx([1.0, 0.5, third])


def test_the_one_that_gained_more_is_heard():
    rises, falls = drifting("rises", (1.0, 3.0), 1.0), drifting("falls", (1.0, 1.1), -1.0)
    search = GreedySearch([rises, falls], SCALES, weighting="adaptive")
    first, _ = decide(search, index=0)
    assert first.tolist() == [OWN, OWN]  # both alike: nothing can be told
    assert decide(search, index=1)[0].tolist() == [4.0, 4.0]


def test_every_run_begins_anew():
    search = GreedySearch([drifting("a", (2.0, 3.0, 9.0), 1.0)], SCALES, weighting="adaptive")
    for index, gain in ((0, 1.0), (1, 0.5), (0, 1.0)):
        assert decide(search, index=index)[1]["gain"]["a"].tolist() == [gain] * 2


def test_the_gain_is_in_the_trace_of_a_sample(stock, tmp_path):
    mean = FunctionEvaluator(lambda candidates, context: candidates.flatten(2).mean(2), "a")
    search = GreedySearch([mean], SCALES, weighting="adaptive")
    with guide(stock("sd"), search) as traces:
        stock("sd")(["a", "b"], num_inference_steps=2, output_type="latent")
    assert [step["gain"]["a"].shape for step in traces[-1].sample(1).steps] == [(1,), (1,)]
    traces[-1].to_json(tmp_path / "trace.json")


def test_a_weighting_that_there_is_not():
    with pytest.raises(ValueError, match="`weighting` must be one of calibrated, adaptive, adaptive_abs, got 'best'"):
        GreedySearch([table([0.0])], SCALES, weighting="best")
