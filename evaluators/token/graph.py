"""Importance of tokens in the graph that attention draws between them."""

from collections.abc import Mapping

import torch

from .base import TokenContext, TokenEvaluator


def weighted_page_rank(attention: torch.Tensor, iterations: int) -> torch.Tensor:
    """Importance by votes that count as much as their sender is important (Zero-TPrune, arXiv 2305.17328).

    From equal importance, ``s ← Aᵀ s`` and back to a mean of 1, `iterations` times.

    Args:
        attention: ``(..., tokens, tokens)``, rows are the senders.

    Returns:
        ``(..., tokens)`` float32, mean 1.
    """
    votes = attention.float().transpose(-1, -2)
    s = torch.ones(*attention.shape[:-1], 1, device=attention.device)
    for _ in range(iterations):
        s = votes @ s
        s = s / s.mean(-2, keepdim=True).clamp(min=1e-12)
    return s[..., 0]


class WeightedPageRank(TokenEvaluator):
    """`weighted_page_rank` in each head's attention of the layer that has just run; then their root mean square.

    Over the heads whose importance varies neither too little to tell tokens apart nor too much to be more than a spike
    (Zero-TPrune, arXiv 2305.17328).

    Args:
        iterations: for every layer, or by layers run; at a layer not named, that of the last named before it.
        variance: the least and the largest variance over tokens, at mean 1, of a head that counts; where no head does,
            all do.
    """

    name = "page_rank"

    def __init__(self, iterations: int | Mapping[int, int] = 5, variance: tuple[float, float] = (0.01, 0.7)) -> None:
        self.iterations, self.variance = iterations, variance

    def __call__(self, candidates: torch.Tensor, context: TokenContext) -> torch.Tensor:
        attention = context.need("attention_matrix", self.name)()
        iterations = self.iterations
        if isinstance(iterations, Mapping):
            named = [n for n in iterations if n <= context.layer]
            iterations = iterations[max(named) if named else min(iterations)]
        importance = weighted_page_rank(attention, iterations)  # (batch, heads, tokens)
        variance = importance.var(-1, correction=0)
        counts = (variance >= self.variance[0]) & (variance <= self.variance[1])
        counts = (counts | ~counts.any(1, keepdim=True)).float()
        return (torch.einsum("bht,bh->bt", importance**2, counts) / counts.sum(1, keepdim=True)).sqrt()
