"""Greedy choices against their papers' rules, written out over the whole matrix, one image at a time."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from evaluators.base import FunctionEvaluator
from evaluators.token import rows
from evaluators.token.base import Embeddings, TokenContext
from evaluators.token.conditional import ConditionalDiversity
from evaluators.token.diversity import Diversity
from evaluators.token.pivots import PivotDissimilarity


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def smooth(count: int, dim: int, seed: int = 0) -> torch.Tensor:
    """Tokens of which neighbours are alike, ``(1, count, dim)``, as those of a picture are."""
    side = math.ceil(count**0.5)
    coarse = drawn(1, dim, side // 4 + 1, side // 4 + 1, seed=seed)
    fine = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    return fine.flatten(2).transpose(1, 2)[:, :count] + 0.3 * drawn(1, count, dim, seed=seed + 1)


def context(counts, keep, **kwargs) -> TokenContext:
    counts = torch.tensor(counts)
    ordinal = torch.arange(int(counts.max()))
    return TokenContext(
        layer=1,
        valid=ordinal < counts[:, None],
        keep=torch.tensor(keep)[:, None],
        ordinal=ordinal.expand(len(counts), -1),
        **kwargs,
    )


def chosen(scores: torch.Tensor, count: int) -> list[int]:
    return scores.topk(count).indices.tolist()


def divprune(tokens: torch.Tensor, count: int) -> list[int]:
    """DivPrune's rule on the matrix of all distances."""
    distance = 1 - torch.nn.functional.cosine_similarity(tokens[:, None], tokens[None], dim=-1)
    taken = [int((distance + 3 * torch.eye(len(tokens))).amin(1).argmax())]
    while len(taken) < count:
        nearest = distance[taken].amin(0)
        nearest[taken] = -1
        taken.append(int(nearest.argmax()))
    return taken


@pytest.mark.parametrize("block", [1, 7, 64, None])
@pytest.mark.parametrize("kind", [smooth, lambda count, dim: drawn(1, count, dim)])
def test_diversity_is_that_of_the_whole_matrix(block, kind, monkeypatch):
    by_rows(block, monkeypatch)
    tokens = torch.cat([kind(150, 16), kind(150, 16).flip(1)])
    scores = Diversity()(tokens, context((150, 90), (40, 17)))
    assert chosen(scores[0], 40) == divprune(tokens[0], 40)
    assert chosen(scores[1, :90], 17) == divprune(tokens[1, :90], 17)
    assert (scores[1, :90] < 0).sum() == 73


def by_rows(block: int | None, monkeypatch) -> None:
    """So many rows at a time, or all at once, as on a GPU."""
    monkeypatch.setattr(rows, "BLOCK", block or rows.BLOCK)
    monkeypatch.setattr(rows, "whole_pays", lambda device, numbers: block is None)


class Largest(TorchDispatchMode):
    """The most elements that any tensor made under it has."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for part in out if isinstance(out, tuple) else (out,):
            self.most = max(self.most, part.numel() if isinstance(part, torch.Tensor) else 0)
        return out


@pytest.mark.parametrize("evaluator", [Diversity(), ConditionalDiversity(lambda tokens, context: tokens[..., 0])])
def test_no_matrix_of_all_similarities(evaluator):
    count, keep, dim = 1500, 60, 24
    with Largest() as seen:
        evaluator(smooth(count, dim), context((count,), (keep,)))
    assert max(rows.BLOCK, keep, dim) * count <= seen.most < count * count / 8


class Started(TorchDispatchMode):
    """How many operations are started under it: views start nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("evaluator", "most"), [(Diversity(), 3), (ConditionalDiversity(lambda tokens, context: tokens[..., 0]), 9)]
)
def test_operations_for_each_token_taken(evaluator, most, monkeypatch):
    """On a GPU their launches take the time."""
    by_rows(None, monkeypatch)

    def started(keep: int) -> int:
        with torch.no_grad(), Started() as seen:
            evaluator(smooth(100, 64), context((100,), (keep,)))
        return seen.count

    assert started(40) - started(20) == 20 * most


