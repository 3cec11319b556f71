"""Which tokens say the same, found by comparing two halves of them."""

import torch
import torch.nn.functional as F

from .base import TokenContext, TokenEvaluator


def bipartite_match(features: torch.Tensor, valid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens in turns belong to two sets; each of the second is matched with the most similar (cosine) of the first
    (ToMe, arXiv 2210.09461).

    Args:
        features: what is compared, ``(batch, tokens, dim)``.
        valid: ``(batch, tokens)``.

    Returns:
        Which tokens are of the second set ``(batch, tokens)`` bool, and their matches, ``(batch, tokens)`` each: how
        similar in [-1, 1], and which; a token of the first set is its own match, at -1.
    """
    second = valid & (valid.cumsum(1) % 2 == 0)
    first = valid & ~second
    unit = F.normalize(features.float(), dim=-1)
    similarity = (unit @ unit.transpose(1, 2)).masked_fill(~first[:, None], -torch.inf)
    closest, match = similarity.max(-1)
    own = torch.arange(features.shape[1], device=features.device).expand_as(match)
    return second, torch.where(second, closest.clamp(-1, 1), -1.0), torch.where(second, match, own)


class UnmatchedTokens(TokenEvaluator):
    """How unlike its match a token is, ``1 - cosine`` of the vision encoder's keys in [0, 2]; 2 in the first of the two
    sets of `bipartite_match` (ToMe, arXiv 2210.09461)."""

    name = "unmatched"

    def __call__(self, candidates: torch.Tensor, context: TokenContext) -> torch.Tensor:
        keys = context.need("encoder_keys", self.name)()
        return 1 - bipartite_match(keys, context.valid)[1]
