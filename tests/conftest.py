"""Tiny pipelines of the genuine classes, saved in the genuine format with random weights and loaded from there."""

import functools
import os
from collections.abc import Callable
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the hub's client is imported, here and by the commands that tests start

import diffusers
import pytest
import torch
import transformers
from diffusers import DiffusionPipeline
from packaging.version import Version
from tiny import BUILDERS, text_config, tokenizer

from evaluators import LatentCLIP, LatentDiscriminator

diffusers.utils.logging.set_verbosity_error()
diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.disable_progress_bar()

# The table of hosts and the families of modular pipelines are those of the newest diffusers.
if Version(diffusers.__version__) < Version("0.42"):
    collect_ignore = ["benchmarks/test_support_table.py", "pipelines/test_modular_families.py"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Callable[[str], Path]:
    """``folder("sd" | "sdxl" | "sd3" | "flux")``: where the pipeline is saved."""

    @functools.cache
    def save(host: str) -> Path:
        path = tmp_path_factory.mktemp(host)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            BUILDERS[host]().save_pretrained(path)
        return path

    return save


@pytest.fixture(scope="session")
def stock(folder) -> Callable[..., DiffusionPipeline]:
    """``stock(host)``: the diffusers pipeline loaded from its folder, shared by all tests: guidance leaves no mark."""

    @functools.cache
    def load(host: str, dtype: torch.dtype = torch.float32) -> DiffusionPipeline:
        pipe = DiffusionPipeline.from_pretrained(folder(host)).to(dtype)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return load


@pytest.fixture
def clip() -> Callable[..., LatentCLIP]:
    """Makes a tiny `LatentCLIP` with random weights."""

    def make(in_channels: int = 4) -> LatentCLIP:
        torch.manual_seed(0)
        model = LatentCLIP(text_config(), in_channels, channels=(8, 16), blocks=(1, 1), dim=8)
        model.tokenizer = tokenizer()
        return model.eval()

    return make


@pytest.fixture
def discriminator() -> Callable[..., LatentDiscriminator]:
    """Makes a tiny `LatentDiscriminator` with random weights."""

    def make(in_channels: int = 4) -> LatentDiscriminator:
        torch.manual_seed(1)
        return LatentDiscriminator(in_channels, channels=(8, 16), blocks=(1, 1), dim=8).eval()

    return make
