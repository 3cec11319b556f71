"""Trains the reward, a small head on a trained latent CLIP, on preference pairs under the Bradley–Terry model.

    python -m training.train_reward --pairs runs/pairs/pairs.jsonl --out runs/reward

The pairs are in the format of docs/preference_pairs.md, which a study exports: your own votes will do.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image
from tqdm.auto import tqdm

import tinyworld
from evaluators import LatentReward

from . import loop
from .data import to_pixels
from .evaluators import frozen_clip, keep
from .noise import LEVELS, add_noise, noise_levels
from .pairs import Pair, read_pairs


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


@torch.no_grad()
def encode(vae: AutoencoderKL, pairs: list[Pair], folder: Path) -> torch.Tensor:
    """Latents of the chosen and the rejected picture of every pair, fp16 ``(n, 2, C, H, W)`` at unit variance."""
    latents = []
    for i in tqdm(range(0, len(pairs), 16), desc="encoding"):
        files = [file for pair in pairs[i : i + 16] for file in (pair.chosen, pair.rejected)]
        pixels = to_pixels(np.stack([np.asarray(Image.open(folder / file).convert("RGB")) for file in files]))
        mean = vae.encode(pixels.to(vae.device)).latent_dist.mean
        latents.append((mean * vae.config.scaling_factor).half().cpu().unflatten(0, (-1, 2)))
    return torch.cat(latents)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    loop.add_arguments(parser, batch_size=128, lr=1e-3, minutes=2)
    parser.add_argument("--pairs", type=Path, required=True, help="pairs.jsonl")
    parser.add_argument("--question", default="overall", help="which votes to learn")
    clip, vae = tinyworld.WEIGHTS / "clip", tinyworld.WEIGHTS / "text_to_image" / "vae"
    parser.add_argument("--clip", type=Path, default=clip, help="folder of the latent CLIP; default: the embedded one")
    parser.add_argument("--vae", type=Path, default=vae, help="folder of the AutoencoderKL; default: the embedded one")
    args = parser.parse_args(argv)
    try:
        pairs = [pair for pair in read_pairs(args.pairs) if pair.question == args.question]
    except ValueError as error:
        parser.error(str(error))
    if len({pair.prompt for pair in pairs}) < 2:
        parser.error(f"argument --pairs: {len(pairs)} votes on {args.question!r} are too few to train and to test")
    clip = frozen_clip(parser, args.clip)
    device = clip.device
    latents = encode(AutoencoderKL.from_pretrained(args.vae).eval().to(device), pairs, args.pairs.parent)
    # A prompt is on one side only: the pairs held out are of prompts that were never trained on.
    prompts = sorted({pair.prompt for pair in pairs})
    held_out = set(np.random.default_rng(args.seed).permutation(prompts)[: max(1, len(prompts) // 6)].tolist())
    train = np.array([i for i, pair in enumerate(pairs) if pair.prompt not in held_out])
    test = np.array([i for i, pair in enumerate(pairs) if pair.prompt in held_out and not pair.tie])
    if not len(train) or not len(test):
        parser.error(f"argument --pairs: {len(pairs)} votes on {args.question!r} are too few to train and to test")
    torch.manual_seed(args.seed)
    reward = LatentReward(clip.trunk.head[0].in_features, text_dim=clip.config.dim).read(clip).to(device)

    def noisy(rows: np.ndarray, level: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Features of both pictures of the pairs `rows`, each with its own noise of the pair's level."""
        both = level.repeat_interleave(2)
        x = add_noise(latents[rows].flatten(0, 1), both, rng).to(device)
        with torch.no_grad():
            return clip.trunk.pooled(x, both.to(device)).unflatten(0, (-1, 2))

    def batch_of(step: int) -> tuple:
        rng = np.random.default_rng((args.seed, step))
        rows = rng.choice(train, args.batch_size)
        picked = [pairs[i] for i in rows]
        tie, weight = (torch.tensor([float(getattr(p, k)) for p in picked], device=device) for k in ("tie", "weight"))
        return noisy(rows, noise_levels(len(rows), rng), rng), [p.prompt for p in picked], tie, weight

    report = loop.fit(args, Rewards(reward), batch_of, loss_of)
    rng = np.random.default_rng(args.seed + 1)
    accuracy = []
    with torch.no_grad():
        query = reward.query([pairs[i].prompt for i in test])
        for level in LEVELS:
            chosen, rejected = reward.logits(noisy(test, torch.full((len(test),), level), rng), query).unbind(1)
            accuracy.append(round(float((chosen > rejected).float().mean()), 4))
    keep(reward, args.out, accuracy, report | {"pairs": len(pairs), "held_out_pairs": len(test)})


if __name__ == "__main__":
    main()
