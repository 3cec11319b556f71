"""Evaluators score: each takes candidates and a context and returns ``(batch, candidates)``, higher is better. They
know what they are shown; of pipelines, schedulers and searches they know nothing, nor what their scores lead to."""

from .base import Calibration, Context, Evaluator, FunctionEvaluator, as_evaluator, calibrated, score
from .combine import by_gain, by_share, by_spread, combine, relative_gain
from .latent.clip import LatentCLIP
from .latent.counting import LatentCounting
from .latent.discriminator import LatentDiscriminator
from .latent.head import CLIPHead
from .latent.lrm import LRM
from .latent.reward import LatentReward
from .latent.text import LatentTextRendering
from .latent.value import LatentValue
from .load import EVALUATORS, load_evaluator, load_evaluators
from .pixel.aesthetic import Aesthetic, AestheticV2
from .pixel.base import PixelEvaluator
from .pixel.counting import DetectedCount
from .pixel.hps import HPS, HPSv21
from .pixel.image_reward import ImageReward
from .pixel.ocr import OCRScore
from .pixel.open_clip import OpenCLIPScore, OpenCLIPTower
from .pixel.pickscore import PickScore
from .pixel.vqa import VQAScore
from .token.attention import ClassTokenAttention, InstructionAttention, LastTokenAttention, PatchAttention
from .token.base import Embeddings, Frames, TokenContext, TokenEvaluator, as_token_evaluator
from .token.baselines import RandomTokens, UniformTokens
from .token.conditional import ConditionalDiversity
from .token.distinct import VideoDistinctness
from .token.diversity import Diversity
from .token.frames import FrameChange
from .token.graph import WeightedPageRank
from .token.matching import UnmatchedTokens
from .token.pivots import PivotDissimilarity
from .token.raters import RaterAttention
from .token.similarity import InstructionSimilarity
from .token.transition import TokenTransition

TOKEN_EVALUATORS = {
    "transition": TokenTransition,
    "instruction": InstructionAttention,
    "last_token": LastTokenAttention,
    "raters": RaterAttention,
    "class_token": ClassTokenAttention,
    "patches": PatchAttention,
    "page_rank": WeightedPageRank,
    "unmatched": UnmatchedTokens,
    "diversity": Diversity,
    "conditional_diversity": ConditionalDiversity,
    "pivots": PivotDissimilarity,
    "frame_change": FrameChange,
    "distinctness": VideoDistinctness,
    "similarity": InstructionSimilarity,
    "random": RandomTokens,
    "uniform": UniformTokens,
}

__all__ = [
    "EVALUATORS",
    "HPS",
    "LRM",
    "TOKEN_EVALUATORS",
    "Aesthetic",
    "AestheticV2",
    "CLIPHead",
    "Calibration",
    "ClassTokenAttention",
    "ConditionalDiversity",
    "Context",
    "DetectedCount",
    "Diversity",
    "Embeddings",
    "Evaluator",
    "FrameChange",
    "Frames",
    "FunctionEvaluator",
    "HPSv21",
    "ImageReward",
    "InstructionAttention",
    "InstructionSimilarity",
    "LastTokenAttention",
    "LatentCLIP",
    "LatentCounting",
    "LatentDiscriminator",
    "LatentReward",
    "LatentTextRendering",
    "LatentValue",
    "OCRScore",
    "OpenCLIPScore",
    "OpenCLIPTower",
    "PatchAttention",
    "PickScore",
    "PivotDissimilarity",
    "PixelEvaluator",
    "RandomTokens",
    "RaterAttention",
    "TokenContext",
    "TokenEvaluator",
    "TokenTransition",
    "UniformTokens",
    "UnmatchedTokens",
    "VQAScore",
    "VideoDistinctness",
    "WeightedPageRank",
    "as_evaluator",
    "as_token_evaluator",
    "by_gain",
    "by_share",
    "by_spread",
    "calibrated",
    "combine",
    "load_evaluator",
    "load_evaluators",
    "relative_gain",
    "score",
]
