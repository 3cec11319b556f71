"""Diversity: tokens far from one another rather than tokens that are each important."""

import torch

from .base import TokenContext, TokenEvaluator
from .rows import CosineRows


def nearest_distance(rows: CosineRows, valid: torch.Tensor) -> torch.Tensor:
    """The cosine distance of each token from its nearest neighbour, exact for those that can be farthest from theirs.

    Every row that is computed bounds the distance of all others from above. Rows are computed, those with the largest
    bounds first, until no other token can be as far from its neighbour as the farthest one known.

    Args:
        rows: of distances.
        valid: ``(batch, tokens)``.

    Returns:
        ``(batch, tokens)``; minus infinity where another is known to be farther, or not valid.
    """
    others = torch.arange(rows.count, device=valid.device)
    if rows.whole is not None:
        alone = ~valid[:, None] | (others[:, None] == others)
        return rows.whole.masked_fill(alone, torch.inf).amin(2).masked_fill(~valid, -torch.inf)
    bound = torch.full(valid.shape, 3.0, device=valid.device)  # above any distance, which is at most 2
    exact = torch.full_like(bound, -torch.inf)
    while bool((open_ := valid & ~rows.known & (bound >= exact.amax(1, keepdim=True))).any()):
        index, distance = rows.compute(bound.masked_fill(~open_, -1))
        alone = ~valid[:, None] | (index[..., None] == others)
        distance = distance.masked_fill(alone, torch.inf)
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

    @torch.no_grad()
    def __call__(self, candidates: torch.Tensor, context: TokenContext) -> torch.Tensor:
        images, keep = context.images, context.keep.flatten()
        candidates, valid = images.split(candidates), images.valid
        batch, count, _ = candidates.shape
        rows = CosineRows(candidates, apart=True)
        nearest = nearest_distance(rows, valid)  # minus infinity for those that cannot be taken any more
        fewest, most = torch.stack(keep.aminmax()).tolist()
        order = torch.zeros(batch, most, dtype=torch.long, device=candidates.device)
        # As few operations as can be: on a GPU their launches take the time.
        for step in range(most):
            taken = torch.argmax(nearest, -1, keepdim=True, out=order[:, step : step + 1])
            reached = rows.of(taken[:, 0], nearest)
            reached = torch.minimum(nearest, reached) if step else reached.masked_fill(~valid, -torch.inf)
            if step >= fewest:  # one that keeps fewer is done earlier
                more = (step < keep)[:, None]
                reached = torch.where(more, reached, nearest)
                taken.masked_fill_(~more, count)
            nearest = reached
        rank = keep[:, None] - torch.arange(most, device=keep.device)
        scores = torch.zeros(batch, count + 1, device=candidates.device).scatter(1, order, rank.float())[:, :-1]
        return images.join(torch.where((scores > 0) | ~valid, scores, nearest - 3))  # cosine distances are at most 2
