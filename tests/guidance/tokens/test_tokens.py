"""Which tokens stay: against the same rules written out row by row."""

import pytest
import torch

from evaluators.base import FunctionEvaluator
from evaluators.token.base import TokenContext
from evaluators.token.baselines import RandomTokens, UniformTokens
from evaluators.token.diversity import Diversity
from guidance.tokens.presets import TOKEN_PRESETS, scaled
from guidance.tokens.pruning import TokenPruning, check_keep, drop_similar, evenly, keep_count, merge_dropped, top_k

BATCH, TOKENS, DIM = 3, 10, 5
COUNTS = (10, 6, 1)
VALID = torch.arange(TOKENS) < torch.tensor(COUNTS)[:, None]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def context(keep=(4, 3, 1), **kwargs) -> TokenContext:
    ordinal = torch.arange(TOKENS).expand(BATCH, -1)
    return TokenContext(layer=1, valid=VALID, keep=torch.tensor(keep)[:, None], ordinal=ordinal, **kwargs)


@pytest.mark.parametrize("keep", [{}, {-1: 0.5}, {1: 0.0}, {1: 1.1}, {1: 0}, {1: True}, {True: 0.5}, {1: 0.5, 3: 0.6}])
def test_bad_schedules(keep):
    with pytest.raises(ValueError, match="`keep` must"):
        check_keep(keep)


def test_schedules_are_sorted():
    assert list(check_keep({9: 0.5, 7: 0.75, 12: 3}).items()) == [(7, 0.75), (9, 0.5), (12, 3)]


def test_keep_count():
    total, present = torch.tensor([[576], [10], [3], [0]]), torch.tensor([[504], [10], [2], [0]])
    assert keep_count(0.125, total, present).flatten().tolist() == [72, 1, 1, 0]
    assert keep_count(0.25, total, present).flatten().tolist() == [144, 3, 1, 0]
    assert keep_count(1.0, total, present).flatten().tolist() == [504, 10, 2, 0]
    assert keep_count(64, total, present).flatten().tolist() == [64, 10, 2, 0]


def test_a_count_is_divided_among_images():
    """One after the other to the image with the largest claim, written out; a smaller count takes from what a larger
    one gave."""
    totals = [[16, 16], [100, 10], [7, 0], [3, 40]]
    total, before = torch.tensor(totals), torch.tensor(totals)
    for count in (56, 20, 5, 3, 1):
        got = keep_count(count, total, total)
        assert (got <= before).all()
        before = got
        for row, sizes in enumerate(totals):
            seats = [0] * len(sizes)
            for _ in range(min(count, sum(sizes))):
                claims = [n / (2 * s + 1) if s < n else 0.0 for n, s in zip(sizes, seats, strict=True)]
                seats[claims.index(max(claims))] += 1
            assert got[row].tolist() == seats
    assert keep_count(0.25, total, total).tolist() == [[4, 4], [25, 3], [2, 0], [1, 10]]


def test_no_share_falls_below_the_least():
    total = torch.tensor([[16, 16], [100, 10], [3, 0]])
    pruning = TokenPruning([UniformTokens()], {1: 0.5, 2: 0.125}, least=10)
    for same in (pruning, pruning.with_keep({1: 0.5, 2: 0.125})):
        assert same.count(1, total, total).tolist() == [[8, 8], [50, 5], [3, 0]]
        assert same.count(2, total, total).tolist() == [[5, 5], [13, 1], [3, 0]]
    other = pruning.with_keep({1: 0.5, 2: 0.125}, least=0)
    assert other.count(2, total, total).tolist() == [[2, 2], [13, 1], [1, 0]]


