"""Trains the reward, a small head on a trained latent CLIP, on preference pairs under the Bradley–Terry model.

    online-guidance train reward --pairs runs/pairs_rendered/pairs.jsonl \\
        --test-pairs runs/pairs_test/pairs.jsonl --clip runs/clip/clip --vae runs/vae/vae --out runs/reward
    online-guidance train reward --pairs study/pairs.jsonl --clip CLIP --vae VAE --out runs/reward --question overall

The pairs are in the format of docs/preference_pairs.md, which a study exports: your own votes will do.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image
from tqdm.auto import tqdm

from commands.pairs import Pair, read_pairs
from commands.parser import Parser
from evaluators import LatentReward

from . import loop
from .evaluators import frozen_clip, keep
from .latents import encode
from .noise import LEVELS, add_noise, noise_levels


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


class Votes:
    """The votes on one question from files of pairs, their pictures as latents, each once."""

    def __init__(self, paths: list[Path], question: str) -> None:
        found = [(pair, path.parent) for path in paths for pair in read_pairs(path) if pair.question == question]
        self.pairs = [pair for pair, _ in found]
        files = [[folder / pair.chosen, folder / pair.rejected] for pair, folder in found]
        self.files = sorted({file for two in files for file in two})
        number = {file: i for i, file in enumerate(self.files)}
        self.pictures = np.array([[number[file] for file in two] for two in files]).reshape(-1, 2)

    def encode(self, vae: AutoencoderKL) -> None:
        """Makes `latents` of the pictures, ``(files, C, H, W)``."""
        batches = [self.files[i : i + 16] for i in range(0, len(self.files), 16)]
        pictures = ([np.asarray(Image.open(file).convert("RGB")) for file in files] for files in batches)
        self.latents = torch.cat([encode(vae, np.stack(p)) for p in tqdm(pictures, "encoding", len(batches))])

    def noisy(self, rows: np.ndarray, level: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """The chosen and the rejected of the pairs `rows`, in turn, each with its own noise of its pair's level."""
        return add_noise(self.latents[self.pictures[rows].ravel()], level.repeat_interleave(2), rng)


def by_prompt(pairs: list[Pair], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows to test on, the latter of a sixth of the prompts; ties are no test."""
    prompts = sorted({pair.prompt for pair in pairs})
    held_out = set(np.random.default_rng(seed).permutation(prompts)[: max(1, len(prompts) // 6)].tolist())
    train = [i for i, pair in enumerate(pairs) if pair.prompt not in held_out]
    test = [i for i, pair in enumerate(pairs) if pair.prompt in held_out and not pair.tie]
    return np.array(train), np.array(test)


def main(argv: list[str] | None = None) -> None:
    parser = Parser("train reward", __doc__)
    loop.add_arguments(parser, batch_size=128, lr=1e-4, minutes=2)
    parser.add_argument("--pairs", type=Path, nargs="+", required=True, help="pairs.jsonl, one or several")
    parser.add_argument("--test-pairs", type=Path, help="pairs.jsonl to test on; default: a sixth of the prompts")
    parser.add_argument("--question", default="overall", help="which votes to learn")
    parser.add_argument("--clip", type=Path, required=True, help="folder of the latent CLIP, which is frozen")
    parser.add_argument("--vae", type=Path, required=True, help="folder of the AutoencoderKL that the CLIP reads")
    args = parser.parse_args(argv)
    try:
        votes = Votes(args.pairs, args.question)
        tests = Votes([args.test_pairs], args.question) if args.test_pairs else votes
    except ValueError as error:
        parser.error(str(error))
    if args.test_pairs:
        train = np.arange(len(votes.pairs))
        test = np.array([i for i, pair in enumerate(tests.pairs) if not pair.tie])
    else:
        train, test = by_prompt(votes.pairs, args.seed)
    if not len(train) or not len(test):
        parser.error(f"argument --pairs: {len(votes.pairs)} votes on {args.question!r} are too few to train and test")
    clip = frozen_clip(parser, args.clip)
    device = clip.device
    autoencoder = AutoencoderKL.from_pretrained(args.vae).eval().to(device)
    votes.encode(autoencoder)
    if tests is not votes:
        tests.encode(autoencoder)
    torch.manual_seed(args.seed)
    reward = LatentReward(clip.trunk.head[0].in_features, text_dim=clip.config.dim).begin_as(clip).to(device)

    def features(votes: Votes, rows: np.ndarray, level: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """What the reward reads of both pictures of the pairs `rows`."""
        with torch.no_grad():
            pooled = clip.trunk.pooled(votes.noisy(rows, level, rng).to(device), level.repeat_interleave(2).to(device))
            return pooled.unflatten(0, (-1, 2))

    def batch_of(step: int) -> tuple:
        rng = np.random.default_rng((args.seed, step))
        rows = rng.choice(train, args.batch_size)
        picked = [votes.pairs[i] for i in rows]
        tie, weight = (torch.tensor([float(getattr(p, k)) for p in picked], device=device) for k in ("tie", "weight"))
        return features(votes, rows, noise_levels(len(rows), rng), rng), [p.prompt for p in picked], tie, weight

    report = loop.fit(args, Rewards(reward), batch_of, loss_of)
    rng = np.random.default_rng(args.seed + 1)
    accuracy = []
    with torch.no_grad():
        query = reward.query([tests.pairs[i].prompt for i in test])
        for level in LEVELS:
            seen = features(tests, test, torch.full((len(test),), level), rng)
            chosen, rejected = reward.logits(seen, query).unbind(1)
            accuracy.append(round(float((chosen > rejected).float().mean()), 4))
    keep(reward, args.out, accuracy, report | {"pairs": len(votes.pairs), "test_pairs": len(test)})


if __name__ == "__main__":
    main()
