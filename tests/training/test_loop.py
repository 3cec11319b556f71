"""The training loop: resuming loses nothing, and what ships is the average."""

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

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


def test_batches_prepared_by_other_processes_are_the_same(tmp_path):
    here, _ = train(arguments(tmp_path / "here", "--steps", "30"))
    there, _ = train(arguments(tmp_path / "there", "--steps", "30", "--workers", "2", "--accumulate", "1"))
    assert torch.equal(here.weight, there.weight)


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


def curve(out: Path) -> dict[int, float]:
    rows = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row["loss"] for row in rows}


@pytest.mark.slow
def test_two_processes_train_as_one_of_twice_the_batch(tmp_path, monkeypatch):
    """The same loss curve and the same weights as one process that takes both batches of each step."""
    monkeypatch.setattr(loop, "EVERY", 5)
    one = tmp_path / "one"
    model, report = train(arguments(one, "--steps", "20", "--accumulate", "2"))
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [*launch, __file__, "--out", str(tmp_path / "two"), "--steps", "20"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert curve(tmp_path / "two") == pytest.approx(curve(one), rel=1e-4)
    weights = torch.load(tmp_path / "two" / "weights.pt")
    torch.testing.assert_close(weights, model.weight.detach(), rtol=1e-4, atol=1e-5)
    assert report["samples"] == 20 * 2 * 8


def test_what_is_killed_goes_on_from_a_whole_checkpoint(tmp_path, monkeypatch):
    """Also where it is killed while it writes one."""
    from accelerate import Accelerator

    save = Accelerator.save_state

    def dies(self, path):
        save(self, path)
        if saves := len(list(tmp_path.glob("checkpoint-*"))):
            Path(path, "model.safetensors").write_bytes(b"half")
            raise SystemExit(-signal.SIGKILL if saves else 0)

    args = arguments(tmp_path, "--steps", "40", "--checkpoint-minutes", "0")
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Accelerator, "save_state", dies)
        train(args)
    assert [path.name for path in tmp_path.glob("checkpoint*-*")] == ["checkpoint-1"]
    args.resume = True
    model, report = train(args)
    assert report["steps"] == 40 and [path.name for path in tmp_path.glob("checkpoint*")] == ["checkpoint-40"]
    whole, _ = train(arguments(tmp_path / "whole", "--steps", "40"))
    torch.testing.assert_close(model.weight, whole.weight)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    loop.add_arguments(parser, batch_size=8, lr=1e-2, minutes=1)
    given, loop.EVERY = parser.parse_args(), 5
    trained, _ = train(given)
    torch.save(trained.weight.detach(), given.out / "weights.pt")
