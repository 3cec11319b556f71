"""Training data shared by the recipes: tinyworld scenes as VAE latents with paraphrased captions, made once.

python -m training.data --vae runs/vae/vae --out runs/latents.npz -n 30000
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from tqdm.auto import tqdm

from demos.arguments import positive
from tinyworld.captions import SceneSpec, caption, parse_caption, sample_spec
from tinyworld.scenes import make_scene

PARAPHRASES = 4


def captions_of(split: str, n: int, seed: int) -> list[str]:
    """`n` captions of the split's combinations. Seed 0 calibrates, 1 tunes rivals, 2 makes trajectories."""
    rng = np.random.default_rng((seed, 10))
    return [caption(sample_spec(rng, split), rng) for _ in range(n)]


def to_pixels(images: np.ndarray) -> torch.Tensor:
    """uint8 ``(n, h, w, 3)`` to float ``(n, 3, h, w)`` in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


@dataclass
class Latents:
    """`latents` fp16 ``(n, C, H, W)`` at the VAE's scale (unit variance); `captions` ``(n, PARAPHRASES)`` strings."""

    latents: torch.Tensor
    captions: np.ndarray

    def __len__(self) -> int:
        return len(self.latents)

    @classmethod
    def load(cls, path: Path) -> "Latents":
        """Reads the .npz that `save` wrote."""
        with np.load(path) as file:
            return cls(torch.from_numpy(file["latents"]), file["captions"])

    def save(self, path: Path) -> None:
        """Writes an .npz."""
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, latents=self.latents.numpy(), captions=self.captions)

    def specs(self) -> list[SceneSpec]:
        """What each scene shows."""
        return [parse_caption(texts[0]) for texts in self.captions]


def _render(seeds: range, split: str) -> tuple[np.ndarray, list[list[str]]]:
    scenes = [make_scene(seed, split) for seed in seeds]
    texts = [
        [scene.caption] + [caption(scene.spec, np.random.default_rng((seed, i))) for i in range(1, PARAPHRASES)]
        for seed, scene in zip(seeds, scenes, strict=True)
    ]
    return np.stack([scene.image for scene in scenes]), texts


@torch.no_grad()
def encode(vae: AutoencoderKL, images: np.ndarray) -> torch.Tensor:
    """Pictures uint8 ``(n, h, w, 3)`` to posterior means, fp16 ``(n, C, H, W)`` at unit variance, on the CPU."""
    vae = vae.to(memory_format=torch.channels_last)  # a third faster on a CPU
    pixels = to_pixels(images).to(vae.device).contiguous(memory_format=torch.channels_last)
    mean = torch.cat([vae.encode(p).latent_dist.mean for p in pixels.split(16)])  # 16 stay in a CPU's cache
    return (mean * vae.config.scaling_factor).half().cpu()


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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vae", type=Path, required=True, help="folder of the trained AutoencoderKL")
    parser.add_argument("--out", type=Path, required=True, help="the .npz file")
    parser.add_argument("-n", type=positive, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=("train", "test"), default="train")
    args = parser.parse_args(argv)
    vae = AutoencoderKL.from_pretrained(args.vae).eval()
    make_latents(vae, args.n, args.seed << 40, args.split).save(args.out)


if __name__ == "__main__":
    main()
