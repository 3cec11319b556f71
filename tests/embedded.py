"""A stand-in for the embedded weights: the shipped classes, shapes and files, with random numbers in them."""

import functools
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from small_lvlm import random_lvlm

import tinyworld
import tinyworld.asking
import tinyworld.pipeline
from evaluators import LatentCounting, LatentDiscriminator, LatentReward, LatentTextRendering
from tinyworld.recipes import clip as train_clip
from tinyworld.recipes import text_to_image as train_text_to_image
from tinyworld.recipes import vae as train_vae
from tinyworld.recipes.tokenizer import build_tokenizer


@functools.cache
def _built() -> tempfile.TemporaryDirectory:  # once for all test folders; deleted at exit
    temporary = tempfile.TemporaryDirectory()
    folder = Path(temporary.name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = build_tokenizer()
        text_encoder, unet = train_text_to_image.build(tokenizer)
        StableDiffusionPipeline(
            vae=train_vae.build(),
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=train_text_to_image.scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(folder / "text_to_image")
        clip = train_clip.build(in_channels=4)
        clip.save_pretrained(folder / "clip")
        LatentDiscriminator().save_pretrained(folder / "discriminator")
        for head in (LatentReward(), LatentTextRendering(), LatentCounting()):
            head.read(clip).save_pretrained(folder / head.name)
    shutil.copytree(random_lvlm(), folder / "lvlm")
    return temporary


@pytest.fixture(scope="session")
def weights() -> Path:
    """A folder like ``tinyworld/weights``: ``text_to_image``, the evaluators and ``lvlm``."""
    return Path(_built().name)


@pytest.fixture
def embedded(weights: Path, monkeypatch) -> Path:
    """The stand-in in the place of the package's weights."""
    monkeypatch.setattr(tinyworld, "WEIGHTS", weights)
    monkeypatch.setattr(tinyworld.pipeline, "WEIGHTS", weights)
    monkeypatch.setattr(tinyworld.asking, "WEIGHTS", weights)
    from_pretrained = tinyworld.pipeline.TinyWorldPipeline.from_pretrained.__func__
    monkeypatch.setattr(from_pretrained, "__defaults__", (weights / "text_to_image",))
    return weights
