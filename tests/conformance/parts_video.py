"""Tiny parts of video and audio pipelines: text encoders with tokenizers made here, autoencoders, pictures."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from host import PROMPTS, Host
from PIL import Image
from tiny import DIM, t5
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

SIZE = 32  # height and width of pictures
ABOUT = ("scale", "output", "common", "note", "refused")  # the fields of a Host that `row` passes on


def row(name: str, build: Callable, shape: tuple[int, ...], **kwargs: Any) -> Host:
    """A host that is called with `PROMPTS`, the size of `picture`, and `kwargs`; functions among them make pictures."""
    about = {"output": "frames"} | {key: kwargs.pop(key) for key in ABOUT if key in kwargs}
    arguments = {"prompt": PROMPTS, "height": SIZE, "width": SIZE} | kwargs
    given = {key: value for key, value in arguments.items() if value is not None}
    return Host(name, build, lambda: {k: v() if callable(v) else v for k, v in given.items()}, shape, **about)


def one_prompt() -> dict:
    """What a pipeline is called with that takes a single prompt."""
    return {"prompt": PROMPTS[0], "generator": lambda: torch.Generator().manual_seed(0), "note": "One prompt a call."}


def picture(seed: int = 0, size: int = SIZE) -> Image.Image:
    """A picture of noise."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def clip(frames: int, size: int = SIZE) -> list[Image.Image]:
    """A video of noise."""
    return [picture(i, size) for i in range(frames)]


def umt5() -> dict:
    """The text encoder and the tokenizer of Wan."""
    tokenizer = t5(DIM)[1]
    config = UMT5Config(
        vocab_size=len(tokenizer), d_model=DIM, d_kv=8, d_ff=DIM, num_layers=1, num_heads=2, tie_word_embeddings=False
    )
    return {"text_encoder": UMT5EncoderModel(config), "tokenizer": tokenizer}


def clip_vision() -> dict:
    """An image encoder of 5 tokens and its processor."""
    config = CLIPVisionConfig(
        hidden_size=DIM,
        intermediate_size=DIM,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
        projection_dim=DIM,
    )
    size = {"height": 8, "width": 8}
    return {
        "image_encoder": CLIPVisionModel(config),
        "image_processor": CLIPImageProcessor(size={"shortest_edge": 8}, crop_size=size),
    }


def wan_vae(channels: int = 4) -> AutoencoderKLWan:
    """Of 8×8 pixels and 4 frames."""
    return AutoencoderKLWan(
        base_dim=4,
        z_dim=channels,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.1] * channels,
        latents_std=[1.5] * channels,
    )
