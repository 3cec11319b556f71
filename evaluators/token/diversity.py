"""Diversity: tokens far from one another rather than tokens that are each important."""

import torch
import torch.nn.functional as F

from .base import TokenContext, TokenEvaluator


class Diversity(TokenEvaluator):
    """Greedy max-min diversity of cosine distances (DivPrune, arXiv 2503.02175).

    In each image, the first token taken is the one farthest from its nearest neighbour; then, until
    `TokenContext.keep` are taken, the one farthest from its nearest taken token. A token taken earlier scores higher;
    one never taken scores below zero, by its distance from the taken.
    """

    name = "diversity"

    def __call__(self, candidates: torch.Tensor, context: TokenContext) -> torch.Tensor:
        images, keep = context.images, context.keep.flatten()
        candidates, valid = images.split(candidates), images.valid
        batch, count, _ = candidates.shape
        rows = torch.arange(batch, device=candidates.device)
        unit = F.normalize(candidates.float(), dim=-1)
        distance = 1 - unit @ unit.transpose(1, 2)
        others = valid[:, None] & ~torch.eye(count, dtype=torch.bool, device=candidates.device)
        nearest = distance.masked_fill(~others, torch.inf).amin(-1)
        scores = torch.zeros(batch, count, device=candidates.device)
        free = valid.clone()
        for step in range(int(keep.max())):
            taken = nearest.masked_fill(~free, -torch.inf).argmax(-1)
            more = step < keep  # one that keeps fewer is done earlier
            scores[rows, taken] = torch.where(more, (keep - step).float(), scores[rows, taken])
            free[rows, taken] &= ~more
            reached = distance[rows, taken]
            nearest = torch.where(more[:, None], reached if step == 0 else torch.minimum(nearest, reached), nearest)
        return images.join(torch.where(free, nearest - 3, scores))  # cosine distances are at most 2
