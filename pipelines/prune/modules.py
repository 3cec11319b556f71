"""What the hooks know of stock transformers modules, for type checkers. Nothing is an instance of these."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

Rotary = tuple[torch.Tensor, ...] | torch.Tensor  # what layers are given as `position_embeddings`


class SelfAttention(nn.Module):
    head_dim: int
    scaling: float
    sliding_window: int | None
    is_sliding: bool  # EXAONE's
    use_rope: bool  # Llama 4's
    floor_scale: int
    q_proj: nn.Linear
    k_proj: nn.Linear


class DecoderLayer(nn.Module):
    """Like Llama's, see `hosts.find_host`."""

    input_layernorm: nn.Module
    self_attn: SelfAttention
    mlp: nn.Module
    feed_forward: nn.Module  # Llama 4's name for it


class LanguageModel(nn.Module):
    """The decoder inside a vision-language model."""

    config: Any
    layers: Sequence[DecoderLayer]
    rotary_emb: nn.Module


class VisionLanguageModel(nn.Module):
    """Without its head."""

    config: Any
    get_input_embeddings: Callable[[], nn.Module]
    get_image_features: Callable[..., Any]
    multi_modal_projector: nn.Module  # LLaVA's
    pack_image_features: Callable[..., Any]  # LLaVA-NeXT's
    visual: Any  # Qwen-VL's encoder
