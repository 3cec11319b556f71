"""Teaches latent CLIP on noisy latents of a VAE, contrastively and against captions with one thing wrong.

What the latents show and how a caption goes wrong is passed in: `tinyworld.recipes.clip` does so for its scenes.
"""

import argparse

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from tqdm.auto import tqdm

from evaluators import LatentCLIP

from . import loop
from .evaluators import keep
from .latents import Latents
from .noise import LEVELS, add_noise, noise_levels

VIEWS = 2  # noise levels of every scene in a batch: captions cost more than latents, and are encoded once for all


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
    clip: LatentCLIP, data: Latents, wrong: np.ndarray, pipe: StableDiffusionPipeline | None = None, seed: int = 0
) -> list[float]:
    """Share of held-out scenes whose caption beats a wrong one of them ``(n, paraphrases)``, at each of `LEVELS`."""
    rng = np.random.default_rng(seed)
    ids = [
        clip.tokenizer(texts[:, 0].tolist(), padding="max_length", truncation=True, return_tensors="pt").input_ids
        for texts in (data.captions, wrong)
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


def train(
    args: argparse.Namespace,
    clip: LatentCLIP,
    data: Latents,
    wrong: np.ndarray,
    test: Latents,
    test_wrong: np.ndarray,
    pipe: StableDiffusionPipeline | None = None,
) -> None:
    """Trains `clip` by `loop.fit` and keeps it in ``args.out``.

    Args:
        wrong, test_wrong: ``(n, paraphrases)`` captions that each get one thing wrong about the latents of their row.
        pipe: makes the x0 predictions that the CLIP is to read, `None` for one that reads noisy latents.
    """
    rounds = []  # or VIEWS noise levels of every scene, made once
    if pipe is not None:
        pipe.unet.to(memory_format=torch.channels_last)
        for i in range(VIEWS):
            rng = np.random.default_rng((args.seed, 1000 + i))
            level = noise_levels(len(data), rng)
            rounds.append((denoise(pipe, add_noise(data.latents, level, rng), level), level))

    def tokenise(texts: np.ndarray) -> torch.Tensor:
        ids = clip.tokenizer(texts.ravel().tolist(), padding="max_length", truncation=True).input_ids
        return torch.tensor(ids, dtype=torch.int16).view(*texts.shape, -1)

    right_ids, wrong_ids = tokenise(data.captions), tokenise(wrong)
    paraphrases = data.captions.shape[1]

    def batch_of(step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng((args.seed, step))
        rows, pick = rng.choice(len(data), args.batch_size, replace=False), rng.integers(paraphrases)
        ids = torch.cat([right_ids[rows, pick], wrong_ids[rows, rng.integers(paraphrases)]]).long()
        if rounds:
            latents, level = zip(*rounds, strict=True)
            return torch.cat([view[rows] for view in latents]).float(), torch.cat([view[rows] for view in level]), ids
        level = noise_levels(VIEWS * args.batch_size, rng)
        return add_noise(data.latents[rows].repeat(VIEWS, 1, 1, 1), level, rng), level, ids

    report = loop.fit(args, Contrast(clip), batch_of, loss_of)
    keep(clip, args.out, ranking_accuracy(clip, test, test_wrong, pipe), report)
