"""What the sampler makes of captions, kept at every step: data for the discriminator, and to vote on for the reward.

    online-guidance train trajectories --model runs/text_to_image/pipeline --prompts runs/captions.txt \\
        --out runs/trajectories.npz
    online-guidance train trajectories --model MODEL --prompts prompts.csv --images 8 --out runs/eight.npz

Neighbouring pictures of a caption, the first and the second, the third and the fourth, begin from one noise and differ
by their scales alone, which is what guidance has to tell apart.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from tqdm.auto import tqdm

from commands.parser import Parser
from commands.prompts import read
from guidance import DenoisingStep
from pipelines import guide

from .quick import quicken

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


@dataclass
class Trajectories:
    """`latents` fp16 ``(n, STEPS, C, H, W)`` after each step, at unit variance; `levels` ``(STEPS,)``, the noise share
    after each; `captions` ``(n,)``. With `images` pictures per caption they lie side by side."""

    latents: torch.Tensor
    levels: torch.Tensor
    captions: np.ndarray
    images: int

    @classmethod
    def load(cls, path: Path) -> "Trajectories":
        """Reads the .npz that `save` wrote."""
        with np.load(path) as file:
            latents, levels = torch.from_numpy(file["latents"]), torch.from_numpy(file["levels"])
            return cls(latents, levels, file["captions"], int(file["images"]))

    def save(self, path: Path) -> None:
        """Writes an .npz."""
        path.parent.mkdir(parents=True, exist_ok=True)
        latents, levels = self.latents.numpy(), self.levels.numpy()
        np.savez(path, latents=latents, levels=levels, captions=self.captions, images=self.images)


@torch.no_grad()
def sample_trajectories(pipe: StableDiffusionPipeline, captions: list[str], images: int, seed: int) -> Trajectories:
    """`images` pictures of every caption, two neighbours from one noise, each with its own wandering scale."""
    pipe.set_progress_bar_config(disable=True)
    texts = [text for text in captions for _ in range(images)]
    noise = [(seed << 40) + i * images + k // 2 for i in range(len(captions)) for k in range(images)]
    kept, levels = [], []
    for i in tqdm(range(0, len(texts), 32), desc="trajectories"):
        guidance = RandomScales(torch.Generator().manual_seed((seed << 20) + i))
        generator = [torch.Generator().manual_seed(number) for number in noise[i : i + 32]]
        with guide(pipe, guidance):
            pipe(texts[i : i + 32], num_inference_steps=STEPS, generator=generator, output_type="latent")
        kept.append(torch.stack(guidance.latents, dim=1).cpu())
        levels = guidance.levels
    return Trajectories(torch.cat(kept), torch.tensor(levels), np.array(texts), images)


def main(argv: list[str] | None = None) -> None:
    parser = Parser("train trajectories", __doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of the pipeline")
    parser.add_argument("--prompts", required=True, metavar="FILE", help="what to sample, see `commands.prompts`")
    parser.add_argument("--out", type=Path, required=True, help="the .npz file")
    parser.add_argument("--images", type=int, default=4, help="pictures of each prompt, even")
    parser.add_argument("--seed", type=int, default=2, help="of the noise")
    args = parser.parse_args(argv)
    if args.images < 2 or args.images % 2:
        parser.error(f"argument --images: must be even, got {args.images}")
    try:
        prompts = [prompt.text for prompt in read(args.prompts)]
    except ValueError as error:
        parser.error(f"argument --prompts: {error}")
    pipe = quicken(StableDiffusionPipeline.from_pretrained(args.model))
    sample_trajectories(pipe, prompts, args.images, args.seed).save(args.out)


if __name__ == "__main__":
    main()