def test_each_image_of_a_row_decides_alone():
    """As if it were a row of its own."""
    sizes, keeps = [[4, 5], [9, 0], [2, 3]], [[2, 1], [4, 0], [2, 2]]
    valid = torch.arange(9) < torch.tensor([[9], [9], [5]])
    image = torch.tensor([[0] * 4 + [1] * 5, [0] * 9, [0] * 2 + [1] * 7])
    tokens, keys, scores = random(3, 9, DIM), random(3, 9, DIM, seed=1), random(3, 9, seed=2)
    flat = torch.zeros(3, 9)
    flat[2, 3] = 1.0  # says nothing of the first image of the last row
    panel = [Diversity(), UniformTokens(), FunctionEvaluator(lambda t, c: scores, "given", "tokens")]
    panels = [*([e] for e in panel), panel, [FunctionEvaluator(lambda t, c: flat, "flat", "tokens")]]
    whole = TokenContext(1, valid, torch.tensor(keeps), torch.arange(9).expand(3, -1), image=image, keys=lambda: keys)
    for evaluators in panels:
        for more in ({}, {"similar": 0.5}, {"contextual": 0.5}, {"merge": True}):
            got = TokenPruning(evaluators, {1: 0.5}, **more).decide(tokens, whole)
            for row in range(3):
                begin = 0
                for size, keep in zip(sizes[row], keeps[row], strict=True):
                    part = slice(begin, begin + size)
                    begin += size
                    if not size:
                        continue

                    def cut(e, row=row, part=part):
                        if e.name not in ("given", "flat"):
                            return e
                        own = (scores if e.name == "given" else flat)[row : row + 1, part]
                        return FunctionEvaluator(lambda t, c: own, e.name, "tokens")

                    alone = TokenContext(
                        1,
                        valid[row : row + 1, part],
                        torch.tensor([[keep]]),
                        torch.arange(size)[None],
                        keys=lambda row=row, part=part: keys[row : row + 1, part],
                    )
                    pruning = TokenPruning([cut(e) for e in evaluators], {1: 0.5}, **more)
                    expected = pruning.decide(tokens[row : row + 1, part], alone)
                    assert torch.equal(got.stays[row, part], expected.stays[0])
                    torch.testing.assert_close(got.total[row, part], expected.total[0])
                    if expected.into is not None:
                        assert torch.equal(got.into[row, part], expected.into[0])
                assert not got.stays[row, begin:].any()


def test_top_k():
    scores = random(BATCH, TOKENS)
    scores[0, 3] = scores[0, 7] = scores[0].sort(descending=True).values[3]  # a tie at the border: the earlier stays
    keep = torch.tensor([4, 6, 1])
    got = top_k(scores, VALID, keep)
    for b, count in enumerate(COUNTS):
        best = sorted(range(count), key=lambda i, b=b: (-scores[b, i].item(), i))[: keep[b]]
        assert got[b].nonzero().flatten().tolist() == sorted(best)


def test_drop_similar():
    scores, features, drop = random(BATCH, TOKENS), random(BATCH, TOKENS, DIM, seed=1), torch.tensor([3, 9, 1])
    got = drop_similar(scores, features, VALID, drop)
    for b, count in enumerate(COUNTS):
        order = sorted(range(count), key=lambda i, b=b: -scores[b, i].item())
        first, second = order[::2], order[1::2]
        near = {
            i: max(torch.cosine_similarity(features[b, i], features[b, j], dim=0).item() for j in first) for i in second
        }
        out = sorted(second, key=lambda i, near=near: -near[i])[: drop[b]]
        assert got[b].nonzero().flatten().tolist() == [i for i in range(count) if i not in out]


def test_merge_dropped():
    tokens, features = random(BATCH, TOKENS, DIM), random(BATCH, TOKENS, DIM, seed=1)
    into = torch.zeros_like(VALID)
    into[0, [1, 4]] = into[1, [0, 2, 5]] = True
    stays = into.clone()
    stays[0, 7] = True  # stays and takes nothing up
    for given, add in ((None, False), (features, False), (features, True)):
        got = merge_dropped(tokens, VALID & ~stays, into, given, add)
        compared = tokens if given is None else given
        for b, count in enumerate(COUNTS):
            targets = into[b].nonzero().flatten().tolist()
            groups = {j: [j] for j in targets}
            for i in range(count):
                if not stays[b, i] and targets:
                    near = max(
                        targets,
                        key=lambda j, i=i, b=b, c=compared: torch.cosine_similarity(c[b, i], c[b, j], dim=0).item(),
                    )
                    groups[near].append(i)
            for i in range(TOKENS):
                expected = tokens[b, groups[i]].mean(0) if i in groups else tokens[b, i]
                if add and len(groups.get(i, [])) > 1:
                    expected = tokens[b, i] + tokens[b, groups[i][1:]].mean(0)
                torch.testing.assert_close(got[b, i], expected)


