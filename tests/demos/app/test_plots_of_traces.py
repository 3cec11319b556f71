"""The app's plots hold what the trace says."""

import numpy as np
import pytest
import torch

from demos.app import plots
from guidance import GuidanceTrace


@pytest.fixture
def trace():
    """Three steps: searched, kept, searched with a candidate that had no finite score."""
    searched = {"timestep": 9, "noise_level": 0.9, "noise_levels": {"clip": 0.9}, "weights": {"clip": 0.5}}
    scores = [torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([[5.0, torch.nan, 4.0]])]
    first, last = (searched | {"scores": {"clip": s}, "total": 2 * s} for s in scores)
    first["scale"], last["scale"] = torch.tensor([4.0]), torch.tensor([0.1])
    first["favourites"] = last["favourites"] = {"clip": torch.tensor([1])}
    kept = {"timestep": 5, "noise_level": 0.5, "scale": torch.tensor([4.0])}
    return GuidanceTrace((0.1, 4.0, 9.0), ["a"], [first, kept, last])


def fixed(scale):
    """Three steps of a schedule."""
    step = {"timestep": 5, "noise_level": 0.5, "scale": torch.tensor([scale])}
    return GuidanceTrace((), ["a"], [step] * 3)


def test_schedule(trace):
    figure = plots.schedule({"Dynamic": trace, "Static": fixed(6.0)}, "Dynamic")
    dynamic, static, clip, clip_chosen, clip_ring, combined, combined_chosen, _ = figure.data
    assert dynamic.line.shape == static.line.shape == "hvh" and (dynamic.name, static.name) == ("Dynamic", "Static")
    assert list(dynamic.x) == [1, 2, 3]
    assert list(dynamic.y) == pytest.approx([4.0, 4.0, 0.1])
    assert list(static.y) == [6.0] * 3
    assert "clip 3, weight 0.50" in dynamic.text[0] and "kept" in dynamic.text[1] and "clip 5" in dynamic.text[2]
    np.testing.assert_array_equal(clip.customdata, [[1, np.nan, 5], [3, np.nan, np.nan], [2, np.nan, 4]])
    np.testing.assert_array_equal(combined.customdata, 2 * np.array(clip.customdata))
    assert np.nanmean(np.array(clip.z)[:, [0, 2]], axis=0) == pytest.approx([0, 0], abs=1e-6)
    for chosen in (clip_chosen, combined_chosen):
        assert (list(chosen.x), list(chosen.y)) == ([1, 3], ["4", "0.1"])
    assert (list(clip_ring.x), list(clip_ring.y)) == ([], [])  # it would have chosen the same


def test_evaluators_that_are_asked_at_other_steps_and_contradict_each_other(trace):
    last = trace.steps[2]
    last["scores"] = {"ocr": torch.tensor([[0.0, 0.5, 1.0]]), "silent": torch.zeros(1, 3)} | last["scores"]
    last["favourites"] = {"ocr": torch.tensor([2]), "silent": torch.tensor([-1]), "clip": torch.tensor([1])}
    last["weights"] = dict.fromkeys(last["scores"], 1.0)
    shown = {data.name: data for data in plots.schedule({"Dynamic": trace}, "Dynamic").data if data.name}
    assert {"clip", "ocr", "silent", "combined"} <= set(shown)
    np.testing.assert_array_equal(shown["ocr"].customdata, [[np.nan, np.nan, score] for score in (0.0, 0.5, 1.0)])
    assert list(shown["favourite of ocr"].y) == ["9"] and not len(shown["favourite of silent"].x)
    assert trace.disputed.tolist() == [[False], [False], [True]]
    last["favourites"]["clip"] = torch.tensor([2])
    assert not trace.disputed.any()


def test_a_scale_that_is_no_candidate_is_not_marked(trace):
    trace.steps[0]["scale"] = torch.tensor([4.5])
    figure = plots.schedule({"Dynamic": trace}, "Dynamic")
    assert list(figure.data[2].x) == [3]
    assert "no evaluator can tell" in figure.data[0].text[0]


def test_nothing_searched(trace):
    assert len(plots.schedule({"Static": fixed(6.0)}, "Static").data) == 1


def test_draws_of_noise(trace):
    step = trace.steps[0]
    step["noise"], step["noise_total"] = torch.tensor([1]), torch.tensor([[0.0, 2.0, 1.0]])
    step["noise_scores"] = {"clip": torch.tensor([[3.0, 1.0, 2.0]])}
    figure = plots.schedule({"Noise": trace}, "Noise")
    draws, chosen, alone = figure.data[1:4]
    np.testing.assert_array_equal(draws.customdata, [[3, np.nan, np.nan], [1, np.nan, np.nan], [2, np.nan, np.nan]])
    assert (list(chosen.y), list(alone.y)) == (["2"], ["1"])
    heats = [data for data in figure.data if data.type == "heatmap"]
    assert [data.name for data in heats] == ["clip", "combined", "clip", "combined"]
    assert "draw %{y}" in heats[0].hovertemplate and "scale %{y}" in heats[2].hovertemplate


def test_mean_schedules():
    figure = plots.mean_schedules({"count": [[1, 2], [3, 2]], "other": [[5, 7]]})
    band, count, _, other = figure.data
    assert band.line.shape == count.line.shape == "hvh"
    assert (list(count.y), list(count.customdata)) == ([2, 2], [1, 0])
    assert list(band.y) == [3, 2, 2, 1]
    assert (list(other.y), count.name, other.name) == ([5, 7], "count (2)", "other (1)")
