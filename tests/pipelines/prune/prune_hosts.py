"""Genuine vision-language models at tiny random configurations, and inputs for them."""

from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    MistralConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

IMAGE, VIDEO, PAD, EOS = 60, 61, 0, 59
DEPTH = 5
TEXT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": EOS,
    "initializer_range": 0.2,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}
HOSTS = ("llava", "llava_next", "qwen2_vl", "qwen2_5_vl", "idefics3", "smolvlm")
# The image of a row, twice as many tokens where there are two, and none at all.
IMAGES = (1, 2, 0)


def build(name: str, attention: str = "sdpa", text: str = "llama") -> Any:
    """A model of the host `name` in eval mode with weights from a fixed seed."""
    torch.manual_seed(0)
    decoder = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config}[text]
    text_config = {**TEXT, "sliding_window": None} if text == "mistral" else TEXT
    if name in ("llava", "llava_next"):
        config_class, model_class = {
            "llava": (LlavaConfig, LlavaForConditionalGeneration),
            "llava_next": (LlavaNextConfig, LlavaNextForConditionalGeneration),
        }[name]
        more = {"image_grid_pinpoints": [[16, 32], [32, 16]]} if name == "llava_next" else {}
        config = config_class(
            vision_config=CLIPVisionConfig(**VISION),
            text_config=decoder(**text_config),
            image_token_id=IMAGE,
            vision_feature_layer=-2,
            **more,
        )
    elif name in ("qwen2_vl", "qwen2_5_vl"):
        rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
        text_config = {**TEXT, "rope_parameters": rope, "use_sliding_window": False}
        vision = {"depth": 2, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2}
        if name == "qwen2_vl":
            config_class, model_class = Qwen2VLConfig, Qwen2VLForConditionalGeneration
            vision |= {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2}
        else:
            config_class, model_class = Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
            vision |= {"hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 48, "window_size": 16}
            vision |= {"fullatt_block_indexes": [1]}
        config = config_class(text_config=text_config, vision_config=vision, image_token_id=IMAGE, video_token_id=VIDEO)
    else:
        config_class, model_class = {
            "idefics3": (Idefics3Config, Idefics3ForConditionalGeneration),
            "smolvlm": (SmolVLMConfig, SmolVLMForConditionalGeneration),
        }[name]
        config = config_class(
            vision_config={**VISION, "image_size": 32},
            text_config={**TEXT, "model_type": "llama"},
            image_token_id=IMAGE,
            scale_factor=2,
            pad_token_id=PAD,
        )
    config._attn_implementation = attention
    model = model_class(config).eval()
    assert model.config.get_text_config()._attn_implementation == attention
    model.generation_config.suppress_tokens = [IMAGE, VIDEO, EOS]
    return model


def images(name: str, count: int, generator: torch.Generator) -> tuple[dict[str, torch.Tensor], int]:
    """What the processor would give for `count` images, and how many visual tokens each has."""
    if name == "llava":
        return {"pixel_values": torch.randn(count, 3, 16, 16, generator=generator)}, 16
    if name == "llava_next":  # the base image and 2 tiles, and a newline after each of 4 rows of 8
        pixels = torch.randn(count, 3, 3, 16, 16, generator=generator)
        return {"pixel_values": pixels, "image_sizes": torch.tensor([[16, 32]] * count)}, 16 + 4 * 9
    if name in ("qwen2_vl", "qwen2_5_vl"):
        pixels = torch.randn(count * 64, 3 * 2 * 4 * 4, generator=generator)
        return {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, 8, 8]] * count)}, 16
    return {"pixel_values": torch.randn(count, 3, 32, 32, generator=generator)}, 16


def inputs(name: str, rows: tuple[int, ...] = IMAGES, side: str = "left", seed: int = 0) -> dict[str, torch.Tensor]:
    """A batch with ``rows[i]`` images in row i and text of another length in each.

    Row i is the same in every batch with the same `seed` that has `IMAGES` rows before it, see `row`.
    """
    return collate(name, [row(name, count, 100 * seed + i) for i, count in enumerate(rows)], side)


def row(name: str, count: int, seed: int) -> dict[str, Any]:
    """One sample: ids, and the tensors of its images."""
    generator = torch.Generator().manual_seed(seed)
    pixels, tokens = images(name, count, generator)
    ids: list[int] = [1]
    for _ in range(count):
        ids += torch.randint(2, 50, (2,), generator=generator).tolist() + [IMAGE] * tokens
    ids += torch.randint(2, 50, (4 + seed % 5,), generator=generator).tolist()
    return {"ids": ids, "pixels": pixels, "count": count}


# In patches for Qwen-VL, in pixels for LLaVA-NeXT: small, large, and one of each.
SIZES = (("small",), ("large",), ("large", "small"))