def test_evenly():
    assert evenly(VALID, torch.tensor([3, 2, 0])).int().tolist() == [
        [1, 0, 0, 1, 0, 0, 1, 0, 0, 0],
        [1, 0, 0, 1, 0, 0, 0, 0, 0, 0],
        [0] * 10,
    ]


def test_decide_keeps_the_best_sum():
    a, b = random(BATCH, TOKENS).abs(), random(BATCH, TOKENS, seed=1).abs()
    wrapped = [lambda tokens, context: a, lambda tokens, context: b]
    wrapped[0].__name__, wrapped[1].__name__ = "a", "b"
    decision = TokenPruning(wrapped, {1: 0.5}, weights={"b": 3.0}).decide(random(BATCH, TOKENS, DIM), context())
    for i, count in enumerate(COUNTS):
        x, y = a[i, :count], b[i, :count]
        best = (x / x.sum() + 3 * y / y.sum()).topk(context().keep[i]).indices
        assert decision.stays[i].nonzero().flatten().tolist() == sorted(best.tolist())
    assert decision.into is None and set(decision.scores) == {"a", "b"}


def test_scores_that_are_not_finite_come_last():
    def odd(tokens, context):
        scores = torch.arange(TOKENS).float().expand(BATCH, -1).clone()
        scores[0, [8, 9]] = torch.tensor([torch.nan, torch.inf])
        return scores

    stays = TokenPruning([odd], {1: 0.5}).decide(random(BATCH, TOKENS, DIM), context()).stays
    assert stays[0].nonzero().flatten().tolist() == [4, 5, 6, 7]


def test_similar_and_contextual_keep_as_many():
    tokens, keys = random(BATCH, TOKENS, DIM), random(BATCH, TOKENS, DIM, seed=1)
    given = context((5, 3, 1), keys=lambda: keys)
    for more in ({"similar": 0.5}, {"similar": 1.0}, {"contextual": 0.4}, {"similar": 0.5, "contextual": 0.4}):
        decision = TokenPruning([RandomTokens()], {1: 0.5}, **more).decide(tokens, given)
        assert decision.stays.sum(1).tolist() == [5, 3, 1]
        if "contextual" in more:
            assert decision.into.sum(1).tolist() == [2, 1, 0]
            assert not (decision.into & ~decision.stays).any()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"evaluators": []}, "`evaluators` must be at least one"),
        ({"evaluators": [RandomTokens(), RandomTokens(1)]}, "`evaluators` must be at least one, with distinct names"),
        ({"weights": {"nobody": 1.0}}, "`weights` names no evaluator"),
        ({"weights": {"random": -1.0}}, "`weights` must be finite"),
        ({"similar": 1.5}, "`similar` must be"),
        ({"contextual": 1.0}, "`contextual` must be"),
        ({"least": -1}, "`least` must be a whole number"),
        ({"least": 0.5}, "`least` must be a whole number"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        TokenPruning(**{"evaluators": [RandomTokens()], "keep": {1: 0.5}} | kwargs)


def test_presets():
    pruning = TOKEN_PRESETS["transprune"](32)
    assert pruning.keep == {7: 0.875, 9: 0.625, 12: 0.125}
    assert pruning.evaluators["transition"].layers == (7, 12)
    counts = [
        keep_count(share, torch.tensor([[576]]), torch.tensor([[576]]))[0]
        for share in TOKEN_PRESETS["sparsevlm"](32).keep.values()
    ]
    assert torch.cat(counts).tolist() == [300, 200, 110]
    assert TOKEN_PRESETS["pyramiddrop"](32).keep == {8: 0.5, 16: 0.25, 24: 0.125}
    assert TOKEN_PRESETS["transprune"](24).keep == {5: 0.875, 7: 0.625, 9: 0.125}
    for preset in TOKEN_PRESETS.values():
        for depth in range(2, 81):
            assert max(preset(depth).keep) < depth
    assert [scaled(7, depth) for depth in (32, 64, 2)] == [7, 14, 1]
