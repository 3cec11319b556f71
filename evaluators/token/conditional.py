"""Conditional diversity: tokens that differ from one another in what matters to the instruction."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from ..base import Evaluator
from .base import Embeddings, TokenContext, TokenEvaluator, as_token_evaluator
from .rows import CosineRows

LEAST = 1e-6  # added to relevance, so that nothing is of none
NEW = 1e-5  # what of a token must be outside of the space of those taken, or it adds nothing


def word_relevance(tokens: torch.Tensor, embeddings: Embeddings) -> torch.Tensor:
    """The cosine of each token ``(batch, tokens, dim)`` with each word of the instruction, averaged over words,
    ``(batch, tokens)``; zero in a row without words."""
    words = F.normalize(embeddings.words.float(), dim=-1) * embeddings.spoken[..., None]
    mean = words.sum(1) / embeddings.spoken.sum(1, keepdim=True).clamp(min=1)
    with torch.autocast(tokens.device.type, enabled=False):
        return torch.einsum("btd,bd->bt", F.normalize(tokens.float(), dim=-1), mean)


class ConditionalDiversity(TokenEvaluator):
    r"""Greedy choice from a determinantal point process of relevance and similarity (CDPruner, arXiv 2506.10967).

    In each image the kernel is :math:`L_{ij} = r_i S_{ij} r_j`, where ``S`` are cosines of tokens and ``r`` is
    relevance, brought to (0, 1] by its least and largest in the image. Tokens are taken one after the other, each time
    the one that makes the determinant of the kernel of those taken largest, until `TokenContext.keep` are. A token
    taken earlier scores higher; one never taken scores below zero, by what it would still add.

    Where nothing adds anything any more, because all that is left lies in the space of those taken, the most relevant
    one is next.

    Args:
        relevance: a token evaluator or a function, whose scores say how much a token has to do with the instruction. By
            default `word_relevance` in the language model's own embeddings. The authors take CLIP's, negated, for a
            patch of CLIP is *less* similar to a text that speaks of it.
    """

    name = "conditional_diversity"

    def __init__(self, relevance: Evaluator | Callable | None = None) -> None:
        self.relevance = None if relevance is None else as_token_evaluator(relevance)
        self.reads_encoder = getattr(self.relevance, "reads_encoder", None)

    @torch.no_grad()
    def __call__(self, candidates: torch.Tensor, context: TokenContext) -> torch.Tensor:
        if self.relevance is None:
            relevance = word_relevance(candidates, context.need("embeddings", self.name)())
        else:
            relevance = self.relevance(candidates, context).float()
        images, keep = context.images, context.keep.flatten()
        candidates, relevance, valid = images.split(candidates), images.split(relevance), images.valid
        low = relevance.masked_fill(~valid, torch.inf).amin(1, keepdim=True)
        span = relevance.masked_fill(~valid, -torch.inf).amax(1, keepdim=True) - low
        relevance = ((relevance - low + LEAST) / (span + LEAST)).masked_fill(~valid, 0.0)

        batch, count, _ = candidates.shape
        fewest, most = torch.stack(keep.aminmax()).tolist()
        rows = CosineRows(candidates, relevance)
        added = relevance.square()  # to the determinant, as a factor, by a token that would be taken next
        least, last = NEW * added, (relevance - 2).masked_fill(~valid, -torch.inf)
        # What was taken, as a factorisation of the kernel: it is the sum of products of a row of `part` and of `unit`.
        part, unit = added.new_zeros(2, batch, most, count)
        order = torch.zeros(batch, most, dtype=torch.long, device=candidates.device)
        gain = added.new_zeros(batch, 1)
        # As few operations as can be: on a GPU their launches take the time.
        for step in range(most):
            likely = torch.where(added > least, added, last)
            likely = likely.scatter_(1, order[:, :step], -torch.inf)
            taken = order[:, step : step + 1]
            torch.max(likely, 1, keepdim=True, out=(gain, taken))
            before = unit[:, :step].gather(2, taken[..., None].expand(-1, step, 1)).transpose(1, 2)
            new = part[:, step : step + 1]
            torch.baddbmm(rows.of(taken[:, 0], likely)[:, None], before, part[:, :step], alpha=-1, out=new)
            # Of what adds nothing `gain` is below -1, and `new` next to nothing; one that keeps fewer is done earlier.
            scale = gain if step < fewest else gain.where((step < keep)[:, None], torch.inf)
            torch.div(new[:, 0], scale, out=unit[:, step])
            added.addcmul_(new[:, 0], unit[:, step], value=-1)
        rank = (keep[:, None] - torch.arange(most, device=keep.device)).clamp(min=0)
        scores = torch.zeros_like(added).scatter_reduce(1, order, rank.float(), "amax")
        left = torch.where(added > least, added, relevance - 2) - 1
        return images.join(torch.where((scores > 0) | ~valid, scores, left))
