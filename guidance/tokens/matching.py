"""Tokens that say the same become one."""

import torch

from evaluators.token.matching import bipartite_match

from .pruning import top_k


class BipartiteMerging:
    """Tokens join their match, of which they are the more like the lower their score (ToMe, arXiv 2210.09461).

    Of the two sets of `bipartite_match` only the second joins the first, so that at most half of the tokens goes at
    once, whatever `keep` asks. What several were is their mean, weighted by how many patches each stands for, and in
    later layers that many keys. It is for vision encoders on their own, where it takes place inside a layer, between
    attention and MLP, by the keys of that attention. Use with `UnmatchedTokens`.

    Attributes:
        reads: what of `TokenContext` it is given in the place of the tokens.
        sized: whether tokens know how many they stand for, see `pipelines.prune.encoder`.
    """

    reads = "encoder_keys"
    sized = True

    def __call__(
        self, tokens: torch.Tensor, scores: torch.Tensor, valid: torch.Tensor, keep: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        second, _, match = bipartite_match(tokens, valid)
        first = valid & ~second
        stays = first | top_k(scores.masked_fill(~second, -torch.inf), second, (keep - first.sum(1)).clamp(min=0))
        own = torch.arange(tokens.shape[1], device=tokens.device).expand_as(match)
        return stays, torch.where(stays, own, match)
