"""Genuine configurations with random weights, whose cost is that of the trained ones."""

from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

TEXT_TOKENS = 64  # of the instruction, after the image

# The published configurations, as far as cost goes. An image of LLaVA-1.5 is 336×336, that of Qwen2.5-VL here 672×672:
# 576 visual tokens each.
SHAPES: dict[str, dict[str, Any]] = {
    "llava-1.5-7b": {
        "vision": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 336,
            "patch_size": 14,
        },
        "text": {
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "vocab_size": 32064,
            "max_position_embeddings": 4096,
        },
        "image_token": 32000,
    },
    "qwen2.5-vl-7b": {
        "vision": {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "out_hidden_size": 3584,
            "num_heads": 16,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
        },
        "text": {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
            "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        },
        "image_token": 151655,
        "video_token": 151656,
        "grid": 48,  # patches along a side
    },
    "clip-vit-b-16": {  # a vision encoder on its own
        "vision": {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "image_size": 224,
            "patch_size": 16,
            "projection_dim": 512,
        },
    },
}
ENCODERS = tuple(name for name, numbers in SHAPES.items() if "text" not in numbers)


def build(shape: str, device: str) -> Any:
    """The model of `shape` in eval mode: fp16 on a GPU, else float32."""
    numbers = SHAPES[shape]
    if shape in ENCODERS:
        config, model_class = CLIPVisionConfig(**numbers["vision"]), CLIPVisionModelWithProjection
    elif shape.startswith("llava"):
        config = LlavaConfig(
            vision_config=CLIPVisionConfig(**numbers["vision"]),
            text_config=LlamaConfig(**numbers["text"]),
            image_token_index=numbers["image_token"],
        )
        model_class = LlavaForConditionalGeneration
    else:
        config = Qwen2_5_VLConfig(
            vision_config=numbers["vision"],
            text_config={**numbers["text"], "use_sliding_window": False},
            image_token_id=numbers["image_token"],
            video_token_id=numbers["video_token"],
        )
        model_class = Qwen2_5_VLForConditionalGeneration
    config.grid = numbers.get("grid")
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16 if device.startswith("cuda") else torch.float32)
    try:
        with torch.device(device):  # random numbers for 7 B parameters are made in seconds there, and never copied
            model = model_class(config)
    finally:
        torch.set_default_dtype(default)
    if shape not in ENCODERS:  # a random model may want to write an image token, which would ask for an image
        special = [numbers["image_token"], numbers.get("video_token")]
        model.generation_config.suppress_tokens = [token for token in special if token is not None]
    return model.to(device).eval()


def inputs(model: Any, batch_size: int) -> dict[str, torch.Tensor]:
    """Rows of one image and then `TEXT_TOKENS` tokens of text; images alone for an encoder."""
    config, device, dtype = model.config, model.device, model.dtype
    generator = torch.Generator().manual_seed(0)
    if isinstance(config, CLIPVisionConfig):
        side = config.image_size
        return {"pixel_values": torch.randn(batch_size, 3, side, side, generator=generator).to(device, dtype)}
    text = torch.randint(3, 60, (batch_size, TEXT_TOKENS), generator=generator)
    if config.model_type == "llava":
        side = config.vision_config.image_size
        tokens = (side // config.vision_config.patch_size) ** 2
        pixels = torch.randn(batch_size, 3, side, side, generator=generator)
        more = {}
    else:
        vision, grid = config.vision_config, config.grid
        tokens = (grid // vision.spatial_merge_size) ** 2
        width = 3 * vision.temporal_patch_size * vision.patch_size**2
        pixels = torch.randn(batch_size * grid * grid, width, generator=generator)
        more = {"image_grid_thw": torch.tensor([[1, grid, grid]] * batch_size)}
    ids = torch.cat([torch.full((batch_size, tokens), config.image_token_id), text], 1)
    ids = torch.cat([torch.ones(batch_size, 1, dtype=torch.long), ids], 1)
    if config.model_type != "llava":
        more["mm_token_type_ids"] = (ids == config.image_token_id).int()
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **more}
    return {k: v.to(device) for k, v in batch.items()} | {"pixel_values": pixels.to(device, dtype)}
