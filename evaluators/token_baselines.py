"""Baselines that look at nothing."""

import torch

from .tokens import TokenContext, TokenEvaluator


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
    """1 for `TokenContext.keep` tokens evenly spaced in raster order, 0 for the others."""

    name = "uniform"

    def __call__(self, candidates: torch.Tensor, context: TokenContext) -> torch.Tensor:
        index = torch.arange(candidates.shape[1], device=candidates.device)
        keep, count = context.keep[:, None], context.valid.sum(1, keepdim=True).clamp(min=1)
        picked = (index + 1) * keep // count > index * keep // count
        return (picked & context.valid).float()