def cdpruner(tokens: torch.Tensor, relevance: torch.Tensor, count: int) -> list[int]:
    """CDPruner's rule by its definition: each token taken makes the determinant of the kernel as large as it can be."""
    tokens, relevance = tokens.double(), relevance.double()
    unit = tokens / tokens.norm(dim=-1, keepdim=True)
    relevance = (relevance - relevance.min() + 1e-6) / (relevance.max() - relevance.min())
    kernel = relevance[:, None] * (unit @ unit.T) * relevance
    taken: list[int] = []
    while len(taken) < count:
        left = [n for n in range(len(tokens)) if n not in taken]
        taken.append(max(left, key=lambda n: torch.linalg.det(kernel[[*taken, n]][:, [*taken, n]]).item()))
    return taken


@pytest.mark.parametrize("block", [3, 64, None])
def test_conditional_diversity(block, monkeypatch):
    by_rows(block, monkeypatch)
    tokens = torch.cat([smooth(48, 20), drawn(1, 48, 20, seed=5)])
    words, spoken = drawn(2, 4, 20, seed=7), torch.tensor([[True] * 4, [True] * 2 + [False] * 2])
    given = context((48, 30), (12, 9), embeddings=lambda: Embeddings(tokens, tokens[..., 0] > 0, words, spoken))
    scores = ConditionalDiversity()(tokens, given)
    for row, count, keep, said in ((0, 48, 12, 4), (1, 30, 9, 2)):
        own = tokens[row, :count]
        relevance = torch.cosine_similarity(own[:, None], words[row, None, :said], dim=-1).mean(1)
        assert chosen(scores[row, :count], keep) == cdpruner(own, relevance, keep)
        assert (scores[row, :count] < 0).sum() == count - keep


def test_conditional_diversity_by_any_relevance():
    """As the authors have it: CLIP's similarity, negated. And where nothing is more relevant than anything else."""
    tokens, similarity = smooth(40, 16), drawn(1, 40, seed=3)
    negated = FunctionEvaluator(lambda t, c: -similarity, "negated", "tokens")
    assert chosen(ConditionalDiversity(negated)(tokens, context((40,), (10,)))[0], 10) == cdpruner(
        tokens[0], -similarity[0], 10
    )
    flat = ConditionalDiversity(lambda tokens, context: torch.ones(tokens.shape[:2]))
    taken = chosen(flat(tokens, context((40,), (10,)))[0], 10)
    unit = torch.nn.functional.normalize(tokens[0].double(), dim=-1)
    for n in range(1, 10):
        rest = [torch.linalg.det((p := unit[[*taken[:n], m]]) @ p.T).item() for m in range(40)]
        assert max(rest) == pytest.approx(rest[taken[n]], abs=1e-9)


@pytest.mark.parametrize("whole", [False, True])
def test_conditional_diversity_of_many_tokens(whole, monkeypatch):
    """What a token adds to the determinant of the kernel, as a factor, is its own entry less what those taken explain
    of it; rows of a batch are done at different times, and of what is left each says what it would still add."""
    by_rows(None if whole else 64, monkeypatch)
    tokens = torch.cat([smooth(200, 96), drawn(1, 200, 96, seed=5), smooth(200, 96, seed=8)])
    relevance = torch.rand(3, 200, generator=torch.Generator().manual_seed(1))
    counts, keeps = (200, 140, 170), (70, 25, 70)
    scores = ConditionalDiversity(lambda t, c: relevance)(tokens, context(counts, keeps))
    for row, (count, keep) in enumerate(zip(counts, keeps, strict=True)):
        unit, own = torch.nn.functional.normalize(tokens[row, :count].double(), dim=-1), relevance[row, :count].double()
        own = (own - own.min() + 1e-6) / (own.max() - own.min() + 1e-6)
        kernel, taken = own[:, None] * (unit @ unit.T) * own, []
        for _ in range(keep + 1):
            explained = kernel[:, taken] @ torch.linalg.solve(kernel[taken][:, taken], kernel[taken])
            added = kernel.diagonal() - explained.diagonal()
            added[taken] = -torch.inf
            if len(taken) < keep:
                taken.append(int(added.argmax()))
        assert chosen(scores[row, :count], keep) == taken
        left = scores[row, :count] < 0
        torch.testing.assert_close(scores[row, :count][left].double(), added[left] - 1, atol=1e-5, rtol=0)
        assert left.sum() == count - keep and not scores[row, count:].any()


