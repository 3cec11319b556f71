"""Scores of visual tokens inside a vision-language model or a vision encoder. They know what a `TokenContext` tells of
the model, and nothing of the model itself, nor of how many tokens stay."""

from .attention import ClassTokenAttention, InstructionAttention, LastTokenAttention, PatchAttention
from .base import Embeddings, Frames, TokenContext, TokenEvaluator, as_token_evaluator
from .baselines import RandomTokens, UniformTokens
from .conditional import ConditionalDiversity
from .distinct import VideoDistinctness
from .diversity import Diversity
from .frames import FrameChange
from .graph import WeightedPageRank
from .pivots import PivotDissimilarity
from .raters import RaterAttention
from .similarity import InstructionSimilarity
from .transition import TokenTransition

__all__ = [
    "ClassTokenAttention",
    "ConditionalDiversity",
    "Diversity",
    "Embeddings",
    "FrameChange",
    "Frames",
    "InstructionAttention",
    "InstructionSimilarity",
    "LastTokenAttention",
    "PatchAttention",
    "PivotDissimilarity",
    "RandomTokens",
    "RaterAttention",
    "TokenContext",
    "TokenEvaluator",
    "TokenTransition",
    "UniformTokens",
    "VideoDistinctness",
    "WeightedPageRank",
    "as_token_evaluator",
]
