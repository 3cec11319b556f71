"""CLIP-style similarity of visual tokens with the instruction."""

import torch
import torch.nn.functional as F

from .tokens import TokenContext, TokenEvaluator


class InstructionSimilarity(TokenEvaluator):
    """Cosine of a token with the instruction, in [-1, 1].

    Args:
        embedding: the instruction, one per row ``(batch, dim)`` or one for all ``(dim,)``, in the space of the tokens.
            By default the mean of the instruction's own states at this depth; zero in a row without any.
    """

    name = "similarity"

    def __init__(self, embedding: torch.Tensor | None = None) -> None:
        self.embedding = embedding

    def __call__(self, candidates: torch.Tensor, context: TokenContext) -> torch.Tensor:
        embedding = self.embedding
        if embedding is None:
            spoken = context.need("instruction", self.name).float()
            embedding = torch.einsum("bl,bld->bd", spoken, context.states.float())
        embedding = embedding.to(candidates.device).float().expand(candidates.shape[0], candidates.shape[2])
        return torch.einsum("btd,bd->bt", F.normalize(candidates.float(), dim=-1), F.normalize(embedding, dim=-1))
