"""Judges of pictures in the formats in which they are published, small and with random weights."""

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import open_clip
import torch
from safetensors.torch import save_file
from tiny import text_config, tokenizer, unet
from torch import nn
from transformers import (
    BlipTextConfig,
    BlipTextModel,
    BlipVisionConfig,
    BlipVisionModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Tokenizer,
)

from evaluators.pixel.aesthetic import Aesthetic, AestheticV2
from evaluators.pixel.hps import HPS, HPSv21
from evaluators.pixel.image_reward import ImageReward
from evaluators.pixel.open_clip import OpenCLIPScore
from evaluators.pixel.pickscore import PickScore

JUDGES = {
    "open_clip": OpenCLIPScore,
    "siglip": OpenCLIPScore,
    "pickscore": PickScore,
    "hpsv2": HPS,
    "hpsv2.1": HPSv21,
    "aesthetic": Aesthetic,
    "aesthetic_v2": AestheticV2,
    "image_reward": ImageReward,
}
SIDE = 32
WIDTH = 24  # of the embeddings
CLIP = {
    "embed_dim": WIDTH,
    "vision_cfg": {"image_size": SIDE, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
SIGLIP = {
    "embed_dim": 64,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {"image_size": SIDE, "timm_model_name": "test_vit", "timm_pool": "avg", "timm_proj": "none"},
    "text_cfg": {
        "context_length": 16,
        "vocab_size": 30,
        "hf_tokenizer_name": "timm/ViT-B-16-SigLIP",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "width": 64,
        "heads": 2,
        "layers": 2,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
    },
}
OPENAI = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
VOCABULARY += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"] + ["red", "blue", "circle", "star", "two"]


def save_open_clip(folder: Path, model: dict[str, Any] | None = None, weights: str = "safetensors", **cfg: Any) -> Path:
    """open_clip's layout for ``local-dir:`` and the hub."""
    model = model or CLIP
    folder.mkdir(parents=True, exist_ok=True)
    preprocess = {**OPENAI, "interpolation": "bicubic", "resize_mode": "shortest", **cfg}
    told = json.dumps({"model_cfg": model, "preprocess_cfg": preprocess})
    (folder / "open_clip_config.json").write_text(told)
    made = open_clip.create_model(f"local-dir:{folder}").state_dict()
    if weights == "safetensors":
        save_file(made, folder / "open_clip_model.safetensors")
    else:
        torch.save(made, folder / "open_clip_pytorch_model.bin")
    return folder


def save_siglip(folder: Path) -> Path:
    save_open_clip(folder, SIGLIP, mean=(0.5,) * 3, std=(0.5,) * 3, resize_mode="squash")
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=16).save_pretrained(folder)
    return folder


@contextmanager
def named(name: str, model: dict[str, Any] | None = None) -> Iterator[None]:
    """open_clip's model of that name is small for a while."""
    with patch.dict(open_clip.factory._MODEL_CONFIGS, {name: model or CLIP}):
        yield


def save_hps(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with named("ViT-H-14"):
        torch.save({"state_dict": open_clip.create_model("ViT-H-14").state_dict(), "epoch": 1}, file)
    return file


def save_pickscore(folder: Path, processor: bool = True) -> Path:
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": SIDE, "patch_size": 8}
    config = CLIPConfig(text_config=text_config(), vision_config=vision, projection_dim=WIDTH)
    CLIPModel(config).save_pretrained(folder)
    if processor:
        sizes = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
        CLIPProcessor(CLIPImageProcessor(**sizes), tokenizer()).save_pretrained(folder)
    return folder


def save_head(file: Path, width: int, v2: bool) -> Path:
    """A head in LAION's layout, biased to a middling rating."""
    sizes = [width, 1024, 128, 64, 16, 1] if v2 else [width, 1]
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
    nn.init.constant_(layers[-1].bias, 5.0)
    places = [f"layers.{place}." for place in (0, 2, 4, 6, 7)] if v2 else [""]
    state = {
        p + key: value for p, layer in zip(places, layers, strict=True) for key, value in layer.state_dict().items()
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, file)
    return file


def save_image_reward(folder: Path) -> Path:
    """ImageReward.pt with the names of BLIP's own code, and the tokenizer's vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    text |= {"hidden_act": "gelu", "layer_norm_eps": 1e-12, "max_position_embeddings": 40, "pad_token_id": 0}
    text |= {"vocab_size": len(VOCABULARY) + 2}
    extra = {"add_cross_attention": True, "encoder_width": 768, "model_type": "bert", "type_vocab_size": 2}
    (folder / "med_config.json").write_text(json.dumps(text | extra | {"architectures": ["BertModel"]}))
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    vision_config = {"hidden_size": 128, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision_config |= {"image_size": 32, "patch_size": 16, "initializer_range": 0.2}
    vision = BlipVisionModel(BlipVisionConfig(**vision_config)).state_dict()
    reader = BlipTextModel(
        BlipTextConfig(**text, encoder_hidden_size=128, is_decoder=True, initializer_range=0.2), add_pooling_layer=False
    )
    names = {"embeddings.class_embedding": "cls_token", "embeddings.position_embedding": "pos_embed"}
    names |= {"embeddings.patch_embedding": "patch_embed.proj", "post_layernorm": "norm", "encoder.layers": "blocks"}
    names |= {"self_attn.projection": "attn.proj", "self_attn": "attn", "layer_norm": "norm"}
    state = {"blip.text_encoder.embeddings.position_ids": torch.arange(40)[None]}
    for key, value in vision.items():
        for new, old in names.items():
            key = key.replace(new, old)
        state[f"blip.visual_encoder.{key}"] = value + 0.1 * torch.randn_like(value)
    state |= {f"blip.text_encoder.{key}": value for key, value in reader.state_dict().items()}
    state |= {f"blip.{part}_proj.weight": torch.randn(4, 4) for part in ("vision", "text")}
    head = torch.load(save_head(folder / "head.pth", 32, v2=True))
    (folder / "head.pth").unlink()
    torch.save(state | {f"mlp.{key}": 2 * value for key, value in head.items()}, folder / "ImageReward.pt")
    return folder


def save_lrm(folder: Path, xl: bool = False) -> Path:
    """What LPO's code saves, and the tokenizer, which it takes from elsewhere."""
    tower = {"cross_attention_dim": 16}
    if xl:
        tower = {"cross_attention_dim": 32, "addition_embed_type": "text_time", "addition_time_embed_dim": 8}
        tower |= {"projection_class_embeddings_input_dim": 6 * 8 + 16}
    unet(**tower).save_pretrained(folder / "unet")
    CLIPTextModel(CLIPTextConfig(**text_config())).save_pretrained(folder / "text_encoder")
    state = {"visual_projection": {"weight": torch.randn(16, 8 + 16 + 16)}, "logit_scale": torch.tensor(2.6592)}
    if xl:
        CLIPTextModelWithProjection(CLIPTextConfig(**text_config())).save_pretrained(folder / "text_encoder_2")
    else:
        state["text_projection"] = {"weight": torch.randn(16, 16)}
    torch.save(state, folder / "state_dict.pt")
    tokenizer().save_pretrained(folder / "tokenizer")
    return folder
