"""Attention from those words of the instruction that speak of what is in the picture."""

import torch

from .base import Embeddings, TokenContext, TokenEvaluator


def text_raters(embeddings: Embeddings) -> torch.Tensor:
    """The words of the instruction that the image is nearest to (SparseVLM, arXiv 2410.04417).

    Every visual token spreads a weight of 1 over the words, by a softmax of its dot products with them before the first
    layer; raters are the words that get at least the mean.

    Returns:
        ``(batch, words)`` bool; some in every row that has words.
    """
    share = embeddings.tokens.float() @ embeddings.words.float().transpose(1, 2)
    share = share.masked_fill(~embeddings.spoken[:, None], -torch.inf).softmax(-1)
    share = torch.einsum("bnm,bn->bm", share, embeddings.valid.to(share))
    mean = embeddings.valid.sum(1, keepdim=True) / embeddings.spoken.sum(1, keepdim=True)
    raters = (share >= mean) & embeddings.spoken
    return torch.where(raters.any(1, keepdim=True), raters, embeddings.spoken)  # where all are equal but for rounding


class RaterAttention(TokenEvaluator):
    """Attention that the `text_raters` gave the token in the layer that has just run, mean over heads and raters.

    Args:
        heads: share of the heads that count, those whose raters give the image the most; all by default. SparseVLM's
            second version: 14 of 32.
        unrotated: whether weights are divided by what the rotary embeddings alone would give their distance, as in
            that version.

    Raises:
        ValueError: `heads` outside (0, 1].
    """

    name = "raters"

    def __init__(self, heads: float = 1.0, unrotated: bool = False) -> None:
        if not 0 < heads <= 1:
            raise ValueError(f"`heads` must be a share in (0, 1], got {heads!r}.")
        self.heads, self.unrotated = heads, unrotated

    def __call__(self, candidates: torch.Tensor, context: TokenContext) -> torch.Tensor:
        embeddings = context.need("embeddings", self.name)()
        instruction = context.need("instruction", self.name)
        queries = torch.zeros_like(instruction)
        queries[instruction] = text_raters(embeddings)[embeddings.spoken]
        received = context.need("attention", self.name)(queries, previous=True, unrotated=self.unrotated)
        if self.heads < 1:
            best = received.sum(-1).topk(max(1, round(received.shape[1] * self.heads)), dim=1).indices
            received = received.gather(1, best[..., None].expand(-1, -1, received.shape[-1]))
        return received.mean(1)
