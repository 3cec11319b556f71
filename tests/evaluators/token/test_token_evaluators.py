"""Token evaluators against their formulas, written out token by token."""

import math

import pytest
import torch

from evaluators.base import score
from evaluators.combine import by_share, combine
from evaluators.token.attention import ClassTokenAttention, InstructionAttention, LastTokenAttention
from evaluators.token.base import Embeddings, TokenContext, as_token_evaluator
from evaluators.token.baselines import RandomTokens, UniformTokens
from evaluators.token.diversity import Diversity
from evaluators.token.raters import RaterAttention, text_raters
from evaluators.token.similarity import InstructionSimilarity
from evaluators.token.transition import TokenTransition, token_transition

BATCH, TOKENS, DIM = 3, 9, 6
COUNTS = (9, 5, 1)


def context(**kwargs) -> TokenContext:
    valid = torch.arange(TOKENS) < torch.tensor(COUNTS)[:, None]
    ordinal = torch.arange(TOKENS).expand(BATCH, -1)
    return TokenContext(
        **{"layer": 1, "valid": valid, "keep": torch.tensor([[4], [2], [1]]), "ordinal": ordinal} | kwargs
    )


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randn(BATCH, TOKENS, DIM, generator=torch.Generator().manual_seed(0))


def cosine(a, b) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(x * x for x in b))


def norm(a) -> float:
    return math.sqrt(sum(x * x for x in a))


def test_transition(tokens):
    x, y = tokens, torch.randn(tokens.shape, generator=torch.Generator().manual_seed(1))
    got = token_transition(x, y, context().valid)
    for b, count in enumerate(COUNTS):
        xs, ys = x[b, :count].tolist(), y[b, :count].tolist()
        turns = [math.exp(1 - cosine(p, q)) for p, q in zip(xs, ys, strict=True)]
        expected = [norm(q) / norm(p) * t / sum(turns) for p, q, t in zip(xs, ys, turns, strict=True)]
        torch.testing.assert_close(got[b, :count], torch.tensor(expected))
        assert not got[b, count:].any()


def test_transition_reads_what_was_accumulated(tokens):
    evaluator = TokenTransition((1, 2))
    values = torch.rand(BATCH, TOKENS)
    assert torch.equal(score(evaluator, tokens, context(accumulated={"transition": values})), values)
    with pytest.raises(ValueError, match="begins at layer 1"):
        evaluator(tokens, context())
    with pytest.raises(ValueError, match="`layers` must satisfy"):
        TokenTransition((3, 2))


def test_attention_evaluators(tokens):
    heads = torch.rand(BATCH, 2, TOKENS)
    asked = []

    def attention(queries, previous=False):
        asked.append((queries, previous))
        return heads

    given = context(attention=attention, instruction="instruction", last="last", encoder_attention=lambda: heads[:, 0])
    for evaluator in (InstructionAttention(), LastTokenAttention(), LastTokenAttention(previous=False)):
        torch.testing.assert_close(evaluator(tokens, given), heads.mean(1))
    assert asked == [("instruction", False), ("last", True), ("last", False)]
    assert torch.equal(ClassTokenAttention()(tokens, given), heads[:, 0])
    with pytest.raises(ValueError, match="'class_token' reads `encoder_attention`, which this model does not provide"):
        ClassTokenAttention()(tokens, context())


def test_raters(tokens):
    """Against the rule written out word by word, and the queries that it asks attention for."""
    words, counts, asked = torch.randn(BATCH, 4, DIM, generator=torch.Generator().manual_seed(4)), (4, 2, 0), []
    spoken = torch.arange(4) < torch.tensor(counts)[:, None]
    embeddings = Embeddings(tokens, context().valid, words, spoken)
    got = text_raters(embeddings)
    for b, count in enumerate(counts):
        share = [0.0] * count
        for token in tokens[b, : COUNTS[b]].tolist():
            dots = [
                math.exp(sum(x * y for x, y in zip(token, word, strict=True))) for word in words[b, :count].tolist()
            ]
            share = [s + d / sum(dots) for s, d in zip(share, dots, strict=True)]
        expected = [s >= sum(share) / count for s in share]
        assert got[b].tolist() == expected + [False] * (4 - count)
    assert 0 < got[0].sum() < 4

    def attention(queries, previous=False, unrotated=False):
        asked.append((queries, previous))
        return torch.ones(BATCH, 2, TOKENS)

    instruction = torch.zeros(BATCH, 12, dtype=torch.bool)
    instruction[0, 5:9] = instruction[1, [3, 11]] = True
    RaterAttention()(tokens, context(instruction=instruction, embeddings=lambda: embeddings, attention=attention))
    ((queries, previous),) = asked
    assert (
        previous and queries[0, 5:9].tolist() == got[0].tolist() and queries[1, [3, 11]].tolist() == got[1, :2].tolist()
    )
    assert queries.sum() == got.sum()
    one = Embeddings(tokens, context().valid, words[:, :1].expand(-1, 3, -1), torch.ones(BATCH, 3, dtype=torch.bool))
    assert text_raters(one).any(1).all()  # words that are all alike


