"""Baselines that look at nothing."""

import torch

from .base import TokenContext, TokenEvaluator

GOLDEN = (5**0.5 - 1) / 2


class RandomTokens(TokenEvaluator):
    """A pseudo-random number of a token's place among its row's visual tokens: the same whatever the batch, its
    padding and what was dropped before.

    Args:
        seed: another seed, another choice.
    """

    name = "random"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def __call__(self, candidates: torch.Tensor, context: TokenContext) -> torch.Tensor:
        bits = context.ordinal + 0x9E3779B9 * (self.seed + 1) & 0xFFFFFFFF
        for shift, factor in ((16, 0x21F0AAAD), (15, 0x735A2D97)):  # an integer hash; products stay below 2**63
            bits = (bits ^ (bits >> shift)) * factor & 0xFFFFFFFF
        return (bits ^ (bits >> 15)).float() / 2**32


class UniformTokens(TokenEvaluator):
    """1 for one token in each of `TokenContext.keep` equal stretches of an image's raster order, 0 for the others.

    The place in the stretch moves on by the golden ratio, or stretches that divide a picture's width would keep whole
    columns and nothing between them.
    """

    name = "uniform"

    def __call__(self, candidates: torch.Tensor, context: TokenContext) -> torch.Tensor:
        images, keep = context.images, context.keep.flatten()[:, None]
        count = images.valid.sum(1, keepdim=True)
        stretch = torch.arange(int(keep.max()), device=candidates.device)
        begin, end = (torch.minimum(n * count // keep.clamp(min=1), count) for n in (stretch, stretch + 1))
        picked = begin + (stretch * GOLDEN % 1 * (end - begin)).long()
        scores = torch.zeros(images.valid.shape, device=candidates.device)
        return images.join(scores.scatter_add(1, picked.clamp(max=scores.shape[1] - 1), (stretch < keep).float()))