def test_conditional_diversity_where_relevance_is_nearly_the_same():
    """What tells tokens apart is rounding, and is not to be blown up."""
    tokens = smooth(40, 16)
    relevance = 0.5 + 1e-7 * torch.arange(40.0).remainder(3)[None]
    scores = ConditionalDiversity(lambda t, c: relevance)(tokens, context((40,), (10,)))
    assert (scores > 0).sum() == 10 == scores.max()


def test_conditional_diversity_of_more_tokens_than_dimensions():
    """What lies in the space of those taken adds nothing: the most relevant of it is next, and no number is lost."""
    tokens, relevance = drawn(1, 30, 4), torch.rand(1, 30, generator=torch.Generator().manual_seed(1))
    scores = ConditionalDiversity(lambda t, c: relevance)(tokens, context((30,), (12,)))
    assert scores.isfinite().all()
    taken = chosen(scores[0], 12)
    assert taken[:4] == cdpruner(tokens[0], relevance[0], 4)
    left = [n for n in range(30) if n not in taken[:4]]
    assert taken[4:] == sorted(left, key=lambda n: -relevance[0, n].item())[:8]


def dart(states, keys, image, instruction, pivots, each) -> list[int]:
    """DART's rule for one image: `pivots` of its tokens and of the words by the L1 norm of their keys, and for each in
    turn the `each` tokens least similar to it of those that are left."""
    norm = keys.abs().sum(-1)
    own = sorted(image, key=lambda n: -norm[n].item())[:pivots]
    words = sorted(instruction, key=lambda n: -norm[n].item())[:pivots]
    left, taken = [n for n in image if n not in own], list(own)
    for pivot in (*own, *words):
        alike = {n: torch.cosine_similarity(states[pivot], states[n], dim=0).item() for n in left}
        taken += sorted(left, key=lambda n: alike[n])[:each]
        left = [n for n in left if n not in taken]
    return taken


def test_pivots():
    length, dim = 70, 12
    states, keys = drawn(2, length, dim), drawn(2, length, 8, seed=1)
    place = torch.stack([torch.arange(5, 55), torch.arange(9, 59)])
    instruction = torch.zeros(2, length, dtype=torch.bool)
    instruction[0, 57:68] = instruction[1, 60:62] = True  # fewer words than pivots
    given = context(
        (50, 44),
        (4 + 8 * 3, 4 + 6 * 2),
        place=place,
        instruction=instruction,
        rotated_keys=lambda: keys,
        read_out=lambda: states,
    )
    scores = PivotDissimilarity()(drawn(2, 50, dim), given)
    for row, count, each in ((0, 50, 3), (1, 44, 2)):
        image = place[row, :count].tolist()
        expected = dart(states[row], keys[row], image, instruction[row].nonzero().flatten().tolist(), 4, each)
        assert [image[n] for n in chosen(scores[row, :count], len(expected))] == expected
        assert (scores[row, :count] < 0).sum() == count - len(expected)
    with pytest.raises(ValueError, match="`image` and `words` must be at least 0"):
        PivotDissimilarity(0, 0)


@pytest.mark.parametrize("keep", [1, 3, 4, 7, 50])
def test_pivots_keep_what_is_asked(keep):
    """Also where pivots do not share it evenly, and where not all of them may stay."""
    states = drawn(1, 60, 12)
    given = context(
        (50,),
        (keep,),
        place=torch.arange(50)[None],
        instruction=torch.arange(60)[None] > 52,
        rotated_keys=lambda: states,
        read_out=lambda: states,
    )
    scores = PivotDissimilarity()(states[:, :50], given)
    assert (scores > 0).sum() == keep
    norm = states[0, :50].abs().sum(-1)
    assert chosen(scores[0], min(keep, 4)) == norm.topk(min(keep, 4)).indices.tolist()
