"""What the recipes learn from: scenes of tinyworld as VAE latents with paraphrased captions, made once, and captions
alone, to sample from.

    python -m tinyworld.recipes.data --vae runs/vae/vae --out runs/latents.npz -n 30000
    python -m tinyworld.recipes.data --out runs/captions.txt -n 2500 --seed 2
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from tqdm.auto import tqdm

from commands.arguments import positive
from training.latents import Latents, encode

from ..captions import SceneSpec, caption, parse_caption, sample_spec
from ..scenes import make_scene

PARAPHRASES = 4


def captions_of(split: str, n: int, seed: int) -> list[str]:
    """`n` captions of the split's combinations. Seed 0 calibrates, 1 tunes rivals, 2 makes trajectories."""
    rng = np.random.default_rng((seed, 10))
    return [caption(sample_spec(rng, split), rng) for _ in range(n)]


def specs_of(data: Latents) -> list[SceneSpec]:
    """What each scene shows."""
    return [parse_caption(texts[0]) for texts in data.captions]


def _render(seeds: range, split: str) -> tuple[np.ndarray, list[list[str]]]:
    scenes = [make_scene(seed, split) for seed in seeds]
    texts = [
        [scene.caption] + [caption(scene.spec, np.random.default_rng((seed, i))) for i in range(1, PARAPHRASES)]
        for seed, scene in zip(seeds, scenes, strict=True)
    ]
    return np.stack([scene.image for scene in scenes]), texts


def make_latents(vae: AutoencoderKL, n: int, first_seed: int, split: str = "train") -> Latents:
    """Encodes scenes `first_seed` … `first_seed + n - 1` of `split` (posterior means, times `scaling_factor`)."""
    chunks = [range(i, min(i + 256, first_seed + n)) for i in range(first_seed, first_seed + n, 256)]
    latents, captions = [], []
    # Renders while this process encodes. Not forked: a fork of a process with threads may deadlock.
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        for images, texts in tqdm(pool.map(_render, chunks, [split] * len(chunks)), total=len(chunks), desc="latents"):
            latents.append(encode(vae, images))
            captions += texts
    return Latents(torch.cat(latents), np.array(captions))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=" ".join(__doc__.split("\n\n")[0].split()))
    parser.add_argument("--vae", type=Path, help="folder of the trained AutoencoderKL, for latents")
    parser.add_argument("--out", type=Path, required=True, help=".npz of latents, or .txt of captions alone")
    parser.add_argument("-n", type=positive, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=("train", "test"), default="train")
    args = parser.parse_args(argv)
    if args.out.suffix == ".txt":
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text("".join(f"{text}\n" for text in captions_of(args.split, args.n, args.seed)))
        return
    if args.vae is None:
        parser.error("argument --vae: is needed for latents")
    vae = AutoencoderKL.from_pretrained(args.vae).eval()
    make_latents(vae, args.n, args.seed << 40, args.split).save(args.out)


if __name__ == "__main__":
    main()
