"""What is dropped comes back as a few means: against SparseVLM's rule, written out token by token."""

import math

import pytest
import torch

from evaluators.base import FunctionEvaluator
from evaluators.token.base import TokenContext
from guidance.tokens.presets import TOKEN_PRESETS
from guidance.tokens.pruning import TokenPruning, join, keep_count
from guidance.tokens.recycling import Recycling, density_peaks


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sparsevlm(tokens: torch.Tensor, scores: torch.Tensor, best: int):
    """SparseVLM's rule: which stay for themselves, and its clusters of the best of the others."""
    order = sorted(range(len(tokens)), key=lambda n: -scores[n].item())
    stay, dropped = order[:best], order[best:]
    again = dropped[: int(len(dropped) * 0.3) + 1]
    count = int(len(again) / 10) + 1
    far = {
        (a, b): math.dist(tokens[a].tolist(), tokens[b].tolist()) / tokens.shape[1] ** 0.5 for a in again for b in again
    }
    near = {a: sorted(far[a, b] for b in again)[:count] for a in again}
    # Two that are each other's nearest are equally dense: theirs draws lots, ours takes the earlier for the denser.
    density = {a: (round(math.exp(-sum(d * d for d in near[a]) / count), 6), -a) for a in again}
    alone = {
        a: min([far[a, b] for b in again if density[b] > density[a]], default=max(far.values())) * density[a][0]
        for a in again
    }
    centres = sorted(again, key=lambda a: -alone[a])[:count]
    clusters = {c: [c] for c in centres}
    for a in again:
        if a not in centres:
            clusters[min(centres, key=lambda c, a=a: far[a, c])].append(a)
    return stay, clusters


@pytest.mark.parametrize("seed", range(3))
def test_recycling(seed):
    tokens, scores = drawn(2, 120, 8, seed=seed), drawn(2, 120, seed=seed + 10)
    valid = torch.arange(120) < torch.tensor([[120], [90]])
    best = (50, 30)
    counts = [int((n - b) * 0.3 + 1) // 10 + 1 for n, b in zip((120, 90), best, strict=True)]
    keep = torch.tensor([b + c for b, c in zip(best, counts, strict=True)])
    stays, target = Recycling()(tokens, scores, valid, keep)
    merged = join(tokens, target)
    for row, count in enumerate((120, 90)):
        own = tokens[row, :count]
        stay, clusters = sparsevlm(own, scores[row, :count], best[row])
        assert len(clusters) == counts[row] > 1
        assert stays[row].nonzero().flatten().tolist() == sorted([*stay, *clusters])
        for centre, members in clusters.items():
            torch.testing.assert_close(merged[row, centre], own[members].mean(0))
        assert torch.equal(merged[row, stay], own[stay])


def test_how_many_stay():
    """The authors' 300, 200 and 110 best of 576 become 309, 204 and 113."""
    left = 576
    for share, best, kept in zip(
        TOKEN_PRESETS["sparsevlm-recycled"](32).keep.values(), (300, 200, 110), (309, 204, 113), strict=True
    ):
        total = torch.tensor([[576]])
        assert keep_count(share, total, torch.tensor([[left]])).item() == kept
        assert Recycling().best(left, kept) == best
        left = kept
    for present in (1, 2, 7, 40, 41):
        for keep in range(1, present + 1):
            best = Recycling().best(present, keep)
            assert best + (Recycling().recycled(present - best)[1] if best < keep else 0) == keep
    with pytest.raises(ValueError, match="`share` must be in"):
        Recycling(1.0)


def test_clusters_of_what_is_alike():
    points = torch.cat([drawn(6, 4) * 0.01 + 5 * n for n in range(3)])
    centres = density_peaks(points, 3)
    assert centres.view(3, 6).unique(dim=1).shape == (3, 1)
    assert (centres.view(3, 6)[:, 0] // 6).tolist() == [0, 1, 2]


def test_a_decision_names_tokens_of_the_row():
    """Of two images, each for itself, with padding and one that must stay."""
    tokens, scores = drawn(1, 80, 8), drawn(1, 80, seed=1)
    image = (torch.arange(80) % 2)[None]  # images in turns
    valid, needed = torch.arange(80)[None] < 76, torch.zeros(1, 80, dtype=torch.bool)
    needed[0, int(scores[0, :76].argmin())] = True
    pruning = TokenPruning([FunctionEvaluator(lambda t, c: scores, "given", "tokens")], {1: 0.5}, select=Recycling())
    context = TokenContext(1, valid, torch.tensor([[19, 19]]), torch.arange(80)[None], image=image, needed=needed)
    decision = pruning.decide(tokens, context)
    assert decision.stays.sum() == 38 and (decision.stays & needed).any()
    assert (image[0][decision.target[0]] == image[0]).all()
    moved = decision.target[0] != torch.arange(80)
    assert moved.any() and not decision.stays[0][moved].any() and decision.stays[0][decision.target[0][moved]].all()
    assert not moved[76:].any()
    with pytest.raises(ValueError, match="`select` has a rule of its own"):
        TokenPruning(list(pruning.evaluators.values()), {1: 0.5}, merge=True, select=Recycling())
    assert pruning.with_keep({2: 0.5}).select is pruning.select
