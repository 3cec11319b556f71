"""What a trace tells, and that it survives JSON."""

import math

import pytest
import torch
from PIL import Image

from guidance import GreedySearch, GuidanceTrace, Static
from pipelines import guide

PROMPTS = ["two red circles", 'a sign saying "$a$" and "$b"']
SCALES = (1.0, 4.0, 8.0)


def bigger(candidates, context):
    return candidates.flatten(2).std(2)


def smaller(candidates, context):
    return -1.5 * candidates.flatten(2).std(2)


@pytest.fixture
def trace(stock):
    """Four steps, of which the middle two are searched."""
    search = GreedySearch([bigger, smaller], SCALES, {"smaller": 0.5}, start=0.3, stop=0.7)
    with guide(stock("sd"), search) as traces:
        stock("sd")(PROMPTS, num_inference_steps=4, guidance_scale=5.0, output_type="latent")
    return traces[0]


def test_records_every_step(trace):
    assert trace.candidates == SCALES and trace.prompt == PROMPTS
    assert [step["timestep"] for step in trace.steps] == [751, 501, 251, 1]
    levels = [step["noise_level"] for step in trace.steps]
    assert levels == sorted(levels, reverse=True) and 0 < levels[-1] < levels[0] < 1
    assert ["total" in step for step in trace.steps] == [False, True, True, False]
    assert trace.nfe.tolist() == [8, 8]
    assert trace.scales.shape == (4, 2) and trace.scales[[0, 3]].unique().tolist() == [5.0]
    step = trace.steps[1]
    assert step["weights"] == {"bigger": 1.0, "smaller": 0.5}
    assert step["noise_levels"].keys() == step["scores"].keys() == {"bigger", "smaller"}
    best = torch.tensor(SCALES)[step["total"].argmax(1)]
    assert torch.equal(best, step["scale"]) and torch.equal(
        best, torch.tensor(SCALES)[step["scores"]["bigger"].argmax(1)]
    )


def test_json_round_trip(trace, tmp_path):
    trace.to_json(tmp_path / "trace.json")
    read = GuidanceTrace.from_json(tmp_path / "trace.json")
    assert read.to_dict() == trace.to_dict()
    assert read.candidates == SCALES and read.prompt == PROMPTS and torch.equal(read.scales, trace.scales)
    assert torch.equal(read.nfe, trace.nfe)
    assert read.to_pandas().equals(trace.to_pandas())


def test_pandas(trace):
    frame = trace.to_pandas()
    columns = {"step", "sample", "timestep", "noise_level", "scale", "nfe", "bigger", "smaller"}
    assert set(frame.columns) == columns and set(frame["nfe"]) == {2}
    assert frame["step"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3] and frame["sample"].tolist() == [0, 1] * 4
    assert frame["scale"].tolist() == trace.scales.flatten().tolist()
    assert frame["timestep"].tolist() == [751, 751, 501, 501, 251, 251, 1, 1]
    searched = frame[frame["step"].isin([1, 2])]
    for _, row in searched.iterrows():
        at = SCALES.index(row["scale"])
        assert row["bigger"] == trace.steps[int(row["step"])]["scores"]["bigger"][int(row["sample"]), at]
    assert searched["smaller"].values == pytest.approx(-1.5 * searched["bigger"].values)
    assert frame[~frame["step"].isin([1, 2])]["bigger"].isna().all()


@pytest.mark.parametrize("round_trip", [False, True])
def test_plot_writes_a_picture(trace, tmp_path, round_trip):
    if round_trip:
        trace.to_json(tmp_path / "trace.json")
        trace = GuidanceTrace.from_json(tmp_path / "trace.json")
    trace.plot(tmp_path / "trace.png")
    image = Image.open(tmp_path / "trace.png").convert("L")
    assert min(image.size) > 200 and len(image.getcolors()) > 20


def test_a_fixed_schedule_has_scales_only(stock, tmp_path):
    with guide(stock("sd"), Static(6.0)) as traces:
        stock("sd")(PROMPTS[:1], num_inference_steps=2, output_type="latent")
    assert traces[0].candidates == () and traces[0].scales.tolist() == [[6.0], [6.0]]
    assert set(traces[0].to_pandas().columns) == {"step", "sample", "timestep", "noise_level", "scale", "nfe"}
    traces[0].plot(tmp_path / "schedule.png")
    assert Image.open(tmp_path / "schedule.png").format == "PNG"


def test_one_trace_for_every_call(stock):
    with guide(stock("sd"), Static(6.0)) as traces:
        for count in (1, 2):
            stock("sd")(PROMPTS[:count], num_inference_steps=count, output_type="latent")
    assert [trace.scales.shape for trace in traces] == [(1, 1), (2, 2)]
    assert [trace.prompt for trace in traces] == [PROMPTS[:1], PROMPTS]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_warns_by_name_of_scores_that_are_not_finite(bad):
    scores = {"good": torch.zeros(1, 2), "bad": torch.tensor([[0.0, bad]])}
    with pytest.warns(UserWarning, match=r"not finite.*\['bad'\]"):
        GuidanceTrace(steps=[{"scale": torch.ones(1)}, {"scale": torch.ones(1), "scores": scores}]).warn_if_not_finite()
