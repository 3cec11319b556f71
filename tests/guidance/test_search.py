"""Which scale is chosen, and what happens when evaluators cannot say."""

import math

import diffusers
import pytest
import torch

from evaluators import Calibration
from evaluators.base import FunctionEvaluator
from guidance import Cosine, DenoisingStep, GreedySearch, Interval, Linear, Static
from guidance.search import vertex
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
        "guidance_rescale": 0.0,
        "own_scale": OWN,
        "start_index": 0,
    }
    return DenoisingStep(**values | kwargs)


class Step(DenoisingStep):
    """A step whose candidates are the scales themselves."""

    def candidates(self, scales, space):
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
    assert scale is None and record["weights"] == {"table": 0.0}
    assert decide(search)[0].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("start, stop, inside", [(0.0, 1.0, range(5)), (0.25, 0.75, [1, 2, 3]), (0.3, 1.0, [2, 3, 4])])
def test_window(start, stop, inside):
    search = GreedySearch([table([0.0, 1.0, 2.0], [0.0, 1.0, 2.0])], SCALES, start=start, stop=stop)
    assert [i for i in range(5) if decide(search, index=i)[0] is not None] == list(inside)


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


def peak(*at, name="peak", **kwargs):
    """Highest where the scale is `at`, one for each row, and a parabola around it."""

    def score(candidates, context):
        return -((candidates[:, :, 0, 0, 0] - torch.tensor(at)[:, None]) ** 2)

    return FunctionEvaluator(score, name, **kwargs)


CALIBRATION = Calibration((0.0, 1.0), (2.0, 2.0), (1.0, 1.0))


@pytest.mark.parametrize("calibration", [None, CALIBRATION])
def test_refine_finds_the_top_of_a_parabola(calibration):
    search = GreedySearch([peak(2.3, 1.7, calibration=calibration)], SCALES, refine=True)
    scale, record = decide(search)
    assert scale.tolist() == pytest.approx([2.3, 1.7], abs=1e-4) and torch.equal(record["refined"], scale)
    assert record["scores"]["peak"].shape == (2, 3), "the trace keeps the grid"


def test_refine_stays_at_an_edge():
    assert decide(GreedySearch([peak(0.2, 9.0)], SCALES, refine=True))[0].tolist() == [1.0, 4.0]


@pytest.mark.parametrize("calibration", [None, CALIBRATION])
def test_refine_never_takes_what_scores_less_than_the_grid(calibration):
    """The parabola points to where the evaluator is worst."""

    def score(candidates, context):
        s = candidates[:, :, 0, 0, 0]
        return torch.where(torch.isin(s, torch.tensor(SCALES)), 3.0 - (s - 2.2).abs(), -5.0)

    search = GreedySearch([FunctionEvaluator(score, "grid", calibration=calibration)], SCALES, refine=True)
    scale, record = decide(search)
    assert scale.tolist() == [2.0, 2.0] and 2.0 < record["refined"][0] < 4.0


def test_refine_with_scores_that_are_not_finite():
    """A row that cannot be scored keeps the pipeline's own scale, one without a neighbour its best."""
    rows = torch.tensor([[1.0, 2.0, math.nan], [math.nan] * 3])
    asked = []

    def score(candidates, context):
        asked.append(candidates[:, :, 0, 0, 0].tolist())
        return rows if candidates.shape[1] == 3 else rows[:, 1:2]

    assert decide(GreedySearch([FunctionEvaluator(score, "table")], SCALES, refine=True))[0].tolist() == [2.0, OWN]
    assert asked[1][0] == [2.0]


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2]])
def test_vertex(order):
    x = torch.tensor([[0.0, 1.0, 3.0, 7.0]]).expand(5, -1)[:, order]
    y = torch.stack([-((x[0] - 2.5) ** 2), x[0], -x[0], torch.zeros(4), -((x[0] - 1.2) ** 2)])
    y[4, order.index(2)] = math.nan
    assert vertex(x, y)[:, 0].tolist() == pytest.approx([2.5, 7.0, 0.0, 0.0, 1.0])


@pytest.mark.parametrize("scheduler", [diffusers.DDIMScheduler, diffusers.HeunDiscreteScheduler])
def test_candidates_of_scales_for_every_row(scheduler):
    scheduler = scheduler()
    scheduler.set_timesteps(5)
    noise = lambda seed: torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(seed))  # noqa: E731
    values = {"scheduler": scheduler, "timestep": scheduler.timesteps[0], "unpack": lambda x: x, "step_kwargs": {}}
    values |= {"sample": noise(0), "pred_cond": noise(1), "pred_uncond": noise(2)}
    found = step(**values).candidates(torch.tensor([[1.0, 2.0], [5.0, 3.0]]), "noisy")
    for row, scales in enumerate([(1.0, 2.0), (5.0, 3.0)]):
        expected = step(**values).candidates(scales, "noisy")[row]
        torch.testing.assert_close(found[row], expected, rtol=1e-5, atol=1e-5)


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
