"""What the recipes learn from: scenes of tinyworld as a folder of captioned pictures, and captions to sample from.

    python -m tinyworld.recipes.data --out runs/pictures -n 30000
    online-guidance train latents --model runs/vae/vae --data runs/pictures --resolution 64 --out runs/latents
    python -m tinyworld.recipes.data --out runs/captions.txt -n 2500 --seed 2

Each picture has paraphrased captions, and as many that get one thing wrong about it. Those of the train split are of
the train split: what is held out must not be known as something that is always wrong.
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from commands.arguments import positive
from training.pictures import METADATA

from ..captions import SceneSpec, caption, is_held_out, sample_spec
from ..judge import wrong_spec
from ..scenes import make_scene

PARAPHRASES = 4
CHUNK = 256  # pictures of one folder, which one process renders at a time


def captions_of(split: str, n: int, seed: int) -> list[str]:
    """`n` captions of the split's combinations. Seed 0 calibrates, 1 tunes rivals, 2 makes trajectories."""
    rng = np.random.default_rng((seed, 10))
    return [caption(sample_spec(rng, split), rng) for _ in range(n)]


def wrong_captions(spec: SceneSpec, rng: np.random.Generator, split: str) -> list[str]:
    """`PARAPHRASES` captions that each get one thing wrong about a scene."""

    def wrong() -> str:
        while is_held_out(other := wrong_spec(spec, rng)) and split == "train":
            pass
        return caption(other, rng)

    return [wrong() for _ in range(PARAPHRASES)]


def _render(folder: Path, seeds: range, split: str) -> str:
    """Draws scenes into a folder of their own; their lines of metadata."""
    lines = []
    inside = folder / f"{seeds.start:012}"
    inside.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        scene = make_scene(seed, split)
        texts = [caption(scene.spec, np.random.default_rng((seed, i))) for i in range(1, PARAPHRASES)]
        wrong = wrong_captions(scene.spec, np.random.default_rng((seed, 99)), split)
        Image.fromarray(scene.image).save(inside / f"{seed:012}.png", compress_level=1)
        name = f"{inside.name}/{seed:012}.png"
        lines.append(json.dumps({"file_name": name, "text": [scene.caption, *texts], "negative": wrong}) + "\n")
    return "".join(lines)


def export(folder: Path, n: int, first_seed: int, split: str = "train", processes: int | None = None) -> None:
    """Scenes `first_seed` … `first_seed + n - 1` of `split` as a folder of pictures with ``metadata.jsonl``, which is
    written when all are drawn; by as many `processes` as there are cores unless told otherwise."""
    chunks = [range(i, min(i + CHUNK, first_seed + n)) for i in range(first_seed, first_seed + n, CHUNK)]
    arguments = [folder] * len(chunks), chunks, [split] * len(chunks)
    bar = {"total": len(chunks), "desc": "scenes"}
    if len(chunks) == 1:
        lines = list(tqdm(map(_render, *arguments), **bar))
    else:  # Not forked: a fork of a process with threads may deadlock.
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            lines = list(tqdm(pool.map(_render, *arguments), **bar))
    (folder / METADATA).write_text("".join(lines), encoding="utf-8")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=" ".join(__doc__.split("\n\n")[0].split()))
    parser.add_argument("--out", type=Path, required=True, help="folder of pictures, or .txt of captions alone")
    parser.add_argument("-n", type=positive, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=("train", "test"), default="train")
    args = parser.parse_args(argv)
    if args.out.suffix == ".txt":
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text("".join(f"{text}\n" for text in captions_of(args.split, args.n, args.seed)))
        return
    export(args.out, args.n, args.seed << 40, args.split)


if __name__ == "__main__":
    main()
