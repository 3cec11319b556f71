"""Diversity: tokens far from one another rather than tokens that are each important."""

import torch

from .base import TokenContext, TokenEvaluator
from .rows import CosineRows


def nearest_distance(rows: CosineRows, valid: torch.Tensor) -> torch.Tensor:
    """The cosine distance of each token from its nearest neighbour, exact for those that can be farthest from theirs.

    Every row that is computed bounds the distance of all others from above. Rows are computed, those with the largest
    bounds first, until no other token can be as far from its neighbour as the farthest one known.

    Args:
        valid: ``(batch, tokens)``.

    Returns:
        ``(batch, tokens)``; minus infinity where another is known to be farther, or not valid.
    """
    others = torch.arange(rows.count, device=valid.device)
    bound = torch.full(valid.shape, 3.0, device=valid.device)  # above any distance, which is at most 2
    exact = torch.full_like(bound, -torch.inf)
    while bool((open_ := valid & ~rows.known & (bound >= exact.amax(1, keepdim=True))).any()):
        index, similarity = rows.compute(bound.masked_fill(~open_, -1))
        alone = ~valid[:, None] | (index[..., None] == others)
        distance = (1 - similarity).masked_fill_(alone, torch.inf)
        bound = torch.minimum(bound, distance.masked_fill(~valid.gather(1, index)[..., None], torch.inf).amin(1))
        found = distance.amin(2).masked_fill(~valid.gather(1, index), -torch.inf)
        exact = exact.scatter(1, index, torch.maximum(found, exact.gather(1, index)))
    return exact


class Diversity(TokenEvaluator):
    """Greedy max-min diversity of cosine distances (DivPrune, arXiv 2503.02175).

    In each image, the first token taken is the one farthest from its nearest neighbour; then, until
    `TokenContext.keep` are taken, the one farthest from its nearest taken token. A token taken earlier scores higher;
    one never taken scores below zero, by its distance from the taken.

    The matrix of all distances is never made: of rows, those that the choice asks for (`CosineRows`).
    """

    name = "diversity"

    def __call__(self, candidates: torch.Tensor, context: TokenContext) -> torch.Tensor:
        images, keep = context.images, context.keep.flatten()
        candidates, valid = images.split(candidates), images.valid
        batch, count, _ = candidates.shape
        each = torch.arange(batch, device=candidates.device)
        rows = CosineRows(candidates)
        nearest = nearest_distance(rows, valid)
        scores = torch.zeros(batch, count, device=candidates.device)
        free = valid.clone()
        for step in range(int(keep.max())):
            likely = nearest.masked_fill(~free, -torch.inf)
            taken = likely.argmax(-1)
            more = step < keep  # one that keeps fewer is done earlier
            scores[each, taken] = torch.where(more, (keep - step).float(), scores[each, taken])
            free[each, taken] &= ~more
            reached = 1 - rows.of(taken, likely)
            nearest = torch.where(more[:, None], reached if step == 0 else torch.minimum(nearest, reached), nearest)
        return images.join(torch.where(free, nearest - 3, scores))  # cosine distances are at most 2
