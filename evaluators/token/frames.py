"""Tokens of videos: what changes from frame to frame."""

import torch
import torch.nn.functional as F

from .base import TokenContext, TokenEvaluator


class FrameChange(TokenEvaluator):
    """How much a token differs from that in the same place of the frame before (EVS, as in vLLM and SGLang).

    ``1 - cos`` in the language model's embeddings, in [0, 2]; what is in the first frame of a video, or in no frame, is
    above all others. It says nothing of an image.

    Raises:
        ValueError: fewer tokens of a video are to stay than its first frame has.
    """

    name = "frame_change"
    FIRST = 3.0

    def __call__(self, candidates: torch.Tensor, context: TokenContext) -> torch.Tensor:
        frames, tokens = context.need("frames", self.name)(), context.need("embeddings", self.name)().tokens.float()
        before = (torch.arange(tokens.shape[1], device=tokens.device) - frames.size).clamp(min=0)
        before = tokens.gather(1, before[..., None].expand_as(tokens))
        change = 1 - F.cosine_similarity(tokens, before, dim=-1)
        whole = frames.frame <= 0
        scores = torch.where(whole, self.FIRST, change).masked_fill(frames.length <= 1, 0.0).gather(1, context.ordinal)
        images = context.images
        wanted = images.split((scores == self.FIRST) & context.valid).sum(1)
        if bool((short := wanted > context.keep.flatten()).any()):
            raise ValueError(
                f"{self.name!r} keeps the first frame of a video whole: `keep` must leave {int(wanted[short][0])} "
                f"tokens of it, got {int(context.keep.flatten()[short][0])}."
            )
        return scores