def test_diversity(tokens):
    given = context()
    scores = Diversity()(tokens, given)
    for b, count in enumerate(COUNTS):
        rows = tokens[b, :count].tolist()
        distance = [[1 - cosine(p, q) for q in rows] for p in rows]
        nearest = [min([d for j, d in enumerate(ds) if j != i], default=0.0) for i, ds in enumerate(distance)]
        taken = [max(range(count), key=lambda i, nearest=nearest: nearest[i])]
        while len(taken) < given.keep[b]:
            left = [i for i in range(count) if i not in taken]
            taken.append(max(left, key=lambda i, t=taken, d=distance: min(d[i][j] for j in t)))
        assert scores[b, :count].topk(len(taken)).indices.tolist() == taken
        assert all(scores[b, i] < 0 for i in range(count) if i not in taken)
        alone = TokenContext(1, given.valid[b : b + 1, :count], given.keep[b : b + 1], given.ordinal[b : b + 1, :count])
        torch.testing.assert_close(Diversity()(tokens[b : b + 1, :count], alone)[0], scores[b, :count])


def test_similarity(tokens):
    states = torch.randn(BATCH, 12, DIM, generator=torch.Generator().manual_seed(2))
    instruction = torch.arange(12) >= torch.tensor([9, 11, 12])[:, None]
    got = InstructionSimilarity()(tokens, context(states=states, instruction=instruction))
    for b, begin in enumerate((9, 11)):
        mean = states[b, begin:].mean(0).tolist()
        expected = torch.tensor([cosine(t, mean) for t in tokens[b].tolist()])
        torch.testing.assert_close(got[b], expected)
    assert not got[2].any()  # no instruction, no opinion
    given = torch.randn(DIM, generator=torch.Generator().manual_seed(3))
    got = InstructionSimilarity(given)(tokens, context())
    torch.testing.assert_close(got, torch.cosine_similarity(tokens, given, dim=-1))
    matrix, each = torch.randn(DIM, 3), torch.randn(BATCH, 3)
    got = InstructionSimilarity(each, project=lambda t: t @ matrix)(tokens, context())
    torch.testing.assert_close(got, torch.cosine_similarity(tokens @ matrix, each[:, None], dim=-1))
    with pytest.raises(ValueError, match=r"`embedding` of 'similarity' must be .* = \(3, 6\), got \(3, 3\)"):
        InstructionSimilarity(each)(tokens, context())
    with pytest.raises(ValueError, match=r"= \(3, 6\), got \(2, 6\)"):
        InstructionSimilarity(tokens[:2, 0])(tokens, context())
    with pytest.raises(ValueError, match="`project` brings tokens into the space"):
        InstructionSimilarity(project=lambda t: t)


def test_random_does_not_depend_on_the_batch(tokens):
    given = context()
    scores = RandomTokens()(tokens, given)
    assert torch.equal(scores[0], scores[1])
    shifted = TokenContext(1, given.valid, given.keep, given.ordinal.flip(1))
    assert torch.equal(RandomTokens()(tokens, shifted), scores.flip(1))
    many = TokenContext(1, given.valid, given.keep, torch.arange(4096)[None])
    values = [RandomTokens(seed)(tokens, many)[0] for seed in (0, 1)]
    for v in values:
        assert v.min() >= 0 and v.max() <= 1
        assert torch.histc(v, 8, 0, 1).sub(512).abs().max() < 100
        assert abs(torch.corrcoef(torch.stack([v[1:], v[:-1]]))[0, 1]) < 0.05
    assert abs(torch.corrcoef(torch.stack(values))[0, 1]) < 0.05


def test_uniform(tokens):
    scores = UniformTokens()(tokens, context())
    assert scores.sum(1).tolist() == [4, 2, 1]
    for row, stretches in ((0, [(0, 2), (2, 4), (4, 6), (6, 9)]), (1, [(0, 2), (2, 5)])):
        assert [scores[row, a:b].sum().item() for a, b in stretches] == [1] * len(stretches)


@pytest.mark.parametrize("keep", [16, 32, 64, 128, 256])
def test_uniform_tokens_of_a_grid_stand_in_no_line(keep):
    """A square picture in raster order: all rows and columns keep about as many."""
    everything = torch.ones(1, 256, dtype=torch.bool)
    scores = UniformTokens()(torch.zeros(1, 256, 1), context(valid=everything, keep=torch.tensor([[keep]])))
    assert scores.sum() == keep
    grid = scores.view(16, 16)
    for lines in (grid.sum(0), grid.sum(1)):
        assert (lines > 0).sum() >= 15 and (lines - keep / 16).abs().max() <= 2


def test_combine_sums_to_one_each():
    valid = context().valid
    a, b = torch.rand(BATCH, TOKENS), torch.randn(BATCH, TOKENS)
    total = combine({"a": a, "b": b}, {"b": 2.0}, by_share(valid))[0]
    for i, count in enumerate(COUNTS):
        lifted = b[i, :count] - min(b[i, :count].min().item(), 0.0)
        expected = a[i, :count] / a[i, :count].sum() + 2 * lifted / lifted.sum().clamp(min=1e-12)
        torch.testing.assert_close(total[i, :count], expected)
        assert not total[i, count:].any()
    assert not combine({"a": torch.zeros(BATCH, TOKENS)}, {}, by_share(valid))[0].any()


def test_what_is_a_token_evaluator():
    def brightness(tokens, context):
        return tokens.mean(-1)

    wrapped = as_token_evaluator(brightness)
    assert (wrapped.name, wrapped.space) == ("brightness", "tokens")
    with pytest.raises(TypeError, match="got int"):
        as_token_evaluator(3)
    wrong = RandomTokens()
    wrong.space = "denoised"
    with pytest.raises(ValueError, match="`space` of evaluator 'random' must be 'tokens', got 'denoised'"):
        as_token_evaluator(wrong)
