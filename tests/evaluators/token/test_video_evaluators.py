"""Scores of tokens of videos against their rules, written out frame by frame."""

import math

import pytest
import torch

from evaluators.token.base import Embeddings, Frames, TokenContext
from evaluators.token.distinct import VideoDistinctness
from evaluators.token.frames import FrameChange

SHAPES = ((0, 6, 12), (0, 1, 9), (1, 4, 10))  # of a row's image and two videos, each: separators behind, frames, tokens


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def row(shapes=SHAPES, keeps=(30, 4, 21), dim: int = 16, seed: int = 0):
    """Tokens that change slowly, and the context of the videos `shapes` in one row."""
    parts, columns = [], []
    for number, (after, frames, size) in enumerate(shapes):
        video = 0.4 * drawn(frames, size, dim, seed=seed + number).cumsum(0) + drawn(1, size, dim, seed=9 + number)
        parts += [video.flatten(0, 1), drawn(after, dim, seed=seed)]
        frame = [n // size for n in range(frames * size)] + [-1] * after
        columns += [(number, f, frames, size) for f in frame]
    tokens = torch.cat(parts)[None]
    frames = Frames(*torch.tensor(columns).T[:, None])
    valid = torch.ones(1, tokens.shape[1], dtype=torch.bool)
    return tokens, TokenContext(
        layer=0,
        valid=valid,
        keep=torch.tensor([keeps]),
        ordinal=torch.arange(tokens.shape[1])[None],
        image=frames.image,
        frames=lambda: frames,
        embeddings=lambda: Embeddings(tokens, valid, tokens[:, :0], valid[:, :0]),
    )


def parts(values, shapes=SHAPES):
    return values.split([frames * size + after for after, frames, size in shapes])


def evs(video: torch.Tensor, pruned: float) -> list[int]:
    """EVS's rule for a video ``(frames, tokens, dim)``: at least a frame stays, and the first frame always."""
    frames, size, _ = video.shape
    change = []
    for n in range(frames * size):
        frame, place = divmod(n, size)
        alike = torch.cosine_similarity(video[frame, place], video[frame - 1, place], dim=0).item() if frame else None
        change.append(255.0 if alike is None else 1 - alike)
    kept = max(size, int(frames * size * (1 - pruned)))
    return sorted(sorted(range(frames * size), key=lambda n: (-change[n], n))[:kept])


def test_what_changes_between_frames():
    tokens, given = row()
    scores = FrameChange()(tokens, given)[0]
    first, image, second = parts(scores)
    videos = parts(tokens[0])
    expected = evs(videos[0].view(6, 12, -1), 1 - 30 / 72)
    assert sorted(first.topk(30).indices.tolist()) == expected
    assert not image.any()
    expected = evs(videos[2][:-1].view(4, 10, -1), 0.5)
    assert sorted(second[:-1].topk(20).indices.tolist()) == expected and second[-1] == second.max()


def test_the_first_frame_stays_whole():
    tokens, given = row(keeps=(11, 4, 21))
    with pytest.raises(ValueError, match="the first frame of a video whole: `keep` must leave 12 tokens of it, got 11"):
        FrameChange()(tokens, given)


def vidcom2(video: torch.Tensor, share: float) -> list[list[int]]:
    """VidCom2's rule for a video ``(frames, tokens, dim)``: which tokens of each frame stay."""
    frames, size, dim = video.shape
    flat = video.flatten(0, 1)
    variance = [((c := flat[:, n]) - c.mean()).pow(2).mean().item() for n in range(dim)]
    quiet = sorted(range(dim), key=lambda n: variance[n])[: dim // 2]
    unit = video[..., quiet] / video[..., quiet].norm(dim=-1, keepdim=True)
    widths = [2.0**n for n in range(-3, 2)]

    def alike(token, centre):
        distance = (token - centre).pow(2).sum().item()
        return sum(math.exp(-distance / (2 * width)) for width in widths)

    centre = unit.mean((0, 1))
    to_video = [[alike(token, centre) for token in frame] for frame in unit]
    to_frame = [[alike(token, frame.mean(0)) for token in frame] for frame in unit]
    stands_out = [-sum(values) / size for values in to_video]
    weight = [math.exp((value - max(stands_out)) / 0.01) for value in stands_out]
    chance = [value / sum(weight) for value in weight]
    stay = []
    for n in range(frames):
        budget = min(share * (1 + chance[n] - sum(chance) / frames), 1.0) * size
        both = [a + b for a, b in zip(to_video[n], to_frame[n], strict=True)]
        stay.append(sorted(sorted(range(size), key=lambda t, b=both: b[t])[: max(1, round(budget))]))
    return stay


@pytest.mark.parametrize("seed", range(4))
def test_distinctness(seed):
    """Those within their frame's budget are above 1/2, and each frame's are in the order of the rule."""
    tokens, given = row(keeps=(18, 4, 11), seed=20 * seed)
    scores = VideoDistinctness()(tokens, given)[0]
    first, _, second = parts(scores)
    for values, video, share, (_, frames, size) in (
        (first, parts(tokens[0])[0], 18 / 72, SHAPES[0]),
        (second[:-1], parts(tokens[0])[2][:-1], 10 / 40, SHAPES[2]),
    ):
        expected = vidcom2(video.view(frames, size, -1), share)
        got = [(frame > 0.5).nonzero().flatten().tolist() for frame in values.view(frames, size)]
        assert got == expected
        assert len({len(frame) for frame in expected}) > 1
        count = sum(map(len, expected))
        flat = [n * size + t for n, frame in enumerate(expected) for t in frame]
        assert sorted(values.topk(count).indices.tolist()) == flat
    assert second[-1] > second[:-1].max()


def test_distinctness_of_what_is_left():
    """At a later pruning tokens that are gone take no place in the order."""
    tokens, given = row(((0, 3, 8),), (9,))
    whole = VideoDistinctness()(tokens, given)[0]
    left = torch.tensor([1, 2, 4, 5, 9, 11, 12, 13, 17, 20, 21, 23])
    context = TokenContext(
        layer=2,
        valid=torch.ones(1, 12, dtype=torch.bool),
        keep=torch.tensor([[6]]),
        ordinal=left[None],
        image=torch.zeros(1, 12, dtype=torch.long),
        frames=given.frames,
        embeddings=given.embeddings,
    )
    scores = VideoDistinctness()(tokens[:, left], context)[0]
    for frame in range(3):
        here = left // 8 == frame
        assert scores[here].max() == 2.0
        assert scores[here].argsort().tolist() == whole[left][here].argsort().tolist()
