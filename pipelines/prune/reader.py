"""What LLaVA's vision encoder knows of each visual token: its class token's attention, keys, and its own output."""

import functools
import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from .hooks import Hooks
from .modules import VisionLanguageModel

if TYPE_CHECKING:
    from transformers.models.clip.modeling_clip import CLIPEncoderLayer


class Reading(NamedTuple):
    """See `TokenContext`; everything is zero where there is no patch.

    Attributes:
        patches: ``(batch, length)`` bool.
        attention: ``(batch, length)`` float32.
        keys: ``(batch, length, head dim)`` float32.
        states: ``(batch, length, encoder dim)`` float32.
    """

    patches: torch.Tensor
    attention: torch.Tensor
    keys: torch.Tensor
    states: torch.Tensor


class Read(threading.local):
    """Of the call that this thread is in.

    Attributes:
        features: ``(tokens, 2 + head dim + encoder dim)`` of the forward that runs.
        layer: which layer's attention is waited for, and `states`: its input.
        selected: ``(images, tokens, encoder dim)``, what the projector was given.
    """

    def __init__(self) -> None:
        self.features: torch.Tensor | None = None
        self.layer: int | None = None
        self.states: torch.Tensor | None = None
        self.selected: torch.Tensor | None = None


class ClassTokenReader:
    """Recomputes attention and keys from the input of the attention in the encoder layer whose output the language
    model is given.

    `generate` encodes images before it calls the model and may repeat them for beams, so what is read travels with the
    encoder's output.

    Args:
        host: a LLaVA or LLaVA-NeXT model with a CLIP vision tower.

    Raises:
        ValueError: `host` is another model, or its vision tower has no class token.
    """

    def __init__(self, host: VisionLanguageModel) -> None:
        kind, tower = host.config.model_type, getattr(host, "vision_tower", None)
        layers: Sequence[CLIPEncoderLayer] = getattr(getattr(tower, "encoder", None), "layers", ())
        if kind not in ("llava", "llava_next") or not len(layers) or type(layers[0]).__name__ != "CLIPEncoderLayer":
            raise ValueError(
                f"`method` reads the class token of the vision encoder, which `model` {kind} does not have: it is for "
                "LLaVA and LLaVA-NeXT with a CLIP vision tower."
            )
        self.host, self.layers = host, layers
        self.own = Read()

    def attach(self, hooks: Hooks) -> None:
        for index, layer in enumerate(self.layers):
            hooks.before(layer.self_attn, self.before_attention(index))
        hooks.before(self.host.multi_modal_projector, self.before_projector)
        stock = self.host.get_image_features
        self.host.__dict__["get_image_features"] = functools.wraps(stock)(functools.partial(self.encode, stock))

    def detach(self) -> None:
        self.host.__dict__.pop("get_image_features", None)

    def begin(self, call: Mapping[str, Any]) -> None:
        """A forward of the host with these arguments begins."""
        given = (call.get("mm_encoder_outputs") or {}).get("image")
        self.own.features = getattr(given, "class_token", None)

    def before_attention(self, index: int) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            if index == self.own.layer:
                self.own.states = args[0] if args else kwargs["hidden_states"]

        return hook

    def before_projector(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if self.own.layer is not None:
            self.own.selected = args[0] if args else kwargs["image_features"]

    def encode(self, stock: Any, *args: Any, **kwargs: Any) -> Any:
        """`get_image_features`, whose output then also has what was read."""
        call = inspect.signature(stock).bind(*args, **kwargs).arguments
        config = self.host.config
        layer = call.get("vision_feature_layer")
        layer = config.vision_feature_layer if layer is None else layer
        layer = layer if isinstance(layer, int) else layer[-1]  # of several the last
        index = layer - 1 if layer > 0 else len(self.layers) + layer  # hidden state n is the output of layer n - 1
        self.own.layer = index
        try:
            output = stock(*args, **kwargs)
            states, selected = self.own.states, self.own.selected
        finally:
            self.own.layer = self.own.states = self.own.selected = None
        assert states is not None and selected is not None
        read = self.read(index, states)
        if (call.get("vision_feature_select_strategy") or config.vision_feature_select_strategy) == "default":
            read = read[:, 1:]
        read = torch.cat([torch.ones_like(read[..., :1]), read, selected.to(read)], -1)
        self.own.features = self.flat(read, call)
        if not isinstance(output, tuple):
            output.class_token = self.own.features
        return output

    def read(self, index: int, states: torch.Tensor) -> torch.Tensor:
        """``(images, tokens, 1 + head dim)``: attention of the class token summed over heads, and mean keys."""
        attention = self.layers[index].self_attn
        query, keys = (
            part.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
            for part in (attention.q_proj(states[:, :1]), attention.k_proj(states))
        )
        weights = (query @ keys.transpose(-1, -2)).float().mul(attention.scale).softmax(-1)
        return torch.cat([weights.sum(1).transpose(1, 2), keys.float().mean(1)], -1)

    def flat(self, read: torch.Tensor, call: Mapping[str, Any]) -> torch.Tensor:
        """In the order of the visual tokens, ``(tokens, any)``; LLaVA-NeXT's newlines have zeros."""
        config = self.host.config
        if config.model_type == "llava":
            return read.flatten(0, 1)
        from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

        pinpoints, side, sizes = config.image_grid_pinpoints, config.vision_config.image_size, call["image_sizes"]
        tiles = [image_size_to_num_patches(size, pinpoints, side) for size in sizes]
        strategy = call.get("vision_feature_select_strategy") or config.vision_feature_select_strategy
        newline = read.new_zeros(read.shape[-1])
        packed, _ = self.host.pack_image_features(read.split(tiles), sizes, strategy, image_newline=newline)
        return torch.cat(list(packed))

    def project(self, states: torch.Tensor) -> torch.Tensor:
        """``(..., encoder dim)`` to what the language model is given, ``(..., dim)``."""
        projector = self.host.multi_modal_projector
        weight = next(projector.parameters())
        return projector(states.to(weight.device, weight.dtype))

    def __call__(self, visual: torch.Tensor) -> Reading:
        """What was read of the tokens where `visual` ``(batch, length)``.

        Raises:
            ValueError: the visual tokens did not come through the vision encoder while pruning.
        """
        features = self.own.features
        if features is None:
            raise ValueError("`method` reads the vision encoder: give `model` images, or features made while pruning.")
        count, tokens = len(features), int(visual.sum())
        repeats = max(1, tokens // max(1, count))  # rows that `generate` repeated come one after the other
        if count * repeats != tokens or visual[::repeats].sum() != count:
            raise ValueError(f"`input_ids` have {tokens} unpadded visual tokens, the images {count}.")
        rows = visual[::repeats].to(features.device)
        spread = features.new_zeros(*rows.shape, features.shape[1])
        spread = spread.masked_scatter(rows[..., None], features).repeat_interleave(repeats, 0)
        spread = spread.to(visual.device)
        dim = self.layers[0].self_attn.head_dim
        return Reading(spread[..., 0] > 0, spread[..., 1], spread[..., 2 : 2 + dim], spread[..., 2 + dim :])
