"""The published ways to prune visual tokens, by name."""

from collections.abc import Callable

from evaluators.token.attention import ClassTokenAttention, InstructionAttention, LastTokenAttention, PatchAttention
from evaluators.token.baselines import RandomTokens, UniformTokens
from evaluators.token.conditional import ConditionalDiversity
from evaluators.token.distinct import VideoDistinctness
from evaluators.token.diversity import Diversity
from evaluators.token.frames import FrameChange
from evaluators.token.graph import WeightedPageRank
from evaluators.token.matching import UnmatchedTokens
from evaluators.token.pivots import PivotDissimilarity
from evaluators.token.raters import RaterAttention
from evaluators.token.transition import TokenTransition

from .matching import BipartiteMerging
from .pruning import TokenPruning
from .recycling import Recycling

REFERENCE_DEPTH = 32  # layers of the 7B language models that the papers prune


def scaled(layer: int, depth: int) -> int:
    """A paper's layer in a model of `depth` layers: the same share of the depth, at least 1 and below `depth`."""
    return min(max(1, round(layer * depth / REFERENCE_DEPTH)), depth - 1)


def _stages(keep: dict[int, float], depth: int) -> dict[int, float]:
    """A paper's schedule in a model of `depth` layers; where layers fall together the deepest holds."""
    return {scaled(layer, depth): share for layer, share in keep.items()}


def _transition(depth: int) -> TokenTransition:
    return TokenTransition((scaled(7, depth), scaled(12, depth)))


def transprune(depth: int) -> TokenPruning:
    """TTV + IGA after layers 7, 9 and 12 of 32 (TransPrune, arXiv 2507.20630)."""
    keep = _stages({7: 0.875, 9: 0.625, 12: 0.125}, depth)
    return TokenPruning([_transition(depth), InstructionAttention()], keep)


def transprune_ttv(depth: int) -> TokenPruning:
    """TTV alone, which no attention needs to be computed for (TransPrune, arXiv 2507.20630)."""
    return TokenPruning([_transition(depth)], _stages({7: 0.875, 9: 0.625, 12: 0.125}, depth))


def fastv(depth: int) -> TokenPruning:
    """Half of the tokens after layer 2, by the attention that the last token gave them (FastV, arXiv 2403.06764)."""
    return TokenPruning([LastTokenAttention(previous=True)], {min(2, depth - 1): 0.5})


def pyramiddrop(depth: int) -> TokenPruning:
    """Half of what is left after each quarter of the layers (PyramidDrop, arXiv 2410.17247)."""
    keep = _stages({8: 0.5, 16: 0.25, 24: 0.125}, depth)
    return TokenPruning([LastTokenAttention(previous=False)], keep)


def sparsevlm(depth: int) -> TokenPruning:
    """300, 200 and 110 of 576 tokens after layers 3, 7 and 16 of 32, by the attention that the words nearest the image
    gave them (SparseVLM, arXiv 2410.04417).

    The authors' fixed schedule; dropped tokens are not recycled, and no share follows from the rank of the attention.
    """
    keep = _stages({3: 300 / 576, 7: 200 / 576, 16: 110 / 576}, depth)
    return TokenPruning([RaterAttention()], keep)


def sparsevlm_recycled(depth: int) -> TokenPruning:
    """`sparsevlm`, and of what is dropped the best 30 % come back as a few means: 309, 204 and 113 of 576 tokens."""
    keep = _stages({3: 309 / 576, 7: 204 / 576, 16: 113 / 576}, depth)
    return TokenPruning([RaterAttention()], keep, select=Recycling())


def sparsevlm_v2(depth: int) -> TokenPruning:
    """300, 200 and 118 of 576 tokens as `sparsevlm`, by the 14 of 32 heads that look at the image most, whatever the
    distance (the second version of SparseVLM's code)."""
    keep = _stages({3: 300 / 576, 7: 200 / 576, 16: 118 / 576}, depth)
    return TokenPruning([RaterAttention(heads=14 / 32, unrotated=True)], keep)


