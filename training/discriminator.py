"""Trains the latent discriminator: noisy latents of real pictures against those on the sampler's own trajectories.

    online-guidance train discriminator --trajectories runs/trajectories --cache runs/latents \\
        --out runs/discriminator
    online-guidance train discriminator --trajectories runs/trajectories --cache runs/latents \\
        --out runs/discriminator --minutes 10 --resume
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from commands.parser import Parser
from evaluators import LatentDiscriminator

from . import loop
from .cache import Cache, Draws, split
from .evaluators import keep
from .noise import LEVELS, add_noise
from .shards import ShardFolder
from .trajectories import held_out

TESTED = 2000  # of each kind, at most


class Logits(torch.nn.Module):
    """The discriminator as a plain network."""

    def __init__(self, discriminator: LatentDiscriminator) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(self, latents: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        return self.discriminator.logits(latents, level)


def loss_of(model: torch.nn.Module, batch: tuple) -> tuple[torch.Tensor, dict[str, float]]:
    """Binary cross entropy; `real` is 1 for a real latent."""
    latents, level, real = (t.to(next(model.parameters()).device) for t in batch)
    logits = model(latents, level)
    return F.binary_cross_entropy_with_logits(logits, real), {"accuracy": ((logits > 0) == (real > 0.5)).float().mean()}


def main(argv: list[str] | None = None) -> None:
    parser = Parser("train discriminator", __doc__)
    loop.add_arguments(parser, batch_size=128, lr=1e-3, minutes=5)
    parser.add_argument("--trajectories", type=Path, required=True, help="folder of `train trajectories`")
    parser.add_argument("--cache", type=Path, nargs="+", required=True, help="real latents, of `train latents`")
    args = parser.parse_args(argv)
    try:
        folder = ShardFolder.open(args.trajectories)
        cache = Cache(*args.cache)
        real, (_, real_tests) = split(cache, None)
    except ValueError as error:
        parser.error(str(error))
    fakes: dict[bool, list[tuple[int, int]]] = {True: [], False: []}  # shard and row: to test on, to train on
    shards = folder.shards()
    for number, shard in enumerate(shards):
        images = folder.what["images"]
        aside = held_out(shard.about["captions"][::images], shard.about)
        for row in range(len(shard.about["captions"])):
            fakes[aside[row // images]].append((number, row))
    if not fakes[True] or not fakes[False]:
        parser.error(f"argument --trajectories: {len(fakes[True]) + len(fakes[False])} pictures are too few")
    fake_levels, shape = shards[0].tensor("levels"), shards[0].shape("latents")[2:]
    # Real ones of another shape would be told by it.
    real, real_tests = (cache.of_shape(rows, shape) for rows in (real, real_tests))
    if not len(real) or not len(real_tests):
        parser.error(f"argument --cache: too few latents of {'×'.join(map(str, shape))}, which the trajectories have")
    torch.manual_seed(args.seed)
    model, draw = LatentDiscriminator(in_channels=shape[0]), Draws(cache, real, args.batch_size // 2)

    def made(places: Iterable[tuple[int, int, int]]) -> torch.Tensor:
        """Latents of shards and rows after a kept step."""
        return torch.cat([shards[number].rows("latents", [(row, step)]) for number, row, step in places]).float()

    def batch_of(step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng((args.seed, step))
        batch = draw(rng)
        half = len(batch)
        picked, steps = rng.integers(len(fakes[False]), size=half), rng.integers(len(fake_levels), size=half)
        level = fake_levels[steps]
        fake = made((*fakes[False][i], int(at)) for i, at in zip(picked, steps, strict=True))
        return (
            torch.cat([add_noise(batch.latents, level, rng), fake]),
            torch.cat([level, level]),
            torch.cat([torch.ones(half), torch.zeros(half)]),
        )

    report = loop.fit(args, Logits(model), batch_of, loss_of)
    rng = np.random.default_rng(args.seed + 1)
    accuracy = {}

    def logits(latents: torch.Tensor, level: float) -> torch.Tensor:
        return model.logits(latents.to(model.device), torch.full((len(latents),), level, device=model.device)).cpu()

    with torch.no_grad():
        for i, level in enumerate(fake_levels.tolist()):
            batches = cache.batches(real_tests[:TESTED], 256)
            noisy = (add_noise(batch.latents, torch.full((len(batch),), level), rng) for batch in batches)
            true = torch.cat([logits(latents, level) for latents in noisy])
            fake = torch.cat([logits(made([(*place, i)]), level) for place in fakes[True][:TESTED]])
            accuracy[level] = float((true[:, None] > fake).float().mean())
    reliability = np.interp(LEVELS, sorted(accuracy), [accuracy[k] for k in sorted(accuracy)]).round(4)
    keep(model, args, reliability.tolist(), report)


if __name__ == "__main__":
    main()
