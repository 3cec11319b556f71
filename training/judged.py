"""Trajectories that a judge has scored, by prompt, and how often an evaluator of noisy latents ranks as it does."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from evaluators import Evaluator
from evaluators.base import Context, score

from .shards import Shard, ShardFolder
from .trajectories import held_out

DECIDED = 1.0  # two pictures whose scores differ by less than so many standard deviations within a prompt are no test


class Judged:
    """Trajectories with scores, by prompt, as far as they are made.

    Args:
        folder: of `training.trajectories`, with a judge.
        second: an evaluator of latents that has a say beside the judge, about the finished pictures, `share` times as
            loud. Two that err at different places err less together.

    Attributes:
        train, test: ``(shard, place among its prompts)`` of each prompt.
        mean, spread: of the scores; the spread is that within a prompt.
    """

    def __init__(self, folder: ShardFolder, second: Evaluator | None = None, share: float = 0.0) -> None:
        self.folder, self.second, self.share = folder, second, share
        self.images = int(folder.what["images"])
        self.shards: dict[str, Shard] = {}
        self.said: dict[str, list[torch.Tensor]] = {}  # by the judge, and by the second
        self.scores: dict[str, torch.Tensor] = {}
        self.train: list[tuple[str, int]] = []
        self.test: list[tuple[str, int]] = []
        self.mean, self.spread = 0.0, 1.0

    @torch.no_grad()
    def refresh(self) -> None:
        """Takes in the shards that were finished since."""
        new = [shard for shard in self.folder.shards() if shard.path.name not in self.shards]
        if not new and self.shards:
            return  # asked at every step of a training
        for shard in new:
            if "scores" not in shard.names:
                raise ValueError(f"{str(self.folder.path)!r} has no scores: make it with a judge")
            name, prompts = shard.path.name, shard.about["captions"][:: self.images]
            self.shards[name], self.said[name] = shard, [shard.tensor("scores").view(-1, self.images)]
            if self.second is not None:
                finished = shard.tensor("latents")[:, -1].float().unflatten(0, (-1, self.images))
                self.said[name].append(scored(self.second, finished, Context(prompts, 0.0, 0.0)))
            for place, test in enumerate(held_out(prompts, shard.about)):
                (self.test if test else self.train).append((name, place))
        if not self.said:
            raise ValueError(f"{str(self.folder.path)!r} holds no finished shard")
        spreads = [spread_of(torch.cat(parts)) for parts in zip(*self.said.values(), strict=True)]
        if not spreads[0] > 0:
            raise ValueError("the judge says the same of all pictures of a prompt: there is nothing to learn from it")
        for name, (judge, *second) in self.said.items():
            also = self.share * second[0] * (spreads[0] / spreads[1]) if second else 0.0
            self.scores[name] = judge + also
        scores = torch.cat(list(self.scores.values()))
        self.mean, self.spread = float(scores.mean()), spread_of(scores)

    @property
    def channels(self) -> int:
        """Of the latents."""
        return next(iter(self.shards.values())).shape("latents")[2]

    def prompt(self, item: tuple[str, int]) -> str:
        return self.shards[item[0]].about["captions"][item[1] * self.images]

    def levels(self, item: tuple[str, int]) -> torch.Tensor:
        """Noise share after each kept step."""
        return self.shards[item[0]].tensor("levels")

    def latents(self, item: tuple[str, int], step: int) -> torch.Tensor:
        """All pictures of a prompt after a kept step, ``(images, C, H, W)``."""
        first = item[1] * self.images
        rows = [(first + i, step) for i in range(self.images)]
        return self.shards[item[0]].rows("latents", rows).float()

    def batch(self, items: list[tuple[str, int]], steps: list[int]) -> tuple:
        """Latents ``(n, images, C, H, W)`` after the kept step of each, noise shares and scores ``(n, images)``, and
        prompts."""
        latents = torch.stack([self.latents(item, step) for item, step in zip(items, steps, strict=True)])
        level = torch.stack([self.levels(item)[step] for item, step in zip(items, steps, strict=True)])
        scores = torch.stack([self.scores[name][place] for name, place in items])
        return (
            latents,
            level[:, None].expand_as(scores),
            (scores - self.mean) / self.spread,
            [self.prompt(item) for item in items],
        )


def scored(evaluator: Evaluator, latents: torch.Tensor, context: Context) -> torch.Tensor:
    """Scores ``(prompts, images)``, made where the evaluator is: it would follow latents to the CPU."""
    return score(evaluator, latents.to(getattr(evaluator, "device", latents.device)), context).cpu()


def spread_of(scores: torch.Tensor) -> float:
    """Within a prompt, of ``(prompts, images)``."""
    return float(scores.var(1, correction=0).mean().sqrt())


def batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    """`items` in lists of `size`."""
    for first in range(0, len(items), size):
        yield items[first : first + size]


def agreements(scores: torch.Tensor, truth: torch.Tensor, margin: float = DECIDED) -> list[float]:
    """Of the pairs of a prompt whose `truth` ``(images,)`` differs by more than `margin`: 1 where `scores` has them in
    that order, 0 where the other way round, a half where it sees no difference."""
    a, b = torch.triu_indices(len(truth), len(truth), 1)
    true, said = truth[a] - truth[b], scores[a] - scores[b]
    return (((said * true).sign() + 1) / 2)[true.abs() > margin].tolist()


@torch.no_grad()
def ranking_accuracy(
    evaluator: Evaluator, data: Judged, items: list[tuple[str, int]]
) -> tuple[dict[float, float], int]:
    """Share of the decided pairs of `items` that are ranked as the judge does, at each kept noise share; and how many
    pairs there are.

    Raises:
        ValueError: there are none.
    """
    found: dict[float, list[float]] = {}
    for some in batches(items, 16):
        for step, share in enumerate(data.levels(some[0]).tolist()):
            latents, _, truth, prompts = data.batch(some, [step] * len(some))
            scores = scored(evaluator, latents, Context(prompts, 0.0, share))
            for said, true in zip(scores, truth, strict=True):
                found.setdefault(share, []).extend(agreements(said, true))
    if not any(found.values()):
        raise ValueError("the judge decides no pair of the pictures to test on: take more prompts, or another judge")
    return {share: round(float(np.mean(rows)), 4) for share, rows in found.items()}, len(next(iter(found.values())))