def visionzip(depth: int) -> TokenPruning:
    """54 of 576 tokens by the class token's attention and 10 that take up the others, before the first layer.

    VisionZip, arXiv 2412.04467; the class token itself is not kept. For encoders with a class token.
    """
    return TokenPruning([ClassTokenAttention()], {0: 64 / 576}, contextual=10 / 64)


def visionzip_columns(depth: int) -> TokenPruning:
    """45 % of the tokens by the attention of all patches and 5 % that take up the others, before the first layer.

    VisionZip, arXiv 2412.04467, for encoders without a class token.
    """
    return TokenPruning([PatchAttention()], {0: 0.5}, contextual=0.1)


def divprune(depth: int) -> TokenPruning:
    """The most diverse tokens, before the first layer (DivPrune, arXiv 2503.02175)."""
    return TokenPruning([Diversity()], {0: 0.098})


def cdpruner(depth: int) -> TokenPruning:
    """64 of 576 tokens, diverse in what matters to the instruction, before the first layer.

    CDPruner, arXiv 2506.10967; relevance is that of the language model's embeddings, theirs CLIP's.
    """
    return TokenPruning([ConditionalDiversity()], {0: 64 / 576})


def dart(depth: int) -> TokenPruning:
    """128 of 576 tokens after layer 2, those least similar to a few pivots (DART, arXiv 2502.11494)."""
    return TokenPruning([PivotDissimilarity()], {min(2, depth - 1): 128 / 576})


def evs(depth: int) -> TokenPruning:
    """The first frame of a video and what changes from frame to frame, a quarter of its tokens, before the first layer.

    EVS, as in vLLM and SGLang, where the share is the user's.
    """
    return TokenPruning([FrameChange()], {0: 0.25})


def vidcom2(depth: int) -> TokenPruning:
    """A quarter of a video's tokens, those that stand out, before the first layer (VidCom2, arXiv 2505.14454)."""
    return TokenPruning([VideoDistinctness()], {0: 0.25})


def random(depth: int) -> TokenPruning:
    """The baseline: random tokens, before the first layer."""
    return TokenPruning([RandomTokens()], {0: 0.125})


def uniform(depth: int) -> TokenPruning:
    """The baseline: evenly spaced tokens, before the first layer."""
    return TokenPruning([UniformTokens()], {0: 0.125})


def zero_tprune(depth: int) -> TokenPruning:
    """Page rank and similarity after layers 1, 3, 6, 9 and 11 of 12, for a vision encoder on its own.

    Zero-TPrune, arXiv 2305.17328; how many go at each of them is this project's choice: a tenth, half of it by
    similarity.
    """
    layers = [min(max(1, round(n * depth / 12)), depth - 1) for n in (1, 3, 6, 9, 11)]
    keep = dict(zip(layers, (0.9, 0.8, 0.7, 0.6, 0.5), strict=True))
    iterations = dict(zip(layers, (30, 30, 5, 5, 1), strict=True))
    return TokenPruning([WeightedPageRank(iterations)], keep, similar=0.5)


def tome(depth: int) -> TokenPruning:
    """As many patches join another in each layer, 156 of 196 in all, for a vision encoder on its own.

    ToMe, arXiv 2210.09461; the authors' 13 in each of 12 layers.
    """
    keep = {layer: 1 - 156 / 196 * (layer + 1) / depth for layer in range(depth)}
    return TokenPruning([UnmatchedTokens()], keep, select=BipartiteMerging())


TOKEN_PRESETS: dict[str, Callable[[int], TokenPruning]] = {
    "transprune": transprune,
    "transprune-ttv": transprune_ttv,
    "fastv": fastv,
    "pyramiddrop": pyramiddrop,
    "sparsevlm": sparsevlm,
    "sparsevlm-recycled": sparsevlm_recycled,
    "sparsevlm-v2": sparsevlm_v2,
    "visionzip": visionzip,
    "visionzip-columns": visionzip_columns,
    "divprune": divprune,
    "cdpruner": cdpruner,
    "dart": dart,
    "evs": evs,
    "vidcom2": vidcom2,
    "zero-tprune": zero_tprune,
    "tome": tome,
    "random": random,
    "uniform": uniform,
}
