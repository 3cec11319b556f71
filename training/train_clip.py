"""Trains latent CLIP on noisy latents of a VAE, contrastively and against captions with one thing wrong.

python -m training.train_clip --data runs/latents.npz --test-data runs/latents_test.npz --out runs/clip
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from tqdm.auto import tqdm

from evaluators import LatentCLIP
from tinyworld.captions import SceneSpec, caption, is_held_out
from tinyworld.judge import wrong_spec

from . import loop
from .data import PARAPHRASES, Latents
from .evaluators import keep
from .noise import LEVELS, add_noise, noise_levels
from .tokenizer import MAX_LENGTH, build_tokenizer

VIEWS = 2  # noise levels of every scene in a batch: captions cost more than latents, and are encoded once for all


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

    return np.array([[wrong(spec) for _ in range(PARAPHRASES)] for spec in data.specs()])


def encode_ids(clip: LatentCLIP, input_ids: torch.Tensor) -> torch.Tensor:
    """As `LatentCLIP.encode_ids`, captions of like length together and without most of their padding, which the causal
    text model does not see: less than two thirds of the work."""
    length = (input_ids != clip.tokenizer.pad_token_id).sum(1) + 1  # padding is the end token, which is read once
    order = length.argsort()
    parts = [clip.encode_ids(input_ids[rows, : int(length[rows].max())]) for rows in order.chunk(4)]
    return torch.cat(parts)[order.argsort()]


class Contrast(torch.nn.Module):
    """Logits of latents ``(VIEWS · n, C, H, W)`` against right captions and wrong ones ``(VIEWS, n, 2 n)``."""

    def __init__(self, clip: LatentCLIP) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, latents: torch.Tensor, level: torch.Tensor, input_ids: torch.Tensor) -> torch.Tensor:
        image = self.clip.encode_latents(latents, level).unflatten(0, (VIEWS, -1))
        return self.clip.logit_scale.exp().clamp(max=100) * image @ encode_ids(self.clip, input_ids).T


def loss_of(model: torch.nn.Module, batch: tuple) -> tuple[torch.Tensor, dict[str, float]]:
    """Symmetric InfoNCE; the wrong captions are further negatives for the latents."""
    device = next(model.parameters()).device
    logits = model(*(t.to(device) for t in batch))
    views, n, _ = logits.shape
    target = torch.arange(n, device=device).repeat(views)
    to_caption, to_latents = logits.flatten(0, 1), logits[:, :, :n].transpose(1, 2).flatten(0, 1)
    loss = (F.cross_entropy(to_caption, target) + F.cross_entropy(to_latents, target)) / 2
    right, wrong = (logits[:, :, at : at + n].diagonal(dim1=1, dim2=2) for at in (0, n))
    # In-batch negatives are mostly far off; the one-thing-wrong caption is what guidance must tell apart.
    hard = F.softplus(wrong - right).mean()
    return loss + hard, {"hard_accuracy": (right > wrong).float().mean()}


@torch.no_grad()
def denoise(pipe: StableDiffusionPipeline, noisy: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    """The pipeline's x0 predictions without a prompt, fp16: what it sees in the noise by itself, so that a caption that
    fits was seen and not merely asked for."""
    device, alphas = pipe.unet.device, pipe.scheduler.alphas_cumprod
    empty = pipe.tokenizer("", padding="max_length", return_tensors="pt").input_ids.to(device)
    embeds = pipe.text_encoder(empty)[0]
    timesteps = torch.searchsorted(1 - alphas, level.double() ** 2 - 1e-6).clamp(max=len(alphas) - 1)
    predictions = []
    for x, t in zip(tqdm(noisy.split(64), desc="x0 predictions"), timesteps.split(64), strict=True):
        x = x.to(device).contiguous(memory_format=torch.channels_last)
        velocity = pipe.unet(x, t.to(device), embeds.expand(len(x), -1, -1)).sample
        a = alphas[t].view(-1, 1, 1, 1).to(device)
        predictions.append((a.sqrt() * x - (1 - a).sqrt() * velocity).half().cpu())
    return torch.cat(predictions)


@torch.no_grad()
def ranking_accuracy(
    clip: LatentCLIP, data: Latents, pipe: StableDiffusionPipeline | None = None, seed: int = 0
) -> list[float]:
    """Share of held-out scenes whose caption beats the same with one thing wrong, at each of `LEVELS`."""
    rng = np.random.default_rng(seed)
    ids = [
        clip.tokenizer(texts[:, 0].tolist(), padding="max_length", truncation=True, return_tensors="pt").input_ids
        for texts in (data.captions, wrong_captions(data, seed + 1))
    ]
    right, wrong = (torch.cat([clip.encode_ids(chunk.to(clip.device)) for chunk in i.split(256)]) for i in ids)
    accuracy = []
    for level in LEVELS:
        levels = torch.full((len(data),), level)
        seen = add_noise(data.latents, levels, rng)
        seen = (seen if pipe is None else denoise(pipe, seen, levels).float()).to(clip.device)
        image = torch.cat([clip.encode_latents(x, levels[: len(x)].to(clip.device)) for x in seen.split(256)])
        accuracy.append(round(float(((image * right).sum(1) > (image * wrong).sum(1)).float().mean()), 4))
    return accuracy


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    loop.add_arguments(parser, batch_size=128, lr=2e-3, minutes=12)
    parser.add_argument("--data", type=Path, required=True, help=".npz of `training.data`, train split")
    parser.add_argument("--test-data", type=Path, required=True, help=".npz of `training.data`, test split")
    parser.add_argument("--denoised", metavar="PIPELINE", help="read the x0 predictions of this pipeline")
    args = parser.parse_args(argv)
    data, test = Latents.load(args.data), Latents.load(args.test_data)
    torch.manual_seed(args.seed)
    clip = build(data.latents.shape[1], "denoised" if args.denoised else "noisy")
    pipe, rounds = None, []  # or VIEWS noise levels of every scene, made once
    if args.denoised:
        pipe = StableDiffusionPipeline.from_pretrained(args.denoised)
        pipe.unet.to(memory_format=torch.channels_last)
        for i in range(VIEWS):
            rng = np.random.default_rng((args.seed, 1000 + i))
            level = noise_levels(len(data), rng)
            rounds.append((denoise(pipe, add_noise(data.latents, level, rng), level), level))

    def tokenise(texts: np.ndarray) -> torch.Tensor:
        ids = clip.tokenizer(texts.ravel().tolist(), padding="max_length", truncation=True).input_ids
        return torch.tensor(ids, dtype=torch.int16).view(*texts.shape, -1)

    right, wrong = tokenise(data.captions), tokenise(wrong_captions(data, args.seed, "train"))

    def batch_of(step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng((args.seed, step))
        rows, pick = rng.choice(len(data), args.batch_size, replace=False), rng.integers(PARAPHRASES)
        ids = torch.cat([right[rows, pick], wrong[rows, rng.integers(PARAPHRASES)]]).long()
        if rounds:
            latents, level = zip(*rounds, strict=True)
            return torch.cat([view[rows] for view in latents]).float(), torch.cat([view[rows] for view in level]), ids
        level = noise_levels(VIEWS * args.batch_size, rng)
        return add_noise(data.latents[rows].repeat(VIEWS, 1, 1, 1), level, rng), level, ids

    report = loop.fit(args, Contrast(clip), batch_of, loss_of)
    reliability = ranking_accuracy(clip, test, pipe)
    keep(clip, args.out, reliability, report)


if __name__ == "__main__":
    main()
