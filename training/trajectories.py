"""What a pipeline makes of prompts, kept at several steps, and what a judge says of each finished picture: the data of
`training.value` and of the discriminator.

    online-guidance train trajectories --model MODEL --prompts prompts.txt --judge pickscore --out runs/trajectories
    online-guidance train trajectories --model MODEL --prompts prompts.csv --images 4 --steps 30 --out runs/four

Every picture has its own noise and its own scale, which wanders around the pipeline's, so that good and bad ones both
occur. A sampler that can draw noise at each step is made to. Pictures of one prompt lie side by side in a folder of
shards (`training.shards`): killed at any moment it loses the shard that it was at, and the same command goes on.
"""

import argparse
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from tqdm.auto import tqdm

from commands.arguments import positive, scale
from commands.parser import Parser
from commands.prompts import read
from evaluators import Evaluator
from evaluators.base import Context, score
from evaluators.pixel.preview import decode
from guidance import DenoisingStep
from pipelines import guide, make_stochastic

from . import loop
from .judges import load_judge
from .quick import quicken
from .shards import ShardFolder

RANGE = (0.4, 2.5)  # of a picture's scale, as a factor of the pipeline's own
WANDER = (0.8, 1.25)  # its factor from a step to the next
PICTURES = 128  # of a shard, about


class RandomScales:
    """Guidance for making training data: every row draws its own scale, and the latents are kept at `keep` of the
    steps, evenly spread, the last among them."""

    def __init__(self, generator: torch.Generator, keep: int) -> None:
        self.generator, self.keep = generator, keep
        self.latents: list[torch.Tensor] = []
        self.levels: list[float] = []

    def decide(self, step: DenoisingStep) -> tuple[torch.Tensor, dict]:
        """A scale for each row, near that of the step before."""
        n, (low, high) = len(step.sample), (step.own_scale * factor for factor in RANGE)
        drawn = torch.rand(n, generator=self.generator).to(step.sample.device)
        if step.previous is None:
            scales = low * (high / low) ** drawn
        else:
            scales = (step.previous * WANDER[0] * (WANDER[1] / WANDER[0]) ** drawn).clamp(low, high)
        if step.index in kept_steps(step.num_steps, self.keep):
            at_0, at_1 = step.candidates((0.0, 1.0), "noisy").unbind(1)
            latents = at_0 + scales.view(-1, *[1] * (at_0.ndim - 1)) * (at_1 - at_0)
            self.latents.append(latents.half().cpu())
            self.levels.append(step.noise_level("noisy"))
        return scales, {}


def held_out(prompts: Sequence[str], about: Mapping[str, Any]) -> list[bool]:
    """Whether recipes test on each of a shard's prompts instead of learning from it: every eighth of the file."""
    return [(about["first"] + place) % 8 == 0 for place in range(len(prompts))]


def kept_steps(steps: int, keep: int) -> list[int]:
    """Which steps are kept."""
    return sorted({round(float(at)) for at in np.linspace(steps - 1, 0, min(keep, steps))})


