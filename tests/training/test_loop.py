"""The training loop: resuming loses nothing, and what ships is the average."""

import argparse
import json

import pytest
import torch

from training import loop


def arguments(out, *more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    loop.add_arguments(parser, batch_size=8, lr=1e-2, minutes=1)
    return parser.parse_args(["--out", str(out), *more])


def batch_of(step: int) -> torch.Tensor:
    return torch.randn(8, 4, generator=torch.Generator().manual_seed(step))


def loss_of(model, batch):
    return (model(batch) - batch.sum(1, keepdim=True)).square().mean(), {}


def train(args: argparse.Namespace) -> tuple[torch.nn.Module, dict]:
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    return model, loop.fit(args, model, batch_of, loss_of)


def test_it_learns_and_reports(tmp_path):
    model, report = train(arguments(tmp_path, "--steps", "400"))
    assert loss_of(model, batch_of(10_000))[0].item() < 0.5
    assert report["steps"] == 400 and report["samples"] == 3200 and report["seed"] == 0
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [100, 200, 300, 400]
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, monkeypatch):
    whole, _ = train(arguments(tmp_path / "whole", "--steps", "40"))

    def dies(step: int) -> torch.Tensor:
        if step == 25:
            raise KeyboardInterrupt
        return batch_of(step)

    args = arguments(tmp_path / "cut", "--steps", "40", "--checkpoint-minutes", "0")
    torch.manual_seed(0)
    with pytest.raises(KeyboardInterrupt):
        loop.fit(args, torch.nn.Linear(4, 1), dies, loss_of)
    args.resume = True
    seen = []
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    report = loop.fit(args, model, lambda step: seen.append(step) or batch_of(step), loss_of)
    assert seen == list(range(25, 40)) and report["steps"] == 40
    assert torch.allclose(model.weight, whole.weight)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(FloatingPointError, match="step 0"):
        loop.fit(arguments(tmp_path), torch.nn.Linear(4, 1), batch_of, lambda m, b: (m(b).sum() * torch.nan, {}))
