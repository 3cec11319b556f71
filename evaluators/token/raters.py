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
    """Attention that the `text_raters` gave the token in the layer that has just run, mean over heads and raters."""

    name = "raters"

    def __call__(self, candidates: torch.Tensor, context: TokenContext) -> torch.Tensor:
        embeddings = context.need("embeddings", self.name)()
        instruction = context.need("instruction", self.name)
        queries = torch.zeros_like(instruction)
        queries[instruction] = text_raters(embeddings)[embeddings.spoken]
        return context.need("attention", self.name)(queries, previous=True).mean(1)
