"""Tokens that repeat least of what a few pivots say."""

import torch
import torch.nn.functional as F

from .base import TokenContext, TokenEvaluator


def first_true(mask: torch.Tensor, ranked: torch.Tensor, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each row the `most` largest of `ranked` ``(batch, n)`` where `mask`; of equals, the earlier. Indices, and
    which exist, ``(batch, most)``."""
    order = ranked.masked_fill(~mask, -torch.inf).argsort(dim=1, descending=True, stable=True)[:, :most]
    return order, mask.gather(1, order)


class PivotDissimilarity(TokenEvaluator):
    """Few pivots, and for each of them the tokens least similar to it (DART, arXiv 2502.11494). Reads no attention.

    Pivots are the image's tokens and the words of the instruction whose keys, in the layer that has just run, have the
    largest L1 norm. Then each pivot in turn, the image's first, takes its part of `TokenContext.keep`: of the tokens
    that nobody has taken the least similar (cosine of states after the model's last norm). A token taken earlier scores
    higher; one never taken scores below zero, by its similarity to the pivots.

    Args:
        image, words: how many pivots of each kind; the paper has 4 and 4.
    """

    name = "pivots"

    def __init__(self, image: int = 4, words: int = 4) -> None:
        if image < 0 or words < 0 or image + words < 1:
            raise ValueError(f"`image` and `words` must be at least 0, and not both 0, got {image} and {words}.")
        self.image, self.words = image, words

    def __call__(self, candidates: torch.Tensor, context: TokenContext) -> torch.Tensor:
        place = context.need("place", self.name)
        norms = context.need("rotated_keys", self.name)().float().abs().sum(-1)  # (batch, length)
        unit = F.normalize(context.need("read_out", self.name)().float(), dim=-1)
        word, spoken = first_true(context.need("instruction", self.name), norms, self.words)
        words = unit.gather(1, word[..., None].expand(-1, -1, unit.shape[-1]))

        images, keep = context.images, context.keep.flatten()
        tokens = images.split(unit.gather(1, place[..., None].expand(-1, -1, unit.shape[-1])))
        words, spoken = (part.repeat_interleave(images.count, 0) for part in (words, spoken))
        norms, free = images.split(norms.gather(1, place)), images.valid.clone()
        own, real = first_true(free, norms, self.image)
        before = keep[:, None] - torch.arange(real.shape[1], device=keep.device)  # how many are still to be taken
        real = real & (before > 0)
        scores = torch.zeros(norms.shape, device=norms.device).scatter_(1, own, (before * real).float())
        free.scatter_(1, own, free.gather(1, own) & ~real)
        left = (keep - real.sum(1)).float()

        pivots = torch.cat([tokens.gather(1, own[..., None].expand(-1, -1, tokens.shape[-1])), words], 1)
        asks = torch.cat([real, spoken & images.valid.any(1, keepdim=True)], 1)
        similarity = pivots @ tokens.transpose(1, 2)  # (images, pivots, tokens)
        rank, count = asks.cumsum(1) - 1, asks.sum(1, keepdim=True).clamp(min=1)
        share = (keep - real.sum(1))[:, None]
        quota = (share // count + (rank < share % count)).masked_fill(~asks, 0)
        for number in range(pivots.shape[1]):
            order = similarity[:, number].masked_fill(~free, torch.inf).argsort(dim=1, stable=True).argsort(dim=1)
            taken = (order < quota[:, number, None]) & free
            scores = torch.where(taken, left[:, None] - order, scores)
            left = left - taken.sum(1)
            free &= ~taken
        closest = similarity.masked_fill(~asks[..., None], -1.0).amax(1)
        return images.join(torch.where(free, -2 - closest, scores))
