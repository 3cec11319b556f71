"""Attention that a few queries give to each token, recomputed from queries and keys.

No attention implementation is asked for its weights, so SDPA and FlashAttention stay in use.
"""

import sys

import torch

from .modules import DecoderLayer, SelfAttention

CHUNK = 128  # queries at a time: a long instruction times a long sequence would not fit into memory


def compact(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The indices of the True entries of `mask` ``(batch, length)``, in order, padded: ``(batch, most)`` and which are
    real, ``(batch, most)`` bool."""
    most = int(mask.sum(1).max())
    order = (~mask).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
    return order, mask.gather(1, order)


def take(states: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """``(batch, length, dim)`` at ``(batch, n)``: ``(batch, n, dim)``."""
    index = index.to(states.device)
    return states.gather(1, index[..., None].expand(-1, -1, states.shape[-1]))


def rotated(
    attention: SelfAttention, heads: torch.Tensor, position_embeddings: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    """Queries or keys ``(batch, heads, length, head dim)`` as the layer rotates them; some layers do not."""
    rotates = getattr(attention, "use_rope", None)
    if rotates is None:  # Cohere's layers with full attention have no positions
        rotates = not type(attention).__name__.startswith("Cohere2") or attention.sliding_window is not None
    if not rotates:
        return heads
    return sys.modules[type(attention).__module__].apply_rotary_pos_emb(heads, heads, *position_embeddings)[0]


def projected(
    attention: SelfAttention, normed: torch.Tensor, position_embeddings: tuple[torch.Tensor, torch.Tensor], name: str
) -> torch.Tensor:
    """Rotated queries or keys of a layer.

    Args:
        normed: the attention's input, ``(batch, length, dim)``.
        position_embeddings: cosines and sines for these, ``(batch, length, head dim)``.
        name: "q" or "k".

    Returns:
        ``(batch, heads, length, head dim)``.
    """
    heads = getattr(attention, f"{name}_proj")(normed).unflatten(-1, (-1, attention.head_dim))
    norm = getattr(attention, f"{name}_norm", None)
    heads = (heads if norm is None else norm(heads)).transpose(1, 2)
    return rotated(attention, heads, position_embeddings)


def attention_received(
    layer: DecoderLayer,
    states: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
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
        position_embeddings: cosines and sines for these states, ``(batch or 1, length, head dim)``.
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
    cos, sin = (part.expand(states.shape[0], -1, -1) for part in position_embeddings)
    normed = layer.input_layernorm(states)
    order, real = compact(queries)
    q = projected(attention, take(normed, order), (take(cos, order), take(sin, order)), "q")
    k = projected(attention, normed, (cos, sin), "k")
    if unrotated:
        ones = torch.ones(len(k), 1, *k.shape[2:], device=k.device)
        turned = rotated(attention, ones, (cos.float(), sin.float()))[:, 0] / attention.head_dim**0.25
    past = 0
    if past_keys is not None and past_keys.numel():
        past = past_keys.shape[-2]
        k = torch.cat([past_keys.to(k), k], dim=-2)
    q = q.unflatten(1, (k.shape[1], -1))  # heads that share a key head
    k = k[:, :, None].transpose(-1, -2)
    slot = torch.arange(k.shape[-1], device=k.device)
    share = real.float() / real.sum(1, keepdim=True).clamp(min=1)
    received = torch.zeros(len(q), q.shape[1] * q.shape[2], k.shape[-1], device=q.device)
    for asking, place, part in zip(q.split(CHUNK, -2), order.split(CHUNK, 1), share.split(CHUNK, 1), strict=True):
        weights = (asking @ k).flatten(1, 2).float() * attention.scaling
        if seen is None:
            allowed = valid[:, None] & (slot <= past + place[..., None])
        else:
            allowed = valid[:, None] & seen.gather(1, place[..., None].expand(-1, -1, seen.shape[-1]))
        weights = weights.masked_fill(~allowed[:, None], torch.finfo(torch.float32).min).softmax(-1)
        if unrotated:
            alone = turned.gather(1, place[..., None].expand(-1, -1, turned.shape[-1])) @ turned.transpose(1, 2)
            weights[..., past:] /= alone[:, None]
        received = received + torch.einsum("bhqk,bq->bhk", weights, part)
    return received
