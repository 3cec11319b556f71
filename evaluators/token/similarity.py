"""CLIP-style similarity of visual tokens with the instruction."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from .base import TokenContext, TokenEvaluator


class InstructionSimilarity(TokenEvaluator):
    """Cosine of a token with the instruction, in [-1, 1].

    Args:
        embedding: the instruction, one per row ``(batch, dim)`` or one for all ``(dim,)``. By default the mean of the
            instruction's own states at this depth; zero in a row without any.
        project: brings tokens ``(batch, tokens, any)`` into the space of `embedding`, as CLIP's projection does. By
            default they are taken to be in it.
    """

    name = "similarity"

    def __init__(
        self,
        embedding: torch.Tensor | None = None,
        project: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        if project is not None and embedding is None:
            raise ValueError("`project` brings tokens into the space of `embedding`: give that too.")
        self.embedding, self.project = embedding, project

    def __call__(self, candidates: torch.Tensor, context: TokenContext) -> torch.Tensor:
        embedding = self.embedding
        if embedding is None:
            spoken = context.need("instruction", self.name).float()
            embedding = torch.einsum("bl,bld->bd", spoken, context.need("states", self.name).float())
        if self.project is not None:
            candidates = self.project(candidates)
        batch, _, dim = candidates.shape
        if tuple(embedding.shape) not in ((dim,), (1, dim), (batch, dim)):
            got = tuple(embedding.shape)
            raise ValueError(
                f"`embedding` of {self.name!r} must be (dim,) or (batch, dim) = {(batch, dim)}, got {got}."
            )
        embedding = embedding.to(candidates.device).float().expand(batch, dim)
        return torch.einsum("btd,bd->bt", F.normalize(candidates.float(), dim=-1), F.normalize(embedding, dim=-1))
