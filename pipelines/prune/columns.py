"""What an encoder that merges patches knows of each visual token: attention from all patches, and keys."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from .hooks import Hooks
from .modules import VisionLanguageModel
from .reader import EncoderReader, received


class MergedColumnReader(EncoderReader):
    """Of an encoder like Qwen-VL's, which merges neighbouring patches into one token: from its last block, after the
    rotation, averaged over the patches of a token.

    Args:
        host: Qwen2-VL or Qwen2.5-VL.

    Raises:
        ValueError: `host` is another model.
    """

    def __init__(self, host: VisionLanguageModel) -> None:
        super().__init__(host)
        if host.config.model_type not in ("qwen2_vl", "qwen2_5_vl"):
            raise ValueError(
                f"`method` reads the attention of the vision encoder, which `model` {host.config.model_type} does not "
                "show: it is for Qwen2-VL, Qwen2.5-VL, LLaVA and LLaVA-NeXT."
            )
        self.encoder = host.visual
        attention = self.encoder.blocks[-1].attn
        self.head_dim = attention.qkv.out_features // 3 // attention.num_heads

    def attach(self, hooks: Hooks) -> None:
        hooks.before(self.encoder.blocks[-1].attn, self.before_attention)
        super().attach(hooks)

    def before_attention(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if self.own.asked:
            self.own.call = {"hidden_states": args[0], **kwargs} if args else kwargs

    def read(self, call: Mapping[str, Any], run: Callable[[], Any]) -> tuple[Any, torch.Tensor]:
        output = run()
        given = self.own.call
        attention, states = self.encoder.blocks[-1].attn, given["hidden_states"]
        rotate = sys.modules[type(attention).__module__].apply_rotary_pos_emb_vision
        projected = attention.qkv(states).unflatten(-1, (3, attention.num_heads, -1))
        queries, keys = (
            part.transpose(0, 1) for part in rotate(*projected.unbind(1)[:2], *given["position_embeddings"])
        )
        lengths = given["cu_seqlens"].diff().tolist()
        each = zip(queries.split(lengths, 1), keys.split(lengths, 1), strict=True)
        columns = torch.cat([received(q, k, attention.scaling) for q, k in each])
        read = torch.cat([columns[:, None], keys.float().mean(0)], -1)
        read = read.unflatten(0, (-1, self.encoder.spatial_merge_size**2)).mean(1)
        if hasattr(self.encoder, "window_size"):  # Qwen2.5-VL's blocks see patches window by window
            read = read[self.windows(call["image_grid_thw"]).argsort()]
        return output, torch.cat([torch.ones_like(read[:, :1]), read], -1)

    def windows(self, grid: torch.Tensor) -> torch.Tensor:
        """The place among all tokens of each token in the order of windows, ``(tokens,)``."""
        encoder = self.encoder
        if hasattr(encoder, "get_window_index"):  # before transformers 5.24
            return torch.as_tensor(encoder.get_window_index(grid)[0], device=grid.device)
        find = sys.modules[type(encoder).__module__].get_vision_window_index
        return find(grid, encoder.spatial_merge_size, encoder.window_size, encoder.patch_size)[0]
