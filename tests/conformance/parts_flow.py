"""Tiny parts of image pipelines on transformers: language models with tokenizers and processors made here."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    AutoencoderKLWan,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
)
from host import PROMPTS, Host
from PIL import Image
from tiny import DIM
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    ByT5Tokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3Config,
    Qwen3Model,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    T5Config,
    T5EncoderModel,
)

# The special tokens of Qwen's chats, with those of pictures.
CHAT_TOKENS = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = {
    "hidden_size": DIM,
    "intermediate_size": DIM,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
}
# What several hosts have to be noted.
DISTILLED = "Distilled: its scale is an input of the transformer, and there is no unconditional prediction."
OFF = "guidance is off"  # of the messages that refuse
ONE_PASS = "is distilled"
RENORMALISED = "Its guided prediction is brought back to the norm of the conditional one."
TWO_SCALES = "The picture guides, too, by a scale r of its own: ``u + r (i - u) + s (c - i)``."
NEGATED = "Its scheduler takes its predictions with the other sign."


def scheduler(**kwargs) -> FlowMatchEulerDiscreteScheduler:
    """Its shift depends on the number of tokens."""
    return FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, "use_dynamic_shifting": True} | kwargs)


def alive(model: torch.nn.Module, gain: float = 2.0) -> torch.nn.Module:
    """Weights so large that a prompt makes a difference, and none that are zeros."""
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.2)
            elif parameter.ndim > 1:
                parameter.mul_(gain)
    return model


def qwen_tokenizer() -> Qwen2Tokenizer:
    """A token per byte, and those of chats."""
    vocab = {token: i for i, token in enumerate([*sorted(ByteLevel.alphabet()), "<|endoftext|>"])}
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=[], chat_template=CHAT_TEMPLATE)
    tokenizer.add_special_tokens({"additional_special_tokens": CHAT_TOKENS})
    return tokenizer


def token_ids() -> dict[str, int]:
    """What configurations of vision-language models call the special tokens."""
    names = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    return dict(zip(names, qwen_tokenizer().convert_tokens_to_ids(CHAT_TOKENS[2:]), strict=True))


def qwen3(**kwargs) -> dict:
    """A language model with a token per byte, as Z-Image has; it stands for any other, too."""
    config = Qwen3Config(**TEXT | kwargs, vocab_size=len(qwen_tokenizer()), head_dim=8)
    return {"text_encoder": Qwen3Model(config), "tokenizer": qwen_tokenizer()}


def llama() -> LlamaForCausalLM:
    """Over the bytes of `qwen_tokenizer`."""
    return LlamaForCausalLM(LlamaConfig(**TEXT, vocab_size=len(qwen_tokenizer()), attn_implementation="eager"))


def byt5() -> tuple[T5EncoderModel, ByT5Tokenizer]:
    """Of single bytes."""
    tokenizer = ByT5Tokenizer()
    config = T5Config(vocab_size=len(tokenizer), d_model=DIM, d_kv=8, d_ff=DIM, num_layers=1, num_heads=2)
    return T5EncoderModel(config), tokenizer


def qwen_vl() -> dict:
    """The text encoder of Qwen-Image and its tokenizer."""
    config = Qwen2_5_VLConfig(
        text_config=TEXT
        | {
            "vocab_size": len(qwen_tokenizer()),
            "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]},
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": DIM,
            "patch_size": 4,
            "window_size": 8,
            "fullatt_block_indexes": [0],
        },
        **token_ids(),
    )
    return {"text_encoder": Qwen2_5_VLForConditionalGeneration(config), "tokenizer": qwen_tokenizer()}


def qwen3_vl(**kwargs) -> Qwen3VLForConditionalGeneration:
    """The text encoder of Qwen-Image 2.1."""
    config = Qwen3VLConfig(
        text_config=TEXT
        | {
            "vocab_size": len(qwen_tokenizer()),
            "head_dim": 8,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True},
        }
        | kwargs,
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": DIM,
            "patch_size": 4,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
        },
        **token_ids(),
    )
    return Qwen3VLForConditionalGeneration(config)


def qwen_processor(kind: type = Qwen2VLProcessor, video: type = Qwen2VLVideoProcessor):
    """Makes four tokens of a picture; of Qwen2.5-VL or Qwen3-VL."""
    kwargs = {"patch_size": 4, "size": {"shortest_edge": 16 * 16, "longest_edge": 16 * 16}}
    return kind(Qwen2VLImageProcessor(**kwargs), qwen_tokenizer(), video(**kwargs), chat_template=CHAT_TEMPLATE)


def qwen3_processor() -> Qwen3VLProcessor:
    return qwen_processor(Qwen3VLProcessor, Qwen3VLVideoProcessor)


def deep_vae(channels: int = 4, halvings: int = 3, **kwargs) -> AutoencoderKL:
    """Of ``2 ** halvings`` by as many pixels."""
    return AutoencoderKL(
        block_out_channels=(2,) * (halvings + 1),
        down_block_types=("DownEncoderBlock2D",) * (halvings + 1),
        up_block_types=("UpDecoderBlock2D",) * (halvings + 1),
        latent_channels=channels,
        norm_num_groups=2,
        layers_per_block=1,
        mid_block_add_attention=False,
        **kwargs,
    )


def flux2_vae(channels: int = 4) -> AutoencoderKLFlux2:
    """Of 2 by 2 pixels, with statistics for every place in a patch of 2 by 2 latents."""
    model = AutoencoderKLFlux2(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=2,
        sample_size=16,
    )
    model.bn.running_mean.normal_(std=0.1)
    model.bn.running_var.uniform_(0.5, 2.0)
    return model


def qwen_vae(channels: int = 4, halvings: int = 3, **kwargs) -> AutoencoderKLQwenImage:
    """Of ``2 ** halvings`` by as many pixels."""
    return AutoencoderKLQwenImage(
        base_dim=2,
        z_dim=channels,
        dim_mult=[1] * (halvings + 1),
        num_res_blocks=0,
        temperal_downsample=[False] * halvings,
        latents_mean=[0.1] * channels,
        latents_std=[1.5] * channels,
        **kwargs,
    )


def wan_vae(halvings: int, **kwargs) -> AutoencoderKLWan:
    """Of pictures, ``2 ** halvings`` by as many pixels a latent."""
    return AutoencoderKLWan(
        base_dim=2,
        z_dim=4,
        dim_mult=[1] * (halvings + 1),
        num_res_blocks=0,
        temperal_downsample=[False] * halvings,
        latents_mean=[0.1] * 4,
        latents_std=[1.5] * 4,
        scale_factor_spatial=2**halvings,
        **kwargs,
    )


def mask(size: int = 32) -> Image.Image:
    """Of the left half."""
    pixels = np.zeros((size, size), dtype=np.uint8)
    pixels[:, : size // 2] = 255
    return Image.fromarray(pixels)


@dataclass(frozen=True)
class FlowHost(Host):
    """Also says which arguments must be `None` where they would not be by default."""

    nothing: tuple[str, ...] = ()

    def run(self, pipe: DiffusionPipeline, *args: Any, **kwargs: Any) -> torch.Tensor:
        return super().run(functools.partial(pipe, **dict.fromkeys(self.nothing)), *args, **kwargs)


# For the pipelines of one prompt a call.
ONE = {"prompt": PROMPTS[0], "generator": lambda: torch.Generator().manual_seed(0)}


def calls(**kwargs) -> Callable[[], dict[str, Any]]:
    """Arguments of a call with two prompts; functions among them make their values."""
    kwargs = {"prompt": lambda: list(PROMPTS)} | kwargs  # some pipelines write into the list
    return lambda: {key: value() if callable(value) else value for key, value in kwargs.items()}
