"""How long a benchmark takes: what is counted, and that what is kept is not."""

import re

import pytest
from tqdm.auto import tqdm

from benchmarks import embedded as embedded_model
from benchmarks import pictures, progress, rivals
from guidance import Static

PROMPTS = ["a red circle", "two blue stars", "three green squares"]


@pytest.fixture
def pipe(embedded):
    return embedded_model.load()


def test_what_is_kept_is_not_counted(pipe, tmp_path, monkeypatch):
    monkeypatch.setitem(pictures.BATCH, "cpu", 2)
    method = rivals.Method(Static(3.0), steps=2)
    count = lambda: pictures.pending(pipe, method, PROMPTS, range(2), tmp_path)  # noqa: E731
    assert count() == 3 * 2 * method.passes == 24
    bar = tqdm(total=count(), disable=False)
    pictures.run(pipe, method, PROMPTS, range(2), tmp_path, bar)
    assert (bar.n, count()) == (24, 0)
    pictures.run(pipe, method, PROMPTS, range(2), tmp_path, bar)
    assert bar.n == 24, "nothing was made"
    next(tmp_path.glob("*.npz")).unlink()
    assert count() == 8, "one batch of two pictures"
    assert pictures.pending(pipe, method, PROMPTS, range(2), None) == 24


def test_the_time_is_said_first(pipe, monkeypatch, capsys):
    monkeypatch.setattr(progress, "speed", lambda *args: 100.0)
    progress.progress(pipe, 1_110_000, PROMPTS).close()
    assert "1,110,000 passes of the denoiser, 100 a second: about 3 h 6 min" in capsys.readouterr().err
    progress.progress(pipe, 0, PROMPTS).close()
    assert "a second" not in re.sub("passes/s", "", capsys.readouterr().err)


def test_the_speed_is_of_a_whole_batch(pipe, monkeypatch):
    made = []
    monkeypatch.setitem(pictures.BATCH, "cpu", 5)
    monkeypatch.setattr(pictures, "make", lambda pipe, method, rows: made.append((method.steps, len(rows))))
    assert progress.speed(pipe, PROMPTS) > 0
    assert made == [(progress.PROBE, 5)] * 2, "once to compile"


@pytest.mark.parametrize("seconds, text", [(0, "1 min"), (61, "2 min"), (3600, "1 h 1 min"), (86399, "24 h 0 min")])
def test_duration(seconds, text):
    assert progress.duration(seconds) == text
