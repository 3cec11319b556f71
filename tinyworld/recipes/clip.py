"""The embedded latent CLIP: scenes of tinyworld against captions with one thing wrong. It has a text tower of its own,
for no teacher is shipped.

python -m tinyworld.recipes.clip --cache runs/latents --test-cache runs/latents_test --out runs/clip
"""

import argparse
from pathlib import Path

import torch

from evaluators import LatentCLIP
from training import loop
from training.cache import Cache
from training.clip import train

from .tokenizer import MAX_LENGTH, build_tokenizer


def build(in_channels: int) -> LatentCLIP:
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
    )
    clip.tokenizer = tokenizer
    return clip


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    loop.add_arguments(parser, batch_size=128, lr=2e-3, minutes=12)
    parser.add_argument("--cache", type=Path, nargs="+", required=True, help="latents of the train split's pictures")
    parser.add_argument("--test-cache", type=Path, required=True, help="latents of the test split's pictures")
    args = parser.parse_args(argv)
    cache, test = Cache(*args.cache), Cache(args.test_cache)
    torch.manual_seed(args.seed)
    train(args, build(cache.channels), cache, test)


if __name__ == "__main__":
    main()
