"""Evaluators score: each takes candidates and a context and returns ``(batch, candidates)``, higher is better. They
know what they are shown; of pipelines, schedulers and searches they know nothing, nor what their scores lead to."""

import functools
from collections.abc import Mapping
from pathlib import Path

from .base import Calibration, Context, Evaluator, FunctionEvaluator, as_evaluator, score
from .combine import by_share, by_spread, combine
from .latent.clip import LatentCLIP
from .latent.counting import LatentCounting
from .latent.discriminator import LatentDiscriminator
from .latent.head import CLIPHead
from .latent.reward import LatentReward
from .latent.text import LatentTextRendering
from .token.attention import ClassTokenAttention, InstructionAttention, LastTokenAttention
from .token.base import Embeddings, TokenContext, TokenEvaluator, as_token_evaluator
from .token.baselines import RandomTokens, UniformTokens
from .token.diversity import Diversity
from .token.graph import WeightedPageRank
from .token.raters import RaterAttention
from .token.similarity import InstructionSimilarity
from .token.transition import TokenTransition

EVALUATORS = {
    "clip": LatentCLIP,
    "discriminator": LatentDiscriminator,
    "reward": LatentReward,
    "text": LatentTextRendering,
    "counting": LatentCounting,
}
TOKEN_EVALUATORS = {
    "transition": TokenTransition,
    "instruction": InstructionAttention,
    "last_token": LastTokenAttention,
    "raters": RaterAttention,
    "class_token": ClassTokenAttention,
    "page_rank": WeightedPageRank,
    "diversity": Diversity,
    "similarity": InstructionSimilarity,
    "random": RandomTokens,
    "uniform": UniformTokens,
}


def load_evaluator(name: str, folder: str | Path, clip: LatentCLIP | None = None) -> Evaluator:
    """Loads the evaluator registered as `name` from its folder (or hub id). A head on a latent CLIP takes that `clip`,
    by default the one in the folder ``clip`` beside its own.

    Raises:
        ValueError: no evaluator has this name, or the folder holds another one, or the head belongs to another CLIP.
    """
    if name not in EVALUATORS:
        raise ValueError(f"`evaluators` names {name!r}, which is unknown; there are {', '.join(sorted(EVALUATORS))}.")
    cls = EVALUATORS[name]
    if (held := cls.load_config(folder).get("_class_name")) != cls.__name__:
        raise ValueError(f"`evaluators` wants a {cls.__name__} for {name!r}, and {str(folder)!r} holds a {held}.")
    if not issubclass(cls, CLIPHead):
        return cls.from_pretrained(folder).eval()
    return cls.from_pretrained(folder, clip=clip or _load_clip(Path(folder).parent / "clip")).eval()


def _load_clip(folder: str | Path) -> LatentCLIP:
    clip = load_evaluator("clip", folder)
    assert isinstance(clip, LatentCLIP)
    return clip


def load_evaluators(folders: Mapping[str, str | Path]) -> list[Evaluator]:
    """Loads a panel, name to folder (or hub id); its heads share its CLIP, or without one that beside their folders.
    See `load_evaluator`."""
    load_clip = functools.cache(_load_clip)

    def load(name: str, folder: str | Path) -> Evaluator:
        if name == "clip":
            return load_clip(folder)
        if not issubclass(EVALUATORS.get(name, object), CLIPHead):
            return load_evaluator(name, folder)
        return load_evaluator(name, folder, load_clip(folders.get("clip", Path(folder).parent / "clip")))

    return [load(name, folder) for name, folder in folders.items()]


__all__ = [
    "EVALUATORS",
    "TOKEN_EVALUATORS",
    "CLIPHead",
    "Calibration",
    "ClassTokenAttention",
    "Context",
    "Diversity",
    "Embeddings",
    "Evaluator",
    "FunctionEvaluator",
    "InstructionAttention",
    "InstructionSimilarity",
    "LastTokenAttention",
    "LatentCLIP",
    "LatentCounting",
    "LatentDiscriminator",
    "LatentReward",
    "LatentTextRendering",
    "RandomTokens",
    "RaterAttention",
    "TokenContext",
    "TokenEvaluator",
    "TokenTransition",
    "UniformTokens",
    "WeightedPageRank",
    "as_evaluator",
    "as_token_evaluator",
    "by_share",
    "by_spread",
    "combine",
    "load_evaluator",
    "load_evaluators",
    "score",
]
