"""A batch with a cheap stand-in for denoising, and what its folder holds."""

import numpy as np
import pytest
import torch
from PIL import Image

from demos import generate
from demos.batch import main
from demos.denoising import Made
from demos.manifest import Manifest
from guidance import GuidanceTrace

THREE = "a red star\na blue ring\n<b>&\n"


@pytest.fixture
def prompts(ram):
    file = ram / "prompts.txt"
    file.write_text(THREE)
    return str(file)


class Pipe:
    def set_progress_bar_config(self, **kwargs):
        pass


def draw(pipe, guidance, prompts, seeds, steps):
    """A picture and a trace that depend on prompt and seed alone."""
    rngs = [np.random.default_rng([len(prompt), seed]) for prompt, seed in zip(prompts, seeds, strict=True)]
    noise = [rng.integers(0, 256, (16, 16, 3), np.uint8) for rng in rngs]
    step = {"timestep": 1, "noise_level": 0.5, "scale": torch.full((len(prompts),), guidance.guidance_scale)}
    trace = GuidanceTrace((), list(prompts), [step] * steps)
    return Made([Image.fromarray(array) for array in noise], trace, list(range(len(prompts))))


@pytest.fixture
def made(monkeypatch, embedded):
    """What the stand-in was asked to make: (method's scale, prompt, seed)."""
    jobs = []

    def denoise(pipe, guidance, prompts, seeds, steps):
        jobs.extend((guidance.guidance_scale, prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True))
        return draw(pipe, guidance, prompts, seeds, steps)

    monkeypatch.setattr(generate, "load", lambda args: (Pipe(), None))
    monkeypatch.setattr(generate, "denoise", denoise)
    return jobs


def run(prompts, out, *more):
    main([prompts, "--methods", "static:2", "interval:5", "--seeds", "0:2", "9", "--out", str(out), *more])


def images(out):
    with Manifest(out, read_only=True) as manifest:
        return manifest.images()
