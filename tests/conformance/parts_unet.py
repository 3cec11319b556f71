"""Tiny parts of the pipelines around SD and SDXL: controls, image encoders, adapters, and how they are called."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    ControlNetModel,
    ControlNetUnionModel,
    DiffusionPipeline,
    PriorTransformer,
    UNet2DConditionModel,
)
from host import PROMPTS, Host
from parts_flow import alive, mask
from parts_video import clip, picture, row
from PIL import Image
from tiny import DIM, build_sd, build_sdxl, tokenizer, unet
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

SIZE = 16  # height and width of pictures
SHAPE = (4, SIZE // 2, SIZE // 2)
FOREIGN = "does not guide by u + s (c - u)"
# What SDXL's denoiser is told besides the prompt: a pooled prompt and six numbers.
XL = {
    "cross_attention_dim": 2 * DIM,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + DIM,
}
BLOCKS = {
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "norm_num_groups": 4,
    "attention_head_dim": 2,
}


def host(name: str, build: Callable[[], DiffusionPipeline], shape: tuple[int, ...] = SHAPE, **kwargs: Any) -> Host:
    """A `row` of small pictures; `None` for what the pipeline has no argument for."""
    return row(name, build, shape, **{"output": "images", "height": SIZE, "width": SIZE} | kwargs)


def small_picture() -> Image.Image:
    """A picture of noise."""
    return picture(0, SIZE)


def small_pictures() -> list[Image.Image]:
    """One for each prompt."""
    return clip(len(PROMPTS), SIZE)


def small_mask() -> Image.Image:
    """Of the left half."""
    return mask(SIZE)


FROM_IMAGE = {"image": small_picture, "strength": 0.7, "height": None, "width": None}
INPAINT = {"image": small_picture, "mask_image": small_mask, "strength": 0.7}


def sd(kind: type[DiffusionPipeline], **parts: Any) -> DiffusionPipeline:
    """Another pipeline on the parts of SD, some of them replaced."""
    return kind.from_pipe(build_sd(), **parts)


def sdxl(kind: type[DiffusionPipeline], **parts: Any) -> DiffusionPipeline:
    """Another pipeline on the parts of SDXL, some of them replaced."""
    return kind.from_pipe(build_sdxl(), **parts)


def sd_unet(**kwargs: Any) -> UNet2DConditionModel:
    return unet(**{"cross_attention_dim": DIM} | kwargs)


def sdxl_unet(**kwargs: Any) -> UNet2DConditionModel:
    return unet(**XL | kwargs)


def controlnet(kind: type = ControlNetModel, **kwargs: Any) -> torch.nn.Module:
    """Whose control matters from the start, where a new one adds nothing."""
    settings = BLOCKS | {"cross_attention_dim": DIM, "conditioning_embedding_out_channels": (4, 8)} | kwargs
    return alive(kind(**settings), gain=1.0)


def union_controlnet() -> torch.nn.Module:
    """Of two kinds of control, for SDXL."""
    small = {"num_control_type": 2, "num_trans_channel": 8, "num_trans_head": 2, "num_proj_channel": 8}
    return controlnet(ControlNetUnionModel, **XL, **small)


def vision(size: int = 8, **kwargs: Any) -> CLIPVisionModelWithProjection:
    """An image encoder of 5 tokens."""
    config = {
        "hidden_size": DIM,
        "intermediate_size": DIM,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": size,
        "patch_size": 4,
        "projection_dim": DIM,
    }
    return CLIPVisionModelWithProjection(CLIPVisionConfig(**config | kwargs))


def vision_processor(size: int = 8) -> CLIPImageProcessor:
    return CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})


def image_prompted(pipe: DiffusionPipeline) -> DiffusionPipeline:
    """`pipe` with an IP-Adapter, which reads a picture beside the prompt."""
    pipe.register_modules(image_encoder=vision(), feature_extractor=vision_processor())
    dim = pipe.unet.config.cross_attention_dim
    names = [name for name in pipe.unet.attn_processors if name.endswith("attn2.processor")]
    widths = [pipe.unet.get_submodule(name.removesuffix(".processor")).to_q.out_features for name in names]
    weights = {
        f"{2 * i + 1}.to_{part}_ip.weight": torch.randn(width, dim) for i, width in enumerate(widths) for part in "kv"
    }
    image_proj = {
        "proj.weight": torch.randn(4 * dim, DIM),
        "proj.bias": torch.zeros(4 * dim),
        "norm.weight": torch.ones(dim),
        "norm.bias": torch.zeros(dim),
    }
    state = {"image_proj": image_proj, "ip_adapter": weights}
    pipe.load_ip_adapter(state, subfolder="", weight_name="", image_encoder_folder=None, low_cpu_mem_usage=False)
    return pipe


def prior(**kwargs: Any) -> PriorTransformer:
    """Makes an image embedding of a prompt."""
    settings = {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "num_layers": 1,
        "embedding_dim": DIM,
        "num_embeddings": tokenizer().model_max_length,
    }
    model = PriorTransformer(**settings | kwargs)
    torch.nn.init.ones_(model.clip_std)
    return model
