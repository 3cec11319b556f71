"""Trains the latent discriminator: noisy latents of real pictures against those on the sampler's own trajectories.

    python -m training.train_discriminator --model runs/text_to_image/pipeline --data runs/latents.npz \\
        --out runs/discriminator
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline

from evaluators import Calibration, LatentDiscriminator
from guidance import DenoisingStep
from pipelines import guide

from . import loop
from .data import Latents
from .noise import add_noise
from .train_clip import LEVELS

STEPS = 20
SCALES = (1.0, 2.0, 3.0, 4.5, 6.0, 8.0, 10.0, 13.0)


class RandomScales:
    """Guidance for making training data: every row and step draws its own scale, and the latents are kept."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self.latents: list[torch.Tensor] = []
        self.levels: list[float] = []

    def decide(self, step: DenoisingStep) -> tuple[torch.Tensor, dict]:
        """A static scale per row, wandering a little, so that good and bad latents both occur."""
        n = len(step.sample)
        if step.previous is None:
            scale = torch.tensor(SCALES)[torch.randint(len(SCALES), (n,), generator=self.generator)]
        else:
            scale = (step.previous * torch.empty(n).uniform_(0.7, 1.4, generator=self.generator)).clamp(1, 13)
        at_0, at_1 = step.candidates((0.0, 1.0), "noisy").unbind(1)
        self.latents.append((at_0 + scale.view(-1, 1, 1, 1) * (at_1 - at_0)).half())
        self.levels.append(step.noise_level("noisy"))
        return scale, {}


@torch.no_grad()
def sample_trajectories(pipe: StableDiffusionPipeline, captions: list[str], seed: int) -> tuple[torch.Tensor, list]:
    """Latents ``(n, STEPS, C, H, W)`` after each step, fp16, at unit variance, and the noise share after each."""
    pipe.set_progress_bar_config(disable=True)
    kept, levels = [], []
    for i in range(0, len(captions), 32):
        generator = torch.Generator().manual_seed((seed << 20) + i)
        guidance = RandomScales(generator)
        with guide(pipe, guidance):
            pipe(captions[i : i + 32], num_inference_steps=STEPS, generator=generator, output_type="latent")
        kept.append(torch.stack(guidance.latents, dim=1).cpu())
        levels = guidance.levels
        print(f"{i + len(kept[-1])}/{len(captions)} trajectories", flush=True)
    return torch.cat(kept), levels


class Logits(torch.nn.Module):
    """The discriminator as a plain network."""

    def __init__(self, discriminator: LatentDiscriminator) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(self, latents: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        return self.discriminator.logits(latents, level)


def loss_of(model: torch.nn.Module, batch: tuple) -> tuple[torch.Tensor, dict[str, float]]:
    """Binary cross entropy; `real` is 1 for a real latent."""
    latents, level, real = (t.to(next(model.parameters()).device) for t in batch)
    logits = model(latents, level)
    return F.binary_cross_entropy_with_logits(logits, real), {"accuracy": ((logits > 0) == (real > 0.5)).float().mean()}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    loop.add_arguments(parser, batch_size=128, lr=1e-3, minutes=5)
    parser.add_argument("--model", type=Path, required=True, help="folder of the trained pipeline")
    parser.add_argument("--data", type=Path, required=True, help=".npz of `training.data`, train split")
    parser.add_argument("--trajectories", type=int, default=1536)
    args = parser.parse_args(argv)
    data = Latents.load(args.data)
    file = args.out / "trajectories.npz"
    if not file.exists():
        pipe = StableDiffusionPipeline.from_pretrained(args.model)
        latents, levels = sample_trajectories(pipe, data.captions[: args.trajectories, 0].tolist(), args.seed)
        args.out.mkdir(parents=True, exist_ok=True)
        np.savez(file, latents=latents.numpy(), levels=np.array(levels, np.float32))
    with np.load(file) as stored:
        fake, fake_levels = torch.from_numpy(stored["latents"]), torch.from_numpy(stored["levels"])
    held_out = len(fake) // 6
    torch.manual_seed(args.seed)
    model = LatentDiscriminator(in_channels=fake.shape[2])

    def batch_of(step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng((args.seed, step))
        half = args.batch_size // 2
        rows, steps = rng.integers(held_out, len(fake), half), rng.integers(fake.shape[1], size=half)
        level = fake_levels[steps]
        real = add_noise(data.latents[rng.integers(held_out, len(data), half)], level, rng)
        return (
            torch.cat([real, fake[rows, steps].float()]),
            torch.cat([level, level]),
            torch.cat([torch.ones(half), torch.zeros(half)]),
        )

    report = loop.fit(args, Logits(model), batch_of, loss_of)
    rng = np.random.default_rng(args.seed + 1)
    accuracy = {}
    with torch.no_grad():
        for i, level in enumerate(fake_levels):
            levels = torch.full((held_out,), float(level))
            real, generated = add_noise(data.latents[:held_out], levels, rng), fake[:held_out, i].float()
            accuracy[float(level)] = float(
                (model.logits(real, levels) > model.logits(generated, levels)).float().mean()
            )
    reliability = np.interp(LEVELS, sorted(accuracy), [accuracy[k] for k in sorted(accuracy)]).round(4)
    model.calibrate(Calibration(LEVELS, (1.0,) * len(LEVELS), tuple(map(float, reliability))))
    model.save_pretrained(args.out / "discriminator")
    report["ranking_accuracy"] = dict(zip(map(str, LEVELS), map(float, reliability), strict=True))
    (args.out / "report.json").write_text(json.dumps(report, indent=1))
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