def row_of_sizes(name: str, sizes: tuple[str, ...], seed: int) -> dict[str, Any]:
    """As `row`, with images of these `SIZES`."""
    generator = torch.Generator().manual_seed(seed)
    if name == "llava_next":  # tiles beside or above one another, with a newline after each row
        shapes, tokens = {"small": [16, 32], "large": [32, 16]}, {"small": 16 + 4 * 9, "large": 16 + 8 * 5}
        pixels = torch.randn(len(sizes), 3, 3, 16, 16, generator=generator)
        tensors = {"pixel_values": pixels, "image_sizes": torch.tensor([shapes[s] for s in sizes])}
    else:
        grids, tokens = {"small": [1, 4, 8], "large": [1, 8, 8]}, {"small": 8, "large": 16}
        grid = torch.tensor([grids[s] for s in sizes])
        pixels = torch.randn(int(grid.prod(1).sum()), 3 * 2 * 4 * 4, generator=generator)
        tensors = {"pixel_values": pixels, "image_grid_thw": grid}
    ids = [1]
    for size in sizes:
        ids += [*torch.randint(2, 50, (2,), generator=generator).tolist(), *[IMAGE] * tokens[size]]
    ids += torch.randint(2, 50, (4 + seed,), generator=generator).tolist()
    return {"ids": ids, "pixels": tensors, "count": len(sizes)}


def collate(name: str, samples: list[dict[str, Any]], side: str = "left") -> dict[str, torch.Tensor]:
    """Samples to one padded batch, as a processor does it."""
    length = max(len(s["ids"]) for s in samples)
    pad = [[PAD] * (length - len(s["ids"])) for s in samples]
    ids = [p + s["ids"] if side == "left" else s["ids"] + p for p, s in zip(pad, samples, strict=True)]
    on = [[0] * len(p) for p in pad]
    mask = [
        p + [1] * len(s["ids"]) if side == "left" else [1] * len(s["ids"]) + p for p, s in zip(on, samples, strict=True)
    ]
    batch = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
    if name in ("qwen2_vl", "qwen2_5_vl"):
        batch["mm_token_type_ids"] = (batch["input_ids"] == IMAGE).int()
    if not any(s["count"] for s in samples):
        return batch
    if name in ("idefics3", "smolvlm"):
        most = max(s["count"] for s in samples)
        stacked = [torch.cat([s["pixels"]["pixel_values"], torch.zeros(most - s["count"], 3, 32, 32)]) for s in samples]
        return batch | {"pixel_values": torch.stack(stacked)}
    with_images = [s["pixels"] for s in samples if s["count"]]
    return batch | {key: torch.cat([p[key] for p in with_images]) for key in with_images[0]}


def only(batch: dict[str, Any]) -> dict[str, Any]:
    """The inputs that hold the text."""
    types = ("token_type_ids", "mm_token_type_ids", "moe_mm_token_type_ids")
    return {k: v for k, v in batch.items() if k in ("input_ids", "attention_mask", *types)}


def extend(batch: dict[str, Any], ids: torch.Tensor) -> dict[str, Any]:
    """`batch` with its text replaced by the longer `ids` ``(batch, length)``; PaliGemma, whose types are 0 all over the
    prompt, has 1 for what is answered."""
    extra = ids.shape[1] - batch["input_ids"].shape[1]
    ones = {"attention_mask"} | ({"token_type_ids"} if not batch.get("token_type_ids", ids).any() else set())
    grown = {k: torch.nn.functional.pad(v, (0, extra), value=int(k in ones)) for k, v in only(batch).items()}
    return batch | grown | {"input_ids": ids}


def language_model(model: Any) -> Any:
    return getattr(model.model, "text_model", None) or model.model.language_model


def masked_logits(model: Any, batch: dict[str, Any], gone: dict[int, torch.Tensor], **kwargs: Any) -> torch.Tensor:
    """The logits of `masked`."""
    return masked(model, batch, gone, **kwargs).logits


def masked(
    model: Any,
    batch: dict[str, Any],
    gone: dict[int, torch.Tensor],
    renumber: bool = False,
    decoder: Any = None,
    **kwargs: Any,
) -> Any:
    """What pruning must give at the tokens that stay, by another road: every token stays in the sequence, and from
    layer n on nobody attends to those in ``gone[n]`` ``(batch, length)``, by the model's own mask but for that."""
    decoder = decoder or language_model(model)
    real = batch["attention_mask"].bool()
    length = real.shape[1]
    hooks = []

    def replace(absent: torch.Tensor) -> Any:
        def hook(module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple:
            own = kwargs.get("attention_mask")
            seen = torch.ones(1, length, length, dtype=torch.bool).tril() if own is None else own[:, 0]
            seen = seen if seen.dtype == torch.bool else seen == 0
            allowed = real[:, None] & ~absent[:, None] & seen
            mask = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)[:, None]
            kwargs = kwargs | {"attention_mask": mask}
            if renumber:
                ids = ((real & ~absent).cumsum(1) - 1).clamp(min=0)
                kwargs["position_embeddings"] = decoder.rotary_emb(torch.zeros(1), ids)
            return args, kwargs

        return hook

    absent = torch.zeros_like(real)
    for index, layer in enumerate(decoder.layers):
        absent = gone.get(index, absent)
        hooks.append(layer.register_forward_pre_hook(replace(absent), with_kwargs=True))
    try:
        return model(**batch, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()


def gone(trace: Any, length: int) -> dict[int, torch.Tensor]:
    """Of a `PruningTrace`, the dropped tokens after each layer, in a sequence that has grown to `length`."""
    grow = length - trace.visual.shape[1]
    return {n: torch.nn.functional.pad(trace.visual & ~kept, (0, grow)) for n, kept in trace.kept.items()}
