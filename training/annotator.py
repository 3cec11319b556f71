r"""The simulated annotator: preference pairs of the embedded model's own pictures, for want of people's.

    python -m training.train_features --seed 78 --out runs/annotator
    python -m training.annotator --trajectories runs/trajectories.npz --vae runs/vae/vae \\
        --annotator runs/annotator/features --out runs/pairs

How it votes: a network looks at the pixels and says which colours, shapes, letters, numbers and backgrounds it sees
(`tinyworld.features.PixelClassifier` of another seed than the Fréchet distance's; the judge has no part in it). The
utility of a picture is the mean log-likelihood of what the prompt tells. Between two pictures of one prompt it chooses
a with probability ``sigmoid((utility(a) - utility(b)) / TEMPERATURE)``, and calls a tie where that is within ``TIE`` of
a half.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image
from scipy.special import expit
from tqdm.auto import tqdm

from tinyworld.captions import parse_caption
from tinyworld.features import PixelClassifier, targets

from .pairs import Pair, write_pairs
from .trajectories import Trajectories

TEMPERATURE = 0.02
TIE = 0.05


@torch.no_grad()
def utilities(annotator: PixelClassifier, pixels: torch.Tensor, captions: list[str]) -> np.ndarray:
    """Of pictures uint8 ``(n, 3, 64, 64)``, ``(n,)``: the mean log-likelihood of what each caption tells."""
    wanted = torch.stack([targets(parse_caption(text)) for text in captions])
    logits, told = annotator.head(annotator(pixels)), wanted >= 0
    loss = F.binary_cross_entropy_with_logits(logits, wanted.clamp(min=0), reduction="none")
    return -((loss * told).sum(1) / told.sum(1)).numpy()


def votes(made: Trajectories, utility: np.ndarray, seed: int) -> list[Pair]:
    """One vote on every two neighbouring pictures of a caption."""
    rng = np.random.default_rng(seed)
    pairs = []
    for first in range(0, len(utility), made.images):
        for a in range(first, first + made.images - 1):
            chance = expit((utility[a] - utility[a + 1]) / TEMPERATURE)
            chosen, rejected = (a, a + 1) if rng.random() < chance else (a + 1, a)
            pairs.append(
                Pair(
                    prompt=str(made.captions[a]),
                    chosen=f"images/{chosen:06}.png",
                    rejected=f"images/{rejected:06}.png",
                    rater="simulated",
                    question="overall",
                    tie=bool(abs(chance - 0.5) < TIE),
                    weight=1.0,
                )
            )
    return pairs


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """Latents of unit variance to pictures, uint8 ``(n, 3, H, W)``."""
    pixels = torch.cat([vae.decode(x.float() / vae.config.scaling_factor).sample for x in latents.split(16)])
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trajectories", type=Path, required=True, help=".npz of `training.trajectories`")
    parser.add_argument("--vae", type=Path, required=True, help="folder of the AutoencoderKL")
    parser.add_argument("--annotator", type=Path, required=True, help="folder of the PixelClassifier that votes")
    parser.add_argument("--out", type=Path, required=True, help="folder of pairs.jsonl and its pictures")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    made = Trajectories.load(args.trajectories)
    vae = AutoencoderKL.from_pretrained(args.vae).eval()
    annotator = PixelClassifier.from_pretrained(args.annotator).eval()
    pixels = decode(vae, made.latents[:, -1])
    utility = utilities(annotator, pixels, made.captions.tolist())
    (args.out / "images").mkdir(parents=True, exist_ok=True)
    for i, picture in enumerate(tqdm(pixels.permute(0, 2, 3, 1).numpy(), desc="pictures")):
        Image.fromarray(picture).save(args.out / "images" / f"{i:06}.png")
    write_pairs(args.out / "pairs.jsonl", votes(made, utility, args.seed))


if __name__ == "__main__":
    main()
