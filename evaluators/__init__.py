"""Evaluators score: each takes candidates and a context and returns ``(batch, candidates)``, higher is better. They
know what they are shown; of pipelines, schedulers and searches they know nothing, nor what their scores lead to."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .base import Calibration, Context, Evaluator, FunctionEvaluator, as_evaluator, score
from .combine import by_share, by_spread, combine
from .latent.clip import LatentCLIP
from .latent.counting import LatentCounting
from .latent.discriminator import LatentDiscriminator
from .latent.head import CLIPHead
from .latent.reward import LatentReward
from .latent.text import LatentTextRendering
from .pixel.base import PixelEvaluator
from .pixel.counting import DetectedCount
from .pixel.ocr import OCRScore
from .pixel.vqa import VQAScore
from .token.attention import ClassTokenAttention, InstructionAttention, LastTokenAttention
from .token.base import Embeddings, TokenContext, TokenEvaluator, as_token_evaluator
from .token.baselines import RandomTokens, UniformTokens
from .token.diversity import Diversity
from .token.graph import WeightedPageRank
from .token.raters import RaterAttention
from .token.similarity import InstructionSimilarity
from .token.transition import TokenTransition

EVALUATORS: dict[str, type] = {
    "clip": LatentCLIP,
    "discriminator": LatentDiscriminator,
    "reward": LatentReward,
    "text": LatentTextRendering,
    "counting": LatentCounting,
    "vqa": VQAScore,
    "ocr": OCRScore,
    "detector": DetectedCount,
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


def load_evaluator(name: str, source: str | Path | None = None, clip: LatentCLIP | None = None) -> Evaluator:
    """Loads the evaluator registered as `name` from its folder (or file, or hub id), a judge of pictures by default
    from where its weights are published. A head on a latent CLIP takes that `clip`, by default the one in the folder
    ``clip`` beside its own.

    Raises:
        ValueError: no evaluator has this name, or the folder holds another one, or the head belongs to another CLIP, or
            `name` reads latents and there is no `source`.
        OSError: it cannot be read.
    """
    if name not in EVALUATORS:
        raise ValueError(f"`evaluators` names {name!r}, which is unknown; there are {', '.join(sorted(EVALUATORS))}.")
    cls: Any = EVALUATORS[name]
    if issubclass(cls, PixelEvaluator):
        return (cls.from_pretrained() if source is None else cls.from_pretrained(source)).eval()
    if source is None:
        raise ValueError(f"`evaluators` names {name!r}, which belongs to one VAE: give {name}=FOLDER.")
    if (held := cls.load_config(source).get("_class_name")) != cls.__name__:
        raise ValueError(f"`evaluators` wants a {cls.__name__} for {name!r}, and {str(source)!r} holds a {held}.")
    if not issubclass(cls, CLIPHead):
        return cls.from_pretrained(source).eval()
    return cls.from_pretrained(source, clip=clip or _load_clip(Path(source).parent / "clip")).eval()


def _load_clip(folder: str | Path) -> LatentCLIP:
    clip = load_evaluator("clip", folder)
    assert isinstance(clip, LatentCLIP)
    return clip


def load_evaluators(wanted: Mapping[str, str | Path | None] | Sequence[str | Evaluator]) -> list[Evaluator]:
    """Loads a panel: names, ``name=source`` with a folder, file or hub id, or evaluators as they are; or a mapping from
    name to source. Heads of a latent CLIP share the panel's, or without one that beside their folders. See
    `load_evaluator`."""
    if isinstance(wanted, Mapping):
        wanted = [name if source is None else f"{name}={source}" for name, source in wanted.items()]
    pairs = [item.partition("=")[::2] if isinstance(item, str) else (item, "") for item in wanted]
    sources = {name: source for name, source in pairs if isinstance(name, str)}
    load_clip = functools.cache(_load_clip)

    def load(name: str | Evaluator, source: str) -> Evaluator:
        if not isinstance(name, str):
            return name
        if name == "clip" and source:
            return load_clip(source)
        if issubclass(EVALUATORS.get(name, object), CLIPHead) and source:
            return load_evaluator(name, source, load_clip(sources.get("clip") or Path(source).parent / "clip"))
        return load_evaluator(name, source or None)

    return [load(name, source) for name, source in pairs]


__all__ = [
    "EVALUATORS",
    "TOKEN_EVALUATORS",
    "CLIPHead",
    "Calibration",
    "ClassTokenAttention",
    "Context",
    "DetectedCount",
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
    "OCRScore",
    "PixelEvaluator",
    "RandomTokens",
    "RaterAttention",
    "TokenContext",
    "TokenEvaluator",
    "TokenTransition",
    "UniformTokens",
    "VQAScore",
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
