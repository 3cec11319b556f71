"""Evaluators score: each takes candidates and a context and returns ``(batch, candidates)``, higher is better."""

from pathlib import Path

from .base import Calibration, Context, Evaluator, FunctionEvaluator, as_evaluator, score
from .clip import LatentCLIP
from .combine import combine
from .discriminator import LatentDiscriminator
from .token_attention import ClassTokenAttention, InstructionAttention, LastTokenAttention
from .token_baselines import RandomTokens, UniformTokens
from .token_diversity import Diversity
from .token_graph import WeightedPageRank
from .token_similarity import InstructionSimilarity
from .token_transition import TokenTransition
from .tokens import TokenContext, TokenEvaluator, as_token_evaluator, combine_tokens

EVALUATORS = {"clip": LatentCLIP, "discriminator": LatentDiscriminator}
TOKEN_EVALUATORS = {
    "transition": TokenTransition,
    "instruction": InstructionAttention,
    "last_token": LastTokenAttention,
    "class_token": ClassTokenAttention,
    "page_rank": WeightedPageRank,
    "diversity": Diversity,
    "similarity": InstructionSimilarity,
    "random": RandomTokens,
    "uniform": UniformTokens,
}


def load_evaluator(name: str, folder: str | Path) -> Evaluator:
    """Loads the evaluator registered as `name` from its folder (or hub id).

    Raises:
        ValueError: no evaluator has this name, or the folder holds another one.
    """
    if name not in EVALUATORS:
        raise ValueError(f"`evaluators` names {name!r}, which is unknown; there are {', '.join(sorted(EVALUATORS))}.")
    cls = EVALUATORS[name]
    if (held := cls.load_config(folder).get("_class_name")) != cls.__name__:
        raise ValueError(f"`evaluators` wants a {cls.__name__} for {name!r}, and {str(folder)!r} holds a {held}.")
    return cls.from_pretrained(folder).eval()


__all__ = [
    "EVALUATORS",
    "TOKEN_EVALUATORS",
    "Calibration",
    "ClassTokenAttention",
    "Context",
    "Diversity",
    "Evaluator",
    "FunctionEvaluator",
    "InstructionAttention",
    "InstructionSimilarity",
    "LastTokenAttention",
    "LatentCLIP",
    "LatentDiscriminator",
    "RandomTokens",
    "TokenContext",
    "TokenEvaluator",
    "TokenTransition",
    "UniformTokens",
    "WeightedPageRank",
    "as_evaluator",
    "as_token_evaluator",
    "combine",
    "combine_tokens",
    "load_evaluator",
    "score",
]
