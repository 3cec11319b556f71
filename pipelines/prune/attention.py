"""Attention that a few queries give to each token, recomputed from queries and keys.

No attention implementation is asked for its weights, so SDPA and FlashAttention stay in use.
"""

import functools
import inspect
import sys

import torch

from .modules import DecoderLayer, Rotary, SelfAttention

WINDOWED = ("Afmoe", "Cohere2", "Flint")  # whose layers with full attention have no positions
CHUNK = 128  # queries at a time: a long instruction times a long sequence would not fit into memory


def compact(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The indices of the True entries of `mask` ``(batch, length)``, in order, padded: ``(batch, most)`` and which are
    real, ``(batch, most)`` bool."""
    most = int(mask.sum(1).max())
    order = mask.to(torch.uint8).argsort(dim=1, stable=True, descending=True)[:, :most]
    return order, mask.gather(1, order)


def take(states: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """``(batch, length, dim)`` at ``(batch, n)``: ``(batch, n, dim)``."""
    index = index.to(states.device)
    return states.gather(1, index[..., None].expand(-1, -1, states.shape[-1]))


def parts_of(rotary: Rotary) -> tuple[torch.Tensor, ...]:
    """Cosines and sines, or Llama 4's complex numbers that are both."""
    return rotary if isinstance(rotary, tuple) else (rotary,)


def rotates(attention: SelfAttention) -> bool:
    """Whether a layer rotates queries and keys; some layers have no positions."""
    said, name = getattr(attention, "use_rope", None), type(attention).__name__
    if said is not None:
        return bool(said)
    if name.startswith("ExaoneMoe"):
        return attention.is_sliding or attention.sliding_window is None
    return not name.startswith(WINDOWED) or attention.sliding_window is not None


def rotated(attention: SelfAttention, heads: torch.Tensor, rotary: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Queries or keys ``(batch, heads, length, head dim)`` as the layer rotates them; some layers do not, others the
    first dimensions alone."""
    if not rotates(attention):
        return heads
    size = getattr(attention, "rotary_ndims", heads.shape[-1])
    if size < heads.shape[-1]:
        return torch.cat([turned(attention, heads[..., :size], rotary), heads[..., size:]], -1)
    return turned(attention, heads, rotary)


def turned(attention: SelfAttention, heads: torch.Tensor, rotary: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """`heads` by the rotation of the layer's module."""
    module = sys.modules[type(attention).__module__]
    if not hasattr(module, "apply_rotary_pos_emb"):  # Llama 4
        swapped = heads.transpose(1, 2)
        return module.apply_rotary_emb(swapped, swapped, *rotary)[0].transpose(1, 2)
    rotate = module.apply_rotary_pos_emb
    if "k" not in inspect.signature(rotate).parameters:  # Gemma 4
        return rotate(heads, *rotary)
    return rotate(heads, heads[:, :0], *rotary)[0]  # no keys, which would be rotated for nothing


def projected(
    attention: SelfAttention, normed: torch.Tensor, rotary: tuple[torch.Tensor, ...], name: str
) -> torch.Tensor:
    """Rotated queries or keys of a layer.

    Args:
        normed: the attention's input, ``(batch, length, dim)``.
        rotary: `parts_of` the rotary embeddings for these, ``(batch, length, any)``.
        name: "q" or "k".

    Returns:
        ``(batch, heads, length, head dim)``.
    """
    flat, norm = getattr(attention, f"{name}_proj")(normed), getattr(attention, f"{name}_norm", None)
    if norm is not None and norm.weight.shape[0] == flat.shape[-1]:  # of all heads together
        flat, norm = norm(flat), None
    heads = flat.unflatten(-1, (-1, attention.head_dim))
    heads = (heads if norm is None else norm(heads)).transpose(1, 2)
    heads = rotated(attention, heads, rotary)
    after = getattr(attention, "qk_norm", None)  # Llama 4's, which has no weights
    return heads if after is None else after(heads)


def attention_received(
    layer: DecoderLayer,
    states: torch.Tensor,
    rotary: Rotary,
    queries: torch.Tensor,
    valid: torch.Tensor,
    past_keys: torch.Tensor | None,
    unrotated: bool = False,
    seen: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention weights in a decoder layer, averaged over some queries.

    Args:
        layer: a decoder layer like Llama's, see `hosts.find_host`.
        states: its input, ``(batch, length, dim)``.
        rotary: embeddings for these states, ``(batch or 1, length, any)``.
        queries: ``(batch, length)``, which states ask.
        valid: ``(batch, past + length)``, which keys exist.
        past_keys: cached keys, rotated, ``(batch, key heads, past, head dim)``.
        unrotated: whether each weight is divided by what the rotation alone makes of two vectors of ones,
            ``1ᵀ R 1 / √d``, which falls with the distance (SparseVLM's second version); not of cached keys.
        seen: ``(batch, length, past + length)``, which keys each state sees; by default those before it.

    Returns:
        ``(batch, heads, past + length)`` float32; zero in a row without queries.
    """
    attention = layer.self_attn
    parts = tuple(part.expand(states.shape[0], -1, -1) for part in parts_of(rotary))
    normed = layer.input_layernorm(states)
    order, real = compact(queries)
    q = projected(attention, take(normed, order), tuple(take(part, order) for part in parts), "q")
    k = projected(attention, normed, parts, "k")
    if unrotated:
        ones = torch.ones(len(k), 1, *k.shape[2:], device=k.device)
        wide = tuple(part if part.is_complex() else part.float() for part in parts)
        spun = rotated(attention, ones, wide)[:, 0] / attention.head_dim**0.25
    past = 0
    if past_keys is not None and past_keys.numel():
        past = past_keys.shape[-2]
        k = torch.cat([past_keys.to(k), k], dim=-2)
    q = q.unflatten(1, (k.shape[1], -1))  # heads that share a key head
    k = k[:, :, None].transpose(-1, -2)
    slot = torch.arange(k.shape[-1], device=k.device)
    share = real.float() / real.sum(1, keepdim=True).clamp(min=1)
    softcap = getattr(attention, "attn_logit_softcapping", None)  # Gemma 2's
    sinks = getattr(attention, "sinks", None)  # of each head, which take part of the attention: GPT-OSS's
    received = []
    for asking, place, part in zip(q.split(CHUNK, -2), order.split(CHUNK, 1), share.split(CHUNK, 1), strict=True):
        weights = (asking @ k).flatten(1, 2).float() * attention.scaling
        if softcap is not None:
            weights = (weights / softcap).tanh() * softcap
        if seen is None:
            allowed = valid[:, None] & (slot <= past + place[..., None])
        else:
            allowed = valid[:, None] & seen.gather(1, place[..., None].expand(-1, -1, seen.shape[-1]))
        weights = weights.masked_fill(~allowed[:, None], torch.finfo(torch.float32).min)
        if sinks is not None:
            weights = torch.cat([weights, sinks.float()[:, None, None].expand(*weights.shape[:-1], 1)], -1)
        weights = weights.softmax(-1)[..., : k.shape[-1]]
        if unrotated:
            alone = spun.gather(1, place[..., None].expand(-1, -1, spun.shape[-1])) @ spun.transpose(1, 2)
            weights[..., past:] /= alone[:, None]
        received.append(torch.einsum("bhqk,bq->bhk", weights, part))
    return functools.reduce(torch.add, received)