@dataclass
class Sampling:
    """Makes shards of `images` pictures for each of `prompts`, whichever is asked for.

    A shard holds ``latents`` fp16 ``(n, kept steps, C, H, W)`` after these steps, at unit variance, ``levels`` ``(kept
    steps,)``, the noise share after each, and with a `judge` ``scores`` ``(n,)`` of the finished pictures; its `about`
    has their ``captions``, ``n``, and the number of the ``first`` prompt.
    """

    pipe: Any
    folder: ShardFolder
    prompts: list[str]
    images: int
    steps: int
    keep: int
    seed: int
    batch_size: int
    judge: Evaluator | None = None
    guidance_scale: float | None = None

    def __post_init__(self) -> None:
        self.pipe.set_progress_bar_config(disable=True)
        self.call = make_stochastic(self.pipe)
        if self.guidance_scale is not None:
            self.call["guidance_scale"] = self.guidance_scale
        self.prompts_each = max(1, PICTURES // self.images)  # of a shard

    def __len__(self) -> int:
        """Shards in all."""
        return -(-len(self.prompts) // self.prompts_each)

    def prompts_of(self, number: int) -> list[str]:
        """Those of a shard."""
        return self.prompts[number * self.prompts_each : (number + 1) * self.prompts_each]

    @torch.no_grad()
    def make(self, number: int) -> None:
        """Samples shard `number` and writes it, unless it is there."""
        if self.folder.has(number):
            return
        first, prompts = number * self.prompts_each, self.prompts_of(number)
        captions = [text for text in prompts for _ in range(self.images)]
        guidance_seed = torch.Generator().manual_seed((self.seed << 20) + number)
        kept, levels = [], []
        for i in range(0, len(captions), self.batch_size):
            guidance = RandomScales(guidance_seed, self.keep)
            part = captions[i : i + self.batch_size]
            noise = [(self.seed << 40) + first * self.images + i + k for k in range(len(part))]
            with guide(self.pipe, guidance):
                self.pipe(
                    part,
                    num_inference_steps=self.steps,
                    generator=[torch.Generator().manual_seed(one) for one in noise],
                    output_type="latent",
                    **self.call,
                )
            kept.append(torch.stack(guidance.latents, dim=1))
            levels = guidance.levels
        tensors = {"latents": torch.cat(kept), "levels": torch.tensor(levels)}
        if self.judge is not None:
            tensors["scores"] = judged(self.judge, self.pipe.vae, tensors["latents"][:, -1], prompts)
        self.folder.write(number, tensors, {"captions": captions, "first": first})


@torch.no_grad()
def judged(judge: Evaluator, vae: Any, latents: torch.Tensor, prompts: list[str]) -> torch.Tensor:
    """Scores ``(n,)`` of the finished pictures of `prompts`, as many of each, side by side."""
    pictures = torch.cat([decode(vae, part.float()).cpu() for part in latents.split(16)])
    candidates = pictures.unflatten(0, (len(prompts), -1))
    return score(judge, candidates, Context(prompts, 0.0, 0.0)).flatten().float().cpu()


def add_arguments(parser: argparse.ArgumentParser, images: int, required: bool = True) -> None:
    """Adds what says how pictures are sampled."""
    parser.add_argument("--model", required=required, help="folder or hub id of the pipeline")
    parser.add_argument("--prompts", required=required, metavar="FILE", help="what to sample, see `commands.prompts`")
    parser.add_argument("--images", type=positive, default=images, help="pictures of each prompt")
    parser.add_argument("--sampling-steps", type=positive, default=20, help="of each picture")
    parser.add_argument("--keep", type=positive, default=10, help="of these steps, that are kept")
    parser.add_argument("--guidance-scale", type=scale, help="that scales wander around; default: the pipeline's own")
    parser.add_argument("--sampling-seed", type=int, default=2, help="of the noise")
    parser.add_argument("--sampling-batch", type=positive, default=32, help="pictures sampled together")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of the pipeline"
    )


def sampling(args: argparse.Namespace, folder: Path) -> Sampling:
    """What the arguments of `add_arguments` and ``--judge`` ask for; exits with one line where they are wrong."""
    try:
        prompts = [prompt.text for prompt in read(args.prompts)]
    except ValueError as error:
        args.parser.error(f"argument --prompts: {error}")
    try:
        judge = load_judge(args.judge) if args.judge else None
    except (OSError, ValueError) as error:
        args.parser.error(f"argument --judge: {error}")
    what = {
        "kind": "trajectories",
        "model": str(args.model),
        "prompts": hashlib.sha256("\n".join(prompts).encode()).hexdigest(),
        "images": args.images,
        "steps": args.sampling_steps,
        "keep": args.keep,
        "guidance_scale": args.guidance_scale,
        "seed": args.sampling_seed,
        "judge": args.judge,
    }
    try:
        shards = ShardFolder(folder, what)
        pipe = DiffusionPipeline.from_pretrained(args.model, dtype=getattr(torch, args.dtype))
    except (OSError, ValueError) as error:
        args.parser.error(f"argument {'--out' if isinstance(error, ValueError) else '--model'}: {error}")
    state = loop.processes()
    pipe.to(state.device)
    if isinstance(judge, torch.nn.Module):
        judge.to(state.device)
    if args.compile:
        quicken(pipe)
    return Sampling(
        pipe,
        shards,
        prompts,
        args.images,
        args.sampling_steps,
        args.keep,
        args.sampling_seed,
        args.sampling_batch,
        judge,
        args.guidance_scale,
    )


def main(argv: list[str] | None = None) -> None:
    parser = Parser("train trajectories", __doc__)
    add_arguments(parser, images=4)
    parser.add_argument("--compile", action="store_true", help="bfloat16 and torch.compile: pays from some hundred on")
    parser.add_argument(
        "--judge", metavar="NAME[=SOURCE]", help="a judge of pictures, see docs/judges.md; default: none"
    )
    parser.add_argument("--out", type=Path, required=True, help="the folder of shards")
    args = parser.parse_args(argv, argparse.Namespace(parser=parser))
    task = sampling(args, args.out)
    state = loop.processes()
    mine = range(state.process_index, len(task), state.num_processes)
    counts = [task.images * len(task.prompts_of(number)) for number in mine]
    with tqdm(total=sum(counts), unit="pictures", disable=not state.is_main_process) as bar:
        for number, count in zip(mine, counts, strict=True):
            task.make(number)
            bar.update(count)


if __name__ == "__main__":
    main()
