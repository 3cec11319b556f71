"""Kolors: the denoiser of SDXL behind a language model."""

from typing import Any

import torch
from diffusers import EulerDiscreteScheduler

# By their modules: where the sentencepiece of its own tokenizer is missing, diffusers has no such names.
from diffusers.pipelines.kolors.pipeline_kolors import KolorsPipeline
from diffusers.pipelines.kolors.pipeline_kolors_img2img import KolorsImg2ImgPipeline
from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, ChatGLMModel
from host import register
from parts_unet import FROM_IMAGE, XL, host, sdxl_unet
from tiny import DIM, SD_BETAS, t5, vae
from transformers import BatchEncoding, T5Tokenizer


class PlacedTokenizer(T5Tokenizer):
    """Also says where every token is, as ChatGLM's does."""

    def __call__(self, *args: Any, **kwargs: Any) -> BatchEncoding:
        encoding = super().__call__(*args, **kwargs)
        encoding["position_ids"] = torch.arange(encoding["input_ids"].shape[1]).expand_as(encoding["input_ids"])
        return encoding


def language_model(vocabulary: int) -> ChatGLMModel:
    config = ChatGLMConfig(
        num_layers=2,
        padded_vocab_size=vocabulary,
        hidden_size=DIM,
        ffn_hidden_size=DIM,
        kv_channels=8,
        num_attention_heads=2,
        seq_length=256,
        multi_query_attention=True,
        add_qkv_bias=True,
        original_rope=True,
    )
    model = ChatGLMModel(config, empty_init=False)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.ones_(parameter)  # it leaves them uninitialized
    return model


def kolors(kind: type = KolorsPipeline, **parts):
    tokenizer = t5(DIM)[1]
    tokenizer.__class__ = PlacedTokenizer
    models = {
        "vae": vae(),
        "text_encoder": language_model(len(tokenizer)),
        "tokenizer": tokenizer,
        "unet": sdxl_unet(**XL | {"cross_attention_dim": DIM}),
        "scheduler": EulerDiscreteScheduler(**SD_BETAS, timestep_spacing="leading", steps_offset=1),
    }
    return kind(**models | parts)


register(
    host("kolors", kolors, common=True),
    host("kolors-img2img", lambda: kolors(KolorsImg2ImgPipeline), **FROM_IMAGE),
)
