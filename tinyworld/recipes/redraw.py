"""Scenes as the embedded text-to-image model paints them, so that the vision-language model learns to read its strokes
and not only those of the renderer: half of them are noised and painted on from there, the others are what the model
predicts of the noised ones at once, which is what a preview is.

    python -m tinyworld.recipes.redraw --out runs/redrawn -n 16384
    python -m tinyworld.recipes.lvlm --init runs/lvlm_1/lvlm --redrawn runs/redrawn --out runs/lvlm --vision-steps 0

So little noise is added that the layout stays what the scene says. The same command goes on where it was stopped.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from tqdm.auto import tqdm

from commands.arguments import positive
from evaluators.pixel.preview import decode, encode
from guidance.schedulers import denoised
from training.quick import quicken
from training.shards import ShardFolder

from ..pipeline import TinyWorldPipeline
from ..scenes import Scene, make_scene

# Of the pictures, by what their captions ask.
SHARES = {"binding": 0.1, "count": 0.2, "two_kind": 0.25, "relation": 0.25, "text": 0.2}
FIRST_SEED = 7 << 40  # of its scenes
STEPS = 20
NOISE = (0.3, 0.86)  # share of it that is added: below nothing changes, above things move
GUIDANCE = (1.0, 2.0, 3.0, 4.5, 6.0)
# In training: the share of redrawn ones, and of those that lie under grain, with its standard deviations, of 255: what
# is hard to read should be doubted, not misread.
REDRAWN, GRAINY, GRAIN = 0.65, 0.4, (2.0, 22.0)
TOGETHER, SHARD = 32, 512  # pictures that are painted from the same noise level, and of a shard


def scene_of(number: int) -> Scene:
    """The scene that picture `number` was painted from."""
    category = np.random.default_rng((FIRST_SEED, number)).choice(list(SHARES), p=list(SHARES.values()))
    return make_scene(FIRST_SEED + number, category=str(category))


@torch.no_grad()
def paint(pipe: Any, scheduler: DDIMScheduler, numbers: range, preview: bool) -> torch.Tensor:
    """Pictures uint8 ``(n, 64, 64, 3)`` of scenes `numbers`, all at a noise share and a guidance scale that the first
    of them decides."""
    rng = np.random.default_rng((FIRST_SEED, numbers.start, 1))
    generator = torch.Generator().manual_seed(FIRST_SEED + numbers.start)
    scenes = [scene_of(number) for number in numbers]
    pictures = torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2) / 255
    latents = encode(pipe.vae, pictures)
    scheduler.set_timesteps(STEPS)
    alphas = scheduler.alphas_cumprod[scheduler.timesteps]
    shares = (1 - alphas).sqrt()
    start = int(rng.choice(((shares > NOISE[0]) & (shares < NOISE[1])).nonzero()[:, 0].numpy()))
    noise = torch.randn(latents.shape, generator=generator)
    latents = scheduler.add_noise(latents, noise, scheduler.timesteps[start : start + 1].expand(len(latents)))
    prompt_embeds, negative = pipe.encode_prompt([scene.caption for scene in scenes], pipe.device, 1, True)
    embeds, scale = torch.cat([negative, prompt_embeds]), float(rng.choice(GUIDANCE))
    for timestep in scheduler.timesteps[start:]:
        pred_uncond, pred_cond = pipe.unet(torch.cat([latents] * 2), timestep, embeds, return_dict=False)[0].chunk(2)
        prediction = pred_uncond + scale * (pred_cond - pred_uncond)
        if preview:
            level = float(alphas[start]) ** 0.5, float(shares[start])
            latents = denoised(scheduler, prediction, latents, level)
            break
        latents = scheduler.step(prediction, timestep, latents, eta=1.0, generator=generator).prev_sample
    return (decode(pipe.vae, latents) * 255).round().byte().permute(0, 2, 3, 1)


class Redrawn:
    """The pictures of a folder as scenes, whose truth is that of what they were painted from.

    Raises:
        ValueError: the folder is not one of `redraw`.
    """

    def __init__(self, path: Path) -> None:
        folder = ShardFolder.open(path)
        shards = folder.shards()
        if folder.what.get("kind") != "redrawn" or not shards:
            raise ValueError(f"{str(path)!r} holds no pictures of `python -m tinyworld.recipes.redraw`")
        self.images = torch.cat([shard.tensor("images") for shard in shards]).numpy()
        self.numbers = np.concatenate([np.arange(shard.about["first"], shard.about["last"] + 1) for shard in shards])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> Scene:
        return replace(scene_of(int(self.numbers[place])), image=self.images[place])

    def among(self, scene: Scene, rng: np.random.Generator) -> Scene:
        """What is learned from: one of these or `scene`, as it is or under grain."""
        if rng.random() < REDRAWN:
            scene = self[int(rng.integers(len(self)))]
        if rng.random() >= GRAINY:
            return scene
        grain = rng.normal(0, rng.uniform(*GRAIN), scene.image.shape)
        return replace(scene, image=np.clip(scene.image + grain, 0, 255).astype(np.uint8))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=" ".join(__doc__.split("\n\n")[0].split()))
    parser.add_argument("--out", type=Path, required=True, help="the folder of shards")
    parser.add_argument("-n", type=positive, default=16384, help=f"pictures, in shards of {SHARD}")
    parser.add_argument("--compile", action="store_true", help="bfloat16 and torch.compile: pays from some hundred on")
    args = parser.parse_args(argv)
    folder = ShardFolder(args.out, {"kind": "redrawn", "steps": STEPS, "noise": NOISE, "scales": GUIDANCE})
    pipe = TinyWorldPipeline.from_pretrained()
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    if args.compile:
        quicken(pipe)
    for number in tqdm(range(-(-args.n // SHARD)), "redrawn", unit="shard"):
        if folder.has(number):
            continue
        first = number * SHARD
        starts = range(first, first + SHARD, TOGETHER)
        parts = [
            paint(pipe, scheduler, range(start, start + TOGETHER), preview=bool(i % 2))
            for i, start in enumerate(starts)
        ]
        folder.write(number, {"images": torch.cat(parts)}, {"first": first, "last": first + SHARD - 1})


if __name__ == "__main__":
    main()
