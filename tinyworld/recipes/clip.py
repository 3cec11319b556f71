"""The embedded latent CLIP: scenes of tinyworld against captions with one thing wrong.

python -m tinyworld.recipes.clip --data runs/latents.npz --test-data runs/latents_test.npz --out runs/clip
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from evaluators import LatentCLIP
from training import loop
from training.clip import train
from training.latents import Latents

from ..captions import SceneSpec, caption, is_held_out
from ..judge import wrong_spec
from .data import PARAPHRASES, specs_of
from .tokenizer import MAX_LENGTH, build_tokenizer


def build(in_channels: int, space: str) -> LatentCLIP:
    """The shipped shape: a candidate costs 1.7 M multiply–adds at 16×16 latents."""
    tokenizer = build_tokenizer()
    clip = LatentCLIP(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": MAX_LENGTH,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        in_channels=in_channels,
        space=space,
    )
    clip.tokenizer = tokenizer
    return clip


def wrong_captions(data: Latents, seed: int, split: str = "all") -> np.ndarray:
    """``(n, PARAPHRASES)`` captions that each get one thing wrong about their scene. In training they are of the train
    split: what is held out must not be known as something that is always wrong."""
    rng = np.random.default_rng(seed)

    def wrong(spec: SceneSpec) -> str:
        while is_held_out(other := wrong_spec(spec, rng)) and split == "train":
            pass
        return caption(other, rng)

    return np.array([[wrong(spec) for _ in range(PARAPHRASES)] for spec in specs_of(data)])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    loop.add_arguments(parser, batch_size=128, lr=2e-3, minutes=12)
    parser.add_argument("--data", type=Path, required=True, help=".npz of `tinyworld.recipes.data`, train split")
    parser.add_argument("--test-data", type=Path, required=True, help=".npz of `tinyworld.recipes.data`, test split")
    parser.add_argument("--denoised", metavar="PIPELINE", help="read the x0 predictions of this pipeline")
    args = parser.parse_args(argv)
    data, test = Latents.load(args.data), Latents.load(args.test_data)
    torch.manual_seed(args.seed)
    clip = build(data.latents.shape[1], "denoised" if args.denoised else "noisy")
    pipe = StableDiffusionPipeline.from_pretrained(args.denoised) if args.denoised else None
    train(args, clip, data, wrong_captions(data, args.seed, "train"), test, wrong_captions(test, 1), pipe)


if __name__ == "__main__":
    main()
