"""`benchmarks.overhead`: counts against numbers worked out by hand; no test asserts a time."""

import json

import pytest
import torch

from benchmarks.overhead import count, evaluator_flops, flops, main, searched_steps
from evaluators import FunctionEvaluator, load_evaluators
from guidance import GreedySearch
from pipelines import TinyWorldPipeline

KEYS = {"wall_clock_ratio", "flops_ratio", "candidates", "shape", "steps", "batch_size", "hardware", "torch", "commit"}


class Small(torch.nn.Module):
    """An evaluator whose cost is worked out by hand: 3×3 convolution to 8 channels, then a product with an 8-vector."""

    name, space, needs_prompt, in_channels, calibration = "small", "noisy", False, 4, None

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(4, 8, 3, padding=1)
        self.linear = torch.nn.Linear(8, 1)

    def forward(self, candidates, context):
        return self.linear(self.conv(candidates.flatten(0, 1)).mean((2, 3))).view(candidates.shape[:2])


SMALL = 2 * (16 * 16 * 8 * 4 * 9 + 8)  # of one candidate at 16×16


def test_counts_convolutions_products_and_attention():
    conv = torch.nn.Conv2d(4, 8, 3, stride=2, padding=1, device="meta")
    assert count(lambda: conv(torch.empty(3, 4, 16, 16, device="meta"))) == 2 * 3 * 8 * 8 * 8 * 4 * 9
    q = torch.empty(2, 4, 64, 32, device="meta")
    attention = torch.nn.functional.scaled_dot_product_attention
    assert count(lambda: attention(q, q, q)) == 2 * 2 * (2 * 4 * 64 * 64 * 32)


def test_evaluator_flops():
    evaluator = Small()
    assert evaluator_flops([evaluator], (2, 5, 4, 16, 16)) == {"small": (2 * 5 * SMALL, 0)}
    assert evaluator.conv.weight.device.type == "cpu"  # the one that was given is left alone


def test_a_head_costs_little_beside_its_clip(weights):
    shape = (2, 5, 4, 16, 16)
    panel = load_evaluators({name: weights / name for name in ("clip", "reward")})
    alone, together = evaluator_flops(panel[1:], shape), evaluator_flops(panel, shape)
    assert together["reward"][0] < together["clip"][0] / 5 < alone["reward"][0]
    assert together["reward"][0] == 2 * 10 * (1536 * 128 + 128 * 128 + 128 + 128) + 2 * 2 * (128 * 128)


def test_ratio_by_hand(embedded):
    config = TinyWorldPipeline.from_pretrained().unet.config
    search = GreedySearch([Small()], scales=(1.0, 2.0, 3.0), every=2)
    report = flops(search, config, tokens=24, steps=5, batch_size=2)
    assert report["searched_steps"] == 3
    assert report["evaluator_flops_per_step"] == {"small": 2 * 3 * SMALL}
    assert report["flops_ratio"] == pytest.approx(1 + 3 * 2 * 3 * SMALL / (5 * report["denoiser_flops_per_step"]))
    single = GreedySearch([Small()], scales=(4.0,))
    assert flops(single, config, tokens=24, steps=5, batch_size=2)["flops_ratio"] == 1


@pytest.mark.parametrize("settings", [{}, {"every": 3}, {"start": 0.2, "stop": 0.7}, {"start": 0.3, "every": 2}])
def test_searched_steps_are_those_of_a_run(embedded, settings):
    first = FunctionEvaluator(lambda candidates, context: candidates.flatten(2).mean(2), "mean")
    search = GreedySearch([first], scales=(1.0, 4.0), **settings)
    pipe = TinyWorldPipeline.from_pretrained()
    pipe.set_progress_bar_config(disable=True)
    trace = pipe("a red ring", num_inference_steps=7, guidance=search, output_type="latent").guidance_trace
    assert searched_steps(search, 7) == sum("scores" in step for step in trace.steps)


@pytest.mark.parametrize(("shape", "denoiser"), [("sd15", 0.803e12), ("sdxl", 6.76e12)])
def test_genuine_shapes(embedded, capsys, shape, denoiser):
    main(["--shape", shape, "--batch-size", "1", "--device", "cpu", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report.keys() >= KEYS
    assert report["wall_clock_ratio"] is None and "GPU" in report["wall_clock_reason"]
    assert report["denoiser_flops_per_step"] == pytest.approx(2 * denoiser, rel=0.01)
    assert 1 < report["flops_ratio"] < 1.02


def test_embedded_shape(embedded, capsys):
    main(["--steps", "3", "--batch-size", "2", "--repeats", "2", "--device", "cpu", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report.keys() >= KEYS
    assert report["wall_clock_ratio"] > 0
    assert len(report["static_seconds"]) == len(report["dynamic_seconds"]) == 2
    assert set(report["evaluator_flops_per_step"]) == {"clip", "discriminator", "reward"}


def test_the_search_over_noise_scores_draws_and_then_scales(embedded, capsys):
    arguments = ["--steps", "4", "--batch-size", "1", "--repeats", "1", "--device", "cpu", "--json"]
    reports = []
    for more in (["--scales", "4"], ["--noises", "3"], ["--noises", "3", "--scales", "2,3,4", "--every", "2"]):
        main([*arguments, *more])
        reports.append(json.loads(capsys.readouterr().out))
    none, three, six = reports
    assert (none["searched_steps"], none["flops_ratio"]) == (0, 1)
    assert (three["searched_steps"], six["searched_steps"]) == (4, 2)
    assert (three["candidates"], six["candidates"]) == (3, 6)
    assert six["evaluator_flops_per_step"]["clip"] == 2 * three["evaluator_flops_per_step"]["clip"]


def test_in_words(embedded, capsys):
    main(["--steps", "2", "--batch-size", "1", "--repeats", "1", "--device", "cpu"])
    assert "dynamic / static" in capsys.readouterr().out
