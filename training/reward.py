"""Trains the reward, a small head on a trained latent CLIP, on preference pairs under the Bradley–Terry model.

    online-guidance train reward --pairs study/pairs.jsonl --clip runs/clip/clip --model MODEL --out runs/reward
    online-guidance train reward --pairs pickapic.parquet --test-pairs study/pairs.jsonl --clip CLIP --model MODEL \\
        --out runs/reward

The pairs are in the format of docs/preference_pairs.md, which a study exports: your own votes will do; or they have the
columns of Pick-a-Pic. Their pictures become latents in the folder of --out, once.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from commands.arguments import positive
from commands.parser import Parser
from evaluators import LatentReward

from . import buckets, latents, loop, vae
from .cache import Cache
from .evaluators import frozen_clip, keep
from .noise import LEVELS, add_noise, picture_share
from .shards import ShardFolder
from .votes import Votes, by_prompt

ASPECT = 2.0  # longest side over shortest, of the pictures


class Rewards(torch.nn.Module):
    """Rewards of the chosen and the rejected of each pair ``(n, 2)``."""

    def __init__(self, reward: LatentReward) -> None:
        super().__init__()
        self.reward = reward

    def forward(self, features: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        return self.reward.logits(features, self.reward.query(prompts))


def loss_of(model: torch.nn.Module, batch: tuple) -> tuple[torch.Tensor, dict[str, float]]:
    """Negative log-likelihood of the votes (a tie is half a vote for each), each times its weight."""
    features, prompts, tie, weight = batch
    chosen, rejected = model(features, prompts).unbind(1)
    loss = F.binary_cross_entropy_with_logits(chosen - rejected, 1 - tie / 2, weight=weight)
    return loss, {"accuracy": (chosen > rejected).float().mean()}


class Seen:
    """The pictures of votes as latents."""

    def __init__(self, votes: Votes, cache: Cache) -> None:
        self.votes, self.cache = votes, cache
        self.rows = np.argsort(cache.numbers)  # of each picture

    def noisy(self, picked: np.ndarray, level: torch.Tensor, rng: np.random.Generator) -> list[tuple]:
        """The chosen and the rejected of the votes `picked`, each with its own noise of its vote's level: by shape,
        their places among ``2 · votes`` in turn, latents and noise shares."""
        pictures = np.stack([self.votes.chosen[picked], self.votes.rejected[picked]], 1).ravel()
        rows, level = self.rows[pictures], level.repeat_interleave(2)
        found = []
        for group in self.cache.by_shape(np.unique(rows)):
            at = np.flatnonzero(np.isin(rows, group))
            found.append((at, add_noise(self.cache.take(rows[at]).latents, level[at], rng), level[at]))
        return found


def encode(votes: Votes, model: vae.PictureVAE, out: Path, resolution: int, batch_size: int) -> Cache:
    """The latents of the pictures, in `out`.

    Raises:
        ValueError: a picture cannot be read, or `out` holds others.
    """
    names = hashlib.sha256("\n".join(picture.name for picture in votes).encode()).hexdigest()
    folder = ShardFolder(out, latents.describe(model, votes, resolution=resolution, data=names))
    sizes = buckets.buckets(resolution, model.multiple, ASPECT)
    latents.fill(folder, latents.Maker(votes, model.encode, sizes, batch_size))
    return Cache(out)


def main(argv: list[str] | None = None) -> None:
    parser = Parser("train reward", __doc__)
    loop.add_arguments(parser, batch_size=128, lr=1e-4, minutes=2)
    parser.add_argument("--pairs", nargs="+", required=True, help=".jsonl, .parquet or owner/name:split, some of them")
    parser.add_argument("--test-pairs", help="the same, to test on; default: a sixth of the prompts")
    parser.add_argument("--question", default="overall", help="which votes of a .jsonl to learn")
    parser.add_argument("--clip", type=Path, required=True, help="folder of the latent CLIP, which is frozen")
    parser.add_argument("--model", required=True, help="folder or hub id of the pipeline, or folder of an autoencoder")
    parser.add_argument("--resolution", type=positive, help="side of the pictures; default: the model's own")
    args = parser.parse_args(argv)
    try:
        votes = Votes(args.pairs, args.question)
        tests = Votes([args.test_pairs], args.question) if args.test_pairs else votes
    except ValueError as error:
        parser.error(str(error))
    if args.test_pairs:
        train, test = np.arange(len(votes.prompts)), np.flatnonzero(~tests.tie)
    else:
        train, test = by_prompt(votes, args.seed)
    if not len(train) or not len(test):
        parser.error(f"argument --pairs: {len(votes.prompts)} votes on {args.question!r} are too few to train and test")
    clip = frozen_clip(parser, args.clip)
    device = clip.device
    try:
        model = vae.load(args.model)
        if model.channels != clip.in_channels:
            raise ValueError(f"the latents of {args.model!r} have {model.channels} channels, not {clip.in_channels}")
        if (resolution := args.resolution or model.resolution) is None:
            parser.error("argument --resolution: is needed, for an autoencoder alone does not say")
        model.vae.to(device)
        seen = Seen(votes, encode(votes, model, args.out / "latents", resolution, args.batch_size))
        tested = seen
        if tests is not votes:
            tested = Seen(tests, encode(tests, model, args.out / "test_latents", resolution, args.batch_size))
    except (OSError, ValueError) as error:
        parser.error(str(error))
    torch.manual_seed(args.seed)
    linear = len(clip.trunk.head) == 1
    reward = LatentReward(clip.trunk.head[0].in_features, text_dim=clip.config.dim, linear=linear)
    reward.begin_as(clip).to(device)

    def features(n: int, noisy: list[tuple]) -> torch.Tensor:
        """What the reward reads of both pictures of `n` votes, as `Seen.noisy` has them, ``(n, 2, features)``."""
        pooled = torch.empty(2 * n, clip.trunk.head[0].in_features, device=device)
        with torch.no_grad():
            for at, pictures, levels in noisy:
                pooled[at] = clip.trunk.pooled(pictures.to(device), levels.to(device))
        return pooled.unflatten(0, (-1, 2))

    def batch_of(step: int) -> tuple:
        rng = np.random.default_rng((args.seed, step))
        picked = rng.choice(train, args.batch_size)
        level = seen.cache.noise_levels(len(picked), rng)
        weight = torch.from_numpy(votes.weight[picked]) * picture_share(level)
        prompts, tie = [votes.prompts[i] for i in picked], torch.from_numpy(votes.tie[picked]).float()
        return seen.noisy(picked, level, rng), prompts, tie, weight

    def loss(model: torch.nn.Module, batch: tuple) -> tuple[torch.Tensor, dict[str, float]]:
        noisy, prompts, tie, weight = batch
        return loss_of(model, (features(len(prompts), noisy), prompts, tie.to(device), weight.to(device)))

    report = loop.fit(args, Rewards(reward), batch_of, loss)
    rng = np.random.default_rng(args.seed + 1)
    accuracy = []
    with torch.no_grad():
        for level in LEVELS:
            right = 0
            for part in np.array_split(test, -(-len(test) // 256)):
                both = features(len(part), tested.noisy(part, torch.full((len(part),), level), rng))
                query = reward.query([tests.prompts[i] for i in part])
                chosen, rejected = reward.logits(both, query).unbind(1)
                right += int((chosen > rejected).sum())
            accuracy.append(round(right / len(test), 4))
    keep(reward, args, accuracy, report | {"pairs": len(votes.prompts), "test_pairs": len(test)})


if __name__ == "__main__":
    main()
