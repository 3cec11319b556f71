"""Which models can be pruned: told by what they are made of, and what is missing is said."""

import inspect
import sys
from typing import Any, cast

from torch import nn

from evaluators.token.base import observes
from guidance.tokens.pruning import TokenPruning

from .images import KINDS, token_id
from .masks import REACH, layer_kinds, reads_both_ways
from .modules import LanguageModel, VisionLanguageModel

ATTENTION = ("q_proj", "k_proj", "head_dim", "scaling")
NORMS = {"q_norm", "k_norm", "v_norm"}


def find_host(model: nn.Module, kind: str) -> tuple[VisionLanguageModel, LanguageModel]:
    """The module of `model` that puts images among the tokens, and its decoder.

    A host encodes images by `get_image_features`, scatters them to the places of one id, and has a decoder of layers
    like Llama's: ``input_layernorm``, ``self_attn`` with its projections and rotary embeddings, ``mlp``.

    Args:
        kind: what messages call the model.

    Raises:
        ValueError: what `model` lacks.
    """
    config = getattr(model, "config", None)
    encodes = [m for m in model.modules() if hasattr(type(m), "get_image_features")]
    decoders = [m for m in (encodes or [model])[-1].modules() if is_decoder(m)]
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"`model` {kind} is an encoder with a decoder: pruning is for images in a decoder's sequence.")
    parts = (decoders or [model])[-1].named_modules()
    if any(part in name for name, _ in parts for part in ("cross_attn", "crossattention")):
        raise ValueError(f"`model` {kind} reads images by cross-attention: its sequence has no visual tokens.")
    if not encodes and not any(hasattr(config, name) for name in ("vision_config", "image_token_id")):
        raise ValueError(f"`model` {kind} has no visual tokens to prune: it is not a vision-language model.")
    if type(model).__name__.endswith("ForRetrieval"):
        raise ValueError(f"`model` {kind} compares images by an embedding of every token: none of them can be dropped.")
    if not encodes:
        raise ValueError(
            f"`model` {kind} has no `get_image_features`, by which images are encoded: it is not supported."
        )
    if not decoders:
        raise ValueError(f"`model` {kind} has no decoder with `layers` and `embed_tokens`: it is not supported.")
    host, decoder = cast(VisionLanguageModel, encodes[-1]), cast(LanguageModel, decoders[-1])
    inside = set(host.modules())
    if others := [name for name, m in model.named_modules() if m not in inside and is_decoder(m)]:
        raise ValueError(
            f"`model` {kind} has a second decoder, `{others[0]}`, which reads what the first made of every "
            "token: it is not supported."
        )
    if all(token_id(host.config, number) is None for number in range(1, len(KINDS) + 1)):
        raise ValueError(f"`model` {kind} names no `image_token_id` in its config: its visual tokens cannot be told.")
    if missing := lacks(decoder):
        name = type(decoder.layers[0]).__name__
        raise ValueError(f"`model` {kind} has decoder layers {name} without {', '.join(missing)}: it is not supported.")
    return host, decoder


def is_decoder(module: nn.Module) -> bool:
    """Whether `module` has layers over tokens that it embeds."""
    return hasattr(module, "layers") and hasattr(module, "embed_tokens")


def lacks(decoder: LanguageModel) -> list[str]:
    """What its layers lack to be like Llama's."""
    missing = [] if hasattr(decoder, "rotary_emb") else ["rotary_emb"]
    for layer in decoder.layers:
        parts = [name for name in ("input_layernorm", "self_attn") if not hasattr(layer, name)]
        if not hasattr(layer, "mlp") and not hasattr(layer, "feed_forward"):
            parts.append("mlp")
        if "position_embeddings" not in inspect.signature(layer.forward).parameters:
            parts.append("position_embeddings")
        if getattr(layer, "norm_after", False):
            parts.append("norms before attention")
        if attention := getattr(layer, "self_attn", None):
            parts += [name for name in ATTENTION if not hasattr(attention, name)]
            module = sys.modules[type(attention).__module__]
            if not hasattr(module, "apply_rotary_pos_emb") and not hasattr(attention, "use_rope"):
                parts.append("apply_rotary_pos_emb")
            for name in ("q", "k"):
                norm, projection = getattr(attention, f"{name}_norm", None), getattr(attention, f"{name}_proj", None)
                sizes = (getattr(attention, "head_dim", None), getattr(projection, "out_features", None))
                weight = getattr(norm, "weight", None)
                if norm is not None and (weight is None or weight.shape[0] not in sizes):
                    parts.append("norms of each head")
            if hasattr(attention, "dt_proj"):  # Doge's, of values
                parts.append("a mask of positions alone")
            others = {name for name, _ in attention.named_children() if "norm" in name} - NORMS
            others -= {"qk_norm"} if hasattr(attention, "use_rope") else set()  # Llama 4's
            parts += ["q_norm and k_norm in the place of " + " and ".join(sorted(others))] if others else []
        missing += [name for name in dict.fromkeys(parts) if name not in missing]
    return [f"`{name}`" for name in missing]


def check_decoder(host: VisionLanguageModel, decoder: LanguageModel, pruning: TokenPruning, renumber: bool) -> None:
    """Raises ValueError where `pruning` does not fit `decoder` of `host`."""
    config: Any = decoder.config
    kinds = set(layer_kinds(config, len(decoder.layers)))
    if unknown := kinds - set(REACH):
        raise ValueError(f"`model` has layers of {', '.join(sorted(unknown))}: only {', '.join(REACH)} can be pruned.")
    if any(hasattr(layer, "altup") for layer in decoder.layers):
        raise ValueError("`model` has several states of each token (AltUp, Gemma 3n): only one can be pruned.")
    causal = all(getattr(layer.self_attn, "is_causal", True) for layer in decoder.layers)
    if not getattr(config, "is_causal", True) or not (causal or reads_both_ways(host, config)):
        raise ValueError(
            "`model` reads everything in both directions: only what is written from left to right is pruned."
        )
    if renumber and kinds != {"full_attention"}:
        raise ValueError("`positions` must be 'original' for a model with windows, which are counted in the input.")
    depth = len(decoder.layers)
    if (deepest := max(pruning.keep)) >= depth:
        raise ValueError(f"`keep` names layer {deepest}, and the model has {depth}: allowed are 0 to {depth - 1}.")
    for e in pruning.evaluators.values():
        if observes(e) and e.layers[1] > depth:
            raise ValueError(f"`layers` of evaluator {e.name!r} end at {e.layers[1]}, and the model has {depth}.")
    if len({p.device for layer in decoder.layers for p in layer.parameters()}) > 1:
        raise ValueError("`model` has its decoder layers on several devices: load it onto one.")
    rope = getattr(config, "rope_parameters", None) or {}
    if renumber and (rope.get("mrope_section") or hasattr(decoder.rotary_emb, "mrope_section")):
        raise ValueError("`positions` must be 'original' for a model with multimodal rotary positions (Qwen-VL).")
