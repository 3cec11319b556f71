"""A vision-language model of the embedded one's classes and files, very small and with random numbers in it."""

import functools
import tempfile
from pathlib import Path

import pytest
import torch

from tinyworld.recipes.lvlm import build
from tinyworld.recipes.processor import build_processor

VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 8, "num_attention_heads": 2}

small = functools.partial(build, vision=VISION, text={**TEXT, "initializer_range": 0.2})


@functools.cache
def _built() -> tempfile.TemporaryDirectory:  # once for all test folders; deleted at exit
    temporary = tempfile.TemporaryDirectory()
    processor = build_processor()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        small(processor).save_pretrained(Path(temporary.name) / "lvlm")
    processor.save_pretrained(Path(temporary.name) / "lvlm")
    return temporary


def random_lvlm() -> Path:
    """The folder of the model and its processor."""
    return Path(_built().name) / "lvlm"


@pytest.fixture(scope="session")
def lvlm_weights() -> Path:
    """A folder like ``tinyworld/weights`` with ``lvlm`` in it."""
    return Path(_built().name)
