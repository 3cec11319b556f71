"""Evaluators that read attention: how much of it a visual token receives, and from whom."""

import torch

from .base import TokenContext, TokenEvaluator


class InstructionAttention(TokenEvaluator):
    """IGA: attention that the layer about to run will give the token, mean over heads and over all text tokens after
    the image (TransPrune, arXiv 2507.20630)."""

    name = "instruction"

    def __call__(self, candidates: torch.Tensor, context: TokenContext) -> torch.Tensor:
        attention = context.need("attention", self.name)
        return attention(context.need("instruction", self.name)).mean(1)


class LastTokenAttention(TokenEvaluator):
    """Attention that the last token gave the token, mean over heads.

    Args:
        previous: in the layer that has just run (FastV, arXiv 2403.06764), else in the one about to run
            (PyramidDrop, arXiv 2410.17247).
    """

    name = "last_token"

    def __init__(self, previous: bool = True) -> None:
        self.previous = previous

    def __call__(self, candidates: torch.Tensor, context: TokenContext) -> torch.Tensor:
        attention = context.need("attention", self.name)
        return attention(context.need("last", self.name), previous=self.previous).mean(1)


class ClassTokenAttention(TokenEvaluator):
    """Attention of the vision encoder's class token to the token, summed over heads (VisionZip, arXiv 2412.04467,
    "dominant tokens")."""

    name = "class_token"
    reads_encoder = "class_token"

    def __call__(self, candidates: torch.Tensor, context: TokenContext) -> torch.Tensor:
        return context.need("encoder_attention", self.name)()


class PatchAttention(TokenEvaluator):
    """Attention that all patches give the token in the vision encoder, mean over heads: for encoders without a class
    token (VisionZip, arXiv 2412.04467, as its authors have it for Qwen2.5-VL). In an encoder on its own, in the layer
    that has just run."""

    name = "patches"
    reads_encoder = "columns"

    def __call__(self, candidates: torch.Tensor, context: TokenContext) -> torch.Tensor:
        if context.attention_matrix is not None:
            return context.attention_matrix().mean(1).sum(1)
        return context.need("encoder_attention", self.name)()
