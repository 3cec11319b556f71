"""What evaluators are told about the visual tokens inside a language model."""

import functools
from collections.abc import Callable

import torch
from transformers.cache_utils import DynamicLayer

from evaluators.token.base import TokenContext

from .attention import attention_received, projected, take
from .masks import Staging
from .reader import EncoderReader
from .run import Run, Stage


def token_context(
    run: Run,
    index: int,
    states: torch.Tensor,
    keep: torch.Tensor,
    staging: Staging,
    stage_of: Callable[[int], Stage],
    reader: EncoderReader | None,
) -> TokenContext:
    """The context of a pruning before layer `index`.

    Args:
        states: present, ``(batch, n, dim)``.
        keep: how many visual tokens of each image of a row will stay, ``(batch, images)``.
        staging: of the decoder.
        stage_of: the number of this layer or of the one before to the mask and rotary embeddings of `states` there.
        reader: gives what the vision encoder knows, `None` where nobody asks.
    """
    assert run.prompt is not None
    visual, layers = run.prompt.visual, staging.model.layers
    place, valid = run.candidates()
    origin, length = run.origin(place), states.shape[1]

    def before() -> torch.Tensor:
        if run.previous is None:
            raise ValueError("attention of the previous layer cannot be read before the first layer: prune later.")
        return run.previous[0]

    def attention(queries: torch.Tensor, previous: bool = False, unrotated: bool = False) -> torch.Tensor:
        asked = before() if previous else states
        at = index - previous
        cached = run.cache.layers[at] if run.cache is not None and at < len(run.cache.layers) else None
        keys = cached.keys if isinstance(cached, DynamicLayer) else None
        if previous and keys is not None:  # that layer has already cached this chunk
            keys = keys[..., :-length, :]
        stage = stage_of(at)
        received = attention_received(
            layers[at], asked, stage.rotary, queries, stage.valid, keys, unrotated, stage.allowed
        )
        offset = stage.valid.shape[1] - length
        return received.gather(2, (place + offset)[:, None].expand(-1, received.shape[1], -1)) * valid[:, None]

    def keys() -> torch.Tensor:
        layer = layers[index]
        return layer.self_attn.k_proj(layer.input_layernorm(take(states, place)))

    def rotated_keys() -> torch.Tensor:
        layer, given = layers[index - 1], before()
        assert run.previous is not None
        parts = staging.rotary_of_rows(run, stage_of(index - 1), run.previous[1].get("position_ids"))
        rotary = tuple(part.expand(len(given), -1, -1) for part in parts)
        return projected(layer.self_attn, layer.input_layernorm(given), rotary, "k").transpose(1, 2).flatten(2)

    def accumulated(values: torch.Tensor) -> torch.Tensor:
        return values.gather(1, place).masked_fill(~valid, 0.0)

    read = functools.cache(lambda: reader(visual)) if reader else None
    norm = getattr(staging.model, "norm", None)
    return TokenContext(
        layer=index,
        valid=valid,
        keep=keep,
        ordinal=(visual.cumsum(1) - 1).gather(1, origin).clamp(min=0),
        states=states,
        place=place,
        image=run.image_at(place),
        needed=run.prompt.needed.gather(1, origin) & valid,
        instruction=run.at_slots(run.prompt.instruction),
        last=run.at_slots(run.prompt.last),
        embeddings=lambda: run.embeddings,
        frames=run.frames,
        accumulated={name: accumulated(values) for name, values in run.accumulated.items()},
        attention=attention,
        keys=keys,
        rotated_keys=rotated_keys,
        read_out=(lambda: norm(states)) if norm is not None else None,
        encoder_attention=(lambda: read().attention.gather(1, origin) * valid) if read else None,
        encoder_keys=(lambda: take(read().keys, origin)) if read else None,
        encoder_states=(lambda: take(read().states, origin)) if read and reader and reader.projects else None,
        patches=(lambda: read().patches.gather(1, origin) & valid) if read else None,
    )
