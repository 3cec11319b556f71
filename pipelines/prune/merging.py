"""What becomes of tokens that take up others."""

import torch

from evaluators.token.base import TokenContext
from guidance.tokens.pruning import Decision, join, merge_dropped

from .reader import EncoderReader


def merged(
    tokens: torch.Tensor, context: TokenContext, decision: Decision, reader: EncoderReader | None
) -> torch.Tensor:
    """`tokens` ``(batch, tokens, dim)`` with those that are dropped in those that take them up, each in its image.

    Before the first layer what the vision encoder made of them is merged and then projected, where it is known, for so
    VisionZip does it.
    """
    if decision.target is not None:
        return join(tokens, decision.target.to(tokens.device))
    assert decision.into is not None
    split, dropped = context.images.split, context.valid & ~decision.stays
    into = split(decision.into)
    if reader is None or context.encoder_keys is None or context.patches is None:
        return context.images.join(merge_dropped(split(tokens), split(dropped), into))
    features, dropped = split(context.encoder_keys()), split(dropped & context.patches())
    if context.layer or context.encoder_states is None:  # so its authors do where the encoder itself merges patches
        add = not context.layer
        return context.images.join(merge_dropped(split(tokens), dropped, into, features, add))
    states = merge_dropped(split(context.encoder_states()), dropped, into, features, add=True)
    projected = context.images.join(reader.project(states)).to(tokens)
    return torch.where(decision.into[..., None], projected, tokens)
