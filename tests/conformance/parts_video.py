"""Tiny parts of video and audio pipelines: text encoders with tokenizers made here, autoencoders, pictures."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLLTX2Video, AutoencoderKLWan
from host import PROMPTS, Host
from PIL import Image
from tiny import DIM, t5
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlamaConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

SIZE = 32  # height and width of pictures
CHAT = """
{%- for message in messages if message["role"] == "user" %}
{%- if message["content"] is string %}{{ message["content"] }}{% else %}
{%- for part in message["content"] %}{{ part["text"] }}{% endfor %}{% endif %}{% endfor %}
"""
ABOUT = ("scale", "output", "common", "note", "refused", "exact", "changes")  # fields of a Host that `row` passes on


def row(name: str, build: Callable, shape: tuple[int, ...], **kwargs: Any) -> Host:
    """A host, called with `PROMPTS`, the size of `picture` and what of `kwargs` is no field of `Host`; functions among
    them make pictures."""
    about = {"output": "frames"} | {key: kwargs.pop(key) for key in ABOUT & kwargs.keys()}
    arguments = {"prompt": PROMPTS, "height": SIZE, "width": SIZE} | kwargs
    return Host(name, build, lambda: {k: v() if callable(v) else v for k, v in arguments.items()}, shape, **about)


def one_prompt() -> dict:
    """What a pipeline is called with that takes a single prompt."""
    return {"prompt": PROMPTS[0], "generator": lambda: torch.Generator().manual_seed(0), "note": "One prompt a call."}


def filled(model: torch.nn.Module) -> torch.nn.Module:
    """With random numbers where `model` begins with zeros, by which it would ignore what it is told."""
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def picture(seed: int = 0, size: int = SIZE) -> Image.Image:
    """A picture of noise."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def pictures() -> list[Image.Image]:
    """One for each of `PROMPTS`."""
    return [picture(0), picture(1)]


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


def chat_tokenizer() -> T5Tokenizer:
    """The tokenizer of T5 with a chat template, for language models."""
    tokenizer = t5(DIM)[1]
    tokenizer.chat_template = CHAT.strip()
    return tokenizer


def llama_config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=40,
        hidden_size=DIM,
        intermediate_size=DIM,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )


def qwen_config(layers: int = 2) -> dict:
    """Of the language model in Qwen2-VL and its successors."""
    return {
        "vocab_size": len(t5(DIM)[1]),
        "hidden_size": DIM,
        "intermediate_size": DIM,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
        "bos_token_id": None,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }


def qwen2_vl() -> Qwen2VLForConditionalGeneration:
    vision = {"depth": 1, "embed_dim": DIM, "hidden_size": DIM, "num_heads": 2, "patch_size": 4, "mlp_ratio": 1}
    return Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=qwen_config(), vision_config=vision))


def qwen2_5_vl() -> Qwen2_5_VLForConditionalGeneration:
    vision = {
        "depth": 1,
        "hidden_size": DIM,
        "intermediate_size": DIM,
        "num_heads": 2,
        "patch_size": 4,
        "out_hidden_size": DIM,
        "window_size": 16,
        "fullatt_block_indexes": [0],
    }
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=qwen_config(), vision_config=vision))


def gemma3() -> dict:
    """Two layers, with the tokenizer of T5."""
    tokenizer = t5(DIM)[1]
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": DIM,
        "intermediate_size": DIM,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
    }
    vision = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 8,
        "patch_size": 4,
    }
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    return {"text_encoder": Gemma3ForConditionalGeneration(config), "tokenizer": tokenizer}


def clip_vision(kind: type = CLIPVisionModel, size: int = 8) -> dict:
    """An image encoder of 5 tokens and its processor."""
    config = CLIPVisionConfig(
        hidden_size=DIM,
        intermediate_size=DIM,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=size,
        patch_size=size // 2,
        projection_dim=DIM,
    )
    processor = CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    return {"image_encoder": kind(config), "image_processor": processor}


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


def ltx2_vae(channels: int) -> AutoencoderKLLTX2Video:
    """Of 8×8 pixels and 2 frames."""
    return AutoencoderKLLTX2Video(
        latent_channels=channels,
        block_out_channels=(8,),
        down_block_types=("LTX2VideoDownBlock3D",),
        decoder_block_out_channels=(8,),
        layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        spatio_temporal_scaling=(True,),
        decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False),
        downsample_type=("spatiotemporal",),
        upsample_type=("spatiotemporal",),
        upsample_residual=(False,),
        upsample_factor=(1,),
    )
