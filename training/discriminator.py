"""Trains the latent discriminator: noisy latents of real pictures against those on the sampler's own trajectories.

    online-guidance train discriminator --trajectories runs/trajectories --data runs/latents.npz \\
        --out runs/discriminator
    online-guidance train discriminator --trajectories runs/trajectories --data runs/latents.npz \\
        --out runs/discriminator --minutes 10 --resume
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from commands.parser import Parser
from evaluators import LatentDiscriminator

from . import loop
from .evaluators import keep
from .latents import Latents
from .noise import LEVELS, add_noise
from .shards import ShardFolder
from .trajectories import held_out


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
    parser.add_argument("--data", type=Path, required=True, help=".npz of `Latents`, real ones")
    args = parser.parse_args(argv)
    data = Latents.load(args.data)
    try:
        folder = ShardFolder.open(args.trajectories)
    except ValueError as error:
        parser.error(f"argument --trajectories: {error}")
    fakes: dict[bool, list[tuple[int, int]]] = {True: [], False: []}  # shard and row: to test on, to train on
    shards = folder.shards()
    for number, shard in enumerate(shards):
        images = folder.what["images"]
        aside = held_out(shard.about["captions"][::images], shard.about)
        for row in range(len(shard.about["captions"])):
            fakes[aside[row // images]].append((number, row))
    if not fakes[True] or not fakes[False]:
        parser.error(f"argument --trajectories: {len(fakes[True]) + len(fakes[False])} pictures are too few")
    fake_levels = shards[0].tensor("levels")
    tests = len(data) // 8  # real ones
    torch.manual_seed(args.seed)
    model = LatentDiscriminator(in_channels=shards[0].shape("latents")[2])

    def batch_of(step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng((args.seed, step))
        half = args.batch_size // 2
        picked, steps = rng.integers(len(fakes[False]), size=half), rng.integers(len(fake_levels), size=half)
        places = [(*fakes[False][i], int(at)) for i, at in zip(picked, steps, strict=True)]
        fake = torch.cat([shards[number].rows("latents", [(row, at)]) for number, row, at in places])
        level = fake_levels[steps]
        real = add_noise(data.latents[rng.integers(tests, len(data), half)], level, rng)
        return (
            torch.cat([real, fake.float()]),
            torch.cat([level, level]),
            torch.cat([torch.ones(half), torch.zeros(half)]),
        )

    report = loop.fit(args, Logits(model), batch_of, loss_of)
    rng = np.random.default_rng(args.seed + 1)
    accuracy = {}
    with torch.no_grad():
        number_of = min(tests, len(fakes[True]), 2000)
        for i, level in enumerate(fake_levels):
            levels = torch.full((number_of,), float(level))
            made = torch.cat([shards[n].rows("latents", [(row, i)]) for n, row in fakes[True][:number_of]])
            pair = add_noise(data.latents[:number_of], levels, rng), made.float()
            real, generated = (model.logits(x.to(model.device), levels.to(model.device)) for x in pair)
            accuracy[float(level)] = float((real > generated).float().mean())
    reliability = np.interp(LEVELS, sorted(accuracy), [accuracy[k] for k in sorted(accuracy)]).round(4)
    keep(model, args.out, reliability.tolist(), report)


if __name__ == "__main__":
    main()
