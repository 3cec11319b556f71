r"""The simulated annotator, for want of people: votes on pairs of pictures that the embedded model made, or, which
costs no sampling, on pairs of rendered scenes of which one shows something else than the caption.

    python -m tinyworld.recipes.features --seed 78 --out runs/annotator
    python -m tinyworld.recipes.annotator --trajectories runs/trajectories --annotator runs/annotator/features \\
        --out runs/pairs_sampled
    python -m tinyworld.recipes.annotator --scenes 15000 --annotator runs/annotator/features --out runs/pairs_rendered

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

import tinyworld
from commands.arguments import positive
from commands.pairs import Pair, write_pairs
from training.shards import ShardFolder

from ..captions import caption, is_held_out, parse_caption, sample_spec
from ..features import PixelClassifier, targets
from ..judge import wrong_spec
from ..scenes import render

TEMPERATURE = 0.02
TIE = 0.05


@torch.no_grad()
def utilities(annotator: PixelClassifier, pixels: torch.Tensor, captions: list[str]) -> np.ndarray:
    """Of pictures uint8 ``(n, 3, 64, 64)``, ``(n,)``: the mean log-likelihood of what each caption tells."""
    wanted = torch.stack([targets(parse_caption(text)) for text in captions])
    logits, told = torch.cat([annotator.head(annotator(part)) for part in pixels.split(256)]), wanted >= 0
    loss = F.binary_cross_entropy_with_logits(logits, wanted.clamp(min=0), reduction="none")
    return -((loss * told).sum(1) / told.sum(1)).numpy()


def votes(captions: list[str], utility: np.ndarray, images: int, seed: int) -> list[Pair]:
    """One vote on every two neighbours among the `images` pictures of a caption, which lie side by side."""
    rng = np.random.default_rng(seed)
    pairs = []
    for first in range(0, len(utility), images):
        for a in range(first, first + images - 1):
            chance = expit((utility[a] - utility[a + 1]) / TEMPERATURE)
            chosen, rejected = (a, a + 1) if rng.random() < chance else (a + 1, a)
            pairs.append(
                Pair(
                    prompt=captions[a],
                    chosen=f"images/{chosen:06}.png",
                    rejected=f"images/{rejected:06}.png",
                    rater="simulated",
                    question="overall",
                    tie=bool(abs(chance - 0.5) < TIE),
                    weight=1.0,
                )
            )
    return pairs


def rendered(n: int, seed: int) -> tuple[torch.Tensor, list[str]]:
    """Two scenes for each of `n` captions of the train split, uint8 ``(2 n, 3, 64, 64)``: what it says, and the same
    with one thing wrong. The captions, too, each twice."""
    rng = np.random.default_rng((seed, 30))
    pictures, captions = [], []
    for _ in tqdm(range(n), desc="scenes"):
        right = sample_spec(rng, "train")
        while is_held_out(wrong := wrong_spec(right, rng)):
            pass
        pictures += [render(spec, rng)[0] for spec in (right, wrong)]
        captions += [caption(right, rng)] * 2
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2), captions


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """Latents of unit variance to pictures, uint8 ``(n, 3, H, W)``."""
    pixels = torch.cat([vae.decode(x.float() / vae.config.scaling_factor).sample for x in latents.split(16)])
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--trajectories", type=Path, help="pictures of the model: folder of `train trajectories`")
    source.add_argument("--scenes", type=positive, help="rendered pictures: how many pairs")
    vae = tinyworld.WEIGHTS / "text_to_image" / "vae"
    parser.add_argument("--vae", type=Path, default=vae, help="folder of the AutoencoderKL; default: the embedded one")
    parser.add_argument("--annotator", type=Path, required=True, help="folder of the PixelClassifier that votes")
    parser.add_argument("--out", type=Path, required=True, help="folder of pairs.jsonl and its pictures")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    annotator = PixelClassifier.from_pretrained(args.annotator).eval()
    if args.scenes:
        pixels, captions = rendered(args.scenes, args.seed)
        images = 2
    else:
        made = ShardFolder.open(args.trajectories)
        latents = torch.cat([shard.tensor("latents")[:, -1] for shard in made.shards()])
        pixels = decode(AutoencoderKL.from_pretrained(args.vae).eval(), latents)
        captions, images = [text for shard in made.shards() for text in shard.about["captions"]], made.what["images"]
    utility = utilities(annotator, pixels, captions)
    (args.out / "images").mkdir(parents=True, exist_ok=True)
    for i, picture in enumerate(tqdm(pixels.permute(0, 2, 3, 1).numpy(), desc="pictures")):
        Image.fromarray(picture).save(args.out / "images" / f"{i:06}.png")
    pairs = votes(captions, utility, images, args.seed)
    write_pairs(args.out / "pairs.jsonl", pairs)
    better = [utility[int(Path(p.chosen).stem)] > utility[int(Path(p.rejected).stem)] for p in pairs if not p.tie]
    share = f", {np.mean(better):.2f} of the others for the better one" if better else ""
    print(f"{len(pairs)} votes, {len(pairs) - len(better)} ties{share}")


if __name__ == "__main__":
    main()
