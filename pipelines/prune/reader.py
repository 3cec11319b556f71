"""What a vision encoder knows of each visual token: attention, keys, and its own output."""

import functools
import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from .attention import CHUNK
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


def received(queries: torch.Tensor, keys: torch.Tensor, scale: float) -> torch.Tensor:
    """Attention that each of `keys` ``(..., heads, tokens, head dim)`` receives from all `queries`, mean over heads,
    ``(..., tokens)`` float32; few queries at a time, for all of them would not fit into memory."""
    total = torch.zeros(keys.shape[:-1], device=keys.device)
    for asking in queries.split(CHUNK, -2):
        total = total + (asking @ keys.transpose(-1, -2)).float().mul(scale).softmax(-1).sum(-2)
    return total.mean(-2)


class Read(threading.local):
    """Of the call that this thread is in.

    Attributes:
        features: ``(tokens, 2 + head dim + encoder dim)`` of the forward that runs.
        asked: whether an encoder runs for `EncoderReader.encode`.
        call: what hooks in it saw.
    """

    def __init__(self) -> None:
        self.features: torch.Tensor | None = None
        self.asked = False
        self.call: dict[str, Any] = {}


class EncoderReader:
    """Reads while images are encoded. `generate` does that before it calls the model and may repeat them for beams, so
    what is read travels with the encoder's output.

    Subclasses give `read` and attach the hooks that it needs.

    Attributes:
        head_dim: of the keys that are read.
        projects: whether states are read that `project` brings to what the language model is given.

    Args:
        host: the vision-language model without its head.
    """

    head_dim: int
    projects = False

    def __init__(self, host: VisionLanguageModel) -> None:
        self.host = host
        self.own = Read()

    def attach(self, hooks: Hooks) -> None:
        stock = self.host.get_image_features
        self.host.__dict__["get_image_features"] = functools.wraps(stock)(functools.partial(self.encode, stock))

    def detach(self) -> None:
        self.host.__dict__.pop("get_image_features", None)

    def begin(self, call: Mapping[str, Any]) -> None:
        """A forward of the host with these arguments begins."""
        given = (call.get("mm_encoder_outputs") or {}).get("image")
        self.own.features = getattr(given, "read", None)

    def encode(self, stock: Any, *args: Any, **kwargs: Any) -> Any:
        """`get_image_features`, whose output then also has what was read."""
        call = inspect.signature(stock).bind(*args, **kwargs).arguments
        self.own.asked = True
        try:
            output, self.own.features = self.read(call, functools.partial(stock, *args, **kwargs))
        finally:
            self.own.asked, self.own.call = False, {}
        if not isinstance(output, tuple):
            output.read = self.own.features
        return output

    def project(self, states: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def read(self, call: Mapping[str, Any], run: Callable[[], Any]) -> tuple[Any, torch.Tensor]:
        """What `run` returns, which encodes images, and what was read: 1, attention, keys and states of each visual
        token in order ``(tokens, 2 + head dim + encoder dim)`` float32; zeros where there is no patch."""
        raise NotImplementedError

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
        end = 2 + self.head_dim
        return Reading(spread[..., 0] > 0, spread[..., 1], spread[..., 2:end], spread[..., end:])


class LayerReader(EncoderReader):
    """Recomputes attention and keys from the input of the attention in the encoder layer whose output the language
    model is given.

    Args:
        host: a LLaVA or LLaVA-NeXT model with a CLIP or SigLIP vision tower.
        columns: whether the attention from all patches is read, mean over heads, not that of the class token, summed
            over heads.

    Raises:
        ValueError: `host` is another model, or its vision tower has no class token, which is to be read.
    """

    projects = True

    def __init__(self, host: VisionLanguageModel, columns: bool = False) -> None:
        super().__init__(host)
        kind, tower = host.config.model_type, getattr(host, "vision_tower", None)
        layers: Sequence[CLIPEncoderLayer] = getattr(getattr(tower, "encoder", None), "layers", ())
        towers = ("CLIPEncoderLayer", "SiglipEncoderLayer") if columns else ("CLIPEncoderLayer",)
        if kind not in ("llava", "llava_next") or not len(layers) or type(layers[0]).__name__ not in towers:
            raise ValueError(
                f"`method` reads the class token of the vision encoder, which `model` {kind} does not have: it is for "
                "LLaVA and LLaVA-NeXT with a CLIP vision tower. `visionzip-columns` is for others."
            )
        self.layers, self.columns = layers, columns
        self.head_dim = layers[0].self_attn.head_dim

    def attach(self, hooks: Hooks) -> None:
        for index, layer in enumerate(self.layers):
            hooks.before(layer.self_attn, self.before("states", index))
        hooks.before(self.host.multi_modal_projector, self.before("selected"))
        super().attach(hooks)

    def before(self, name: str, index: int | None = None) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            if self.own.asked and index in (None, self.own.call.get("index")):
                self.own.call[name] = args[0] if args else next(iter(kwargs.values()))

        return hook

    def read(self, call: Mapping[str, Any], run: Callable[[], Any]) -> tuple[Any, torch.Tensor]:
        config = self.host.config
        layer = call.get("vision_feature_layer")
        layer = config.vision_feature_layer if layer is None else layer
        layer = layer if isinstance(layer, int) else layer[-1]  # of several the last
        index = layer - 1 if layer > 0 else len(self.layers) + layer  # hidden state n is the output of layer n - 1
        self.own.call = {"index": index}
        output = run()
        selected = self.own.call["selected"]
        read = self.attention(index, self.own.call["states"])
        if (call.get("vision_feature_select_strategy") or config.vision_feature_select_strategy) == "default":
            read = read[:, 1:]
        return output, self.flat(torch.cat([torch.ones_like(read[..., :1]), read, selected.to(read)], -1), call)

    def attention(self, index: int, states: torch.Tensor) -> torch.Tensor:
        """``(images, tokens, 1 + head dim)``: attention that is read, and mean keys."""
        attention = self.layers[index].self_attn
        asking = states if self.columns else states[:, :1]
        query, keys = (
            part.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
            for part in (attention.q_proj(asking), attention.k_proj(states))
        )
        if self.columns:
            weights = received(query, keys, attention.scale)
        else:
            weights = (query @ keys.transpose(-1, -2)).float().mul(attention.scale).softmax(-1).sum(1)[:, 0]
        return torch.cat([weights[..., None], keys.float().mean(1)], -1)

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
