"""The exponential schedule against its formula, and that the registry reaches every user of it."""

import math

import numpy as np
import pytest
from scipy.integrate import trapezoid

from demos import generate
from guidance import SCHEDULES, Exponential


@pytest.mark.parametrize("rate", [0.1, 1.0, 4.0])
def test_exponential(rate):
    schedule = Exponential(5.0, rate)
    progress = np.linspace(0, 1, 10_001)
    scales = np.array([schedule.at(p) for p in progress])
    assert trapezoid(scales, progress) == pytest.approx(5.0, rel=1e-6), "`guidance_scale` is the mean"
    decay = np.exp(-rate * (1 - progress))  # in diffusion time, which runs against the sampling
    assert scales / scales[-1] == pytest.approx(decay)
    assert scales[-1] == pytest.approx(5.0 * rate / (1 - math.exp(-rate)))


@pytest.mark.parametrize("scale", [-1.0, math.nan, "7.5"])
def test_exponential_refuses_scale(scale):
    with pytest.raises(ValueError, match="`guidance_scale` must be a finite number of at least 0"):
        Exponential(scale)


@pytest.mark.parametrize("rate", [-1.0, 0.0, math.nan, math.inf, None])
def test_exponential_refuses_rate(rate):
    with pytest.raises(ValueError, match="`rate` must be"):
        Exponential(5.0, rate)


def test_as_the_paper_writes_it():
    """``omega exp(rate (1 - t))``, omega being the scale at t = 1."""
    schedule = Exponential(5.0, math.log(2))
    assert [schedule.at(p) / schedule.at(0) for p in (0.25, 1)] == pytest.approx([2**0.25, 2])


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_command_line_takes_every_schedule(name, tmp_path):
    assert generate.parse(["a red circle", "--guidance", name, "--model", str(model_folder(tmp_path))]).guidance == name


def model_folder(path):
    (path / "model_index.json").write_text("{}")
    return path
