"""Captioned pictures as the model itself would draw them: noise is added and taken away again by its own sampler
(SDEdit, arXiv 2108.01073), so that what they show stays and how it looks becomes the model's.

    online-guidance train redraw --model stabilityai/stable-diffusion-xl-base-1.0 --data pictures --out redrawn
    online-guidance train latents --model stabilityai/stable-diffusion-xl-base-1.0 --data redrawn --out runs/redrawn
    online-guidance train clip --cache runs/latents runs/redrawn --out runs/clip

Evaluators that learn from true pictures alone judge pictures that no model makes. The captions, and those that are
wrong, are the picture's own: the weaker the noise, the surer they are. Any model that diffusers can draw from a picture
with (`AutoPipelineForImage2Image`). What was interrupted goes on with the same command; several processes share the
work.
"""

import json
import os
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoPipelineForImage2Image
from PIL import Image
from tqdm.auto import tqdm

from commands.arguments import positive, scale
from commands.parser import Parser

from . import buckets, loop, vae
from .pictures import METADATA, Picture, read
from .quick import quicken

STRENGTH = (0.3, 0.8)  # of the sampler's steps, that a picture is redrawn by


class Redrawing:
    """Draws pictures again and keeps them as PNG files.

    Args:
        pipe: an image-to-image pipeline of diffusers.
        folder: where the files go.
        sizes: the buckets.
        strength: lowest and highest share of the steps; each batch draws its own.
        seed: of the noise.
        call: further arguments of the pipeline.
    """

    def __init__(
        self, pipe: Any, folder: Path, sizes: list[buckets.Size], strength: tuple[float, float], seed: int, **call: Any
    ) -> None:
        pipe.set_progress_bar_config(disable=True)
        self.pipe, self.folder, self.sizes = pipe, folder, sizes
        self.strength, self.seed, self.call = strength, seed, call

    def path(self, number: int) -> Path:
        """Of the picture with this number, in folders of a thousand."""
        return self.folder / f"{number // 1000:06}" / f"{number:09}.png"

    @torch.no_grad()
    def draw(self, pictures: list[tuple[int, Picture]]) -> None:
        """Those that are not there yet; of one batch, numbers first."""
        missing = [(number, picture) for number, picture in pictures if not self.path(number).is_file()]
        rng = np.random.default_rng((self.seed, pictures[0][0]))
        strength = float(rng.uniform(*self.strength))
        known = dict(missing)
        shaped = sorted((buckets.nearest(picture.size, self.sizes), number) for number, picture in missing)
        for bucket, group in groupby(shaped, lambda pair: pair[0]):
            numbers = [number for _, number in group]
            made = self.pipe(
                prompt=[known[number].captions[0] for number in numbers],
                image=[Image.fromarray(buckets.fit(known[number].image(), bucket)) for number in numbers],
                strength=strength,
                generator=[torch.Generator().manual_seed((self.seed << 40) + number) for number in numbers],
                **self.call,
            ).images
            for number, image in zip(numbers, made, strict=True):
                self.write(image, self.path(number))

    @staticmethod
    def write(image: Image.Image, path: Path) -> None:
        """A file gets its name when it is whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        image.save(part, format="png", compress_level=1)
        os.replace(part, path)


def metadata(redrawing: Redrawing, pictures: Any) -> Iterator[str]:
    """What is said of every picture, as `training.pictures` reads it."""
    for number, picture in enumerate(pictures):
        name = redrawing.path(number).relative_to(redrawing.folder).as_posix()
        yield json.dumps({"file_name": name, "text": picture.captions, "negative": picture.wrong}) + "\n"


def main(argv: list[str] | None = None) -> None:
    parser = Parser("train redraw", __doc__)
    parser.add_argument("--model", required=True, help="folder or hub id of the pipeline")
    parser.add_argument("--data", required=True, help="captioned pictures: a folder, a .tar, or owner/name[:split]")
    parser.add_argument("--out", type=Path, required=True, help="folder of pictures with the same captions")
    parser.add_argument("-n", type=positive, help="the first so many pictures; default: all")
    parser.add_argument(
        "--strength", type=scale, nargs=2, default=STRENGTH, metavar=("LOW", "HIGH"), help="share of the steps"
    )
    parser.add_argument("--sampling-steps", type=positive, default=20, help="of a whole picture")
    parser.add_argument("--guidance-scale", type=scale, help="default: the pipeline's own")
    parser.add_argument("--resolution", type=positive, help="side of square pictures; default: the model's own")
    parser.add_argument("--aspect", type=float, default=2.0, help="longest side over shortest, 1 for squares alone")
    parser.add_argument("--batch-size", type=positive, default=16, help="pictures that are drawn together")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of the model")
    parser.add_argument("--compile", action="store_true", help="bfloat16 and torch.compile: pays from some hundred on")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    args = parser.parse_args(argv)
    (low, high), least = args.strength, 1 / args.sampling_steps
    if not least <= low <= high <= 1:
        parser.error(f"argument --strength: must be from {least:.2g} to 1, in order, got {low:g} {high:g}")
    state = loop.processes()
    try:
        pictures = read(args.data)
        about = vae.load(args.model)
        sizes = buckets.buckets(args.resolution or about.resolution or 0, about.multiple, args.aspect)
        pipe = AutoPipelineForImage2Image.from_pretrained(args.model, dtype=getattr(torch, args.dtype))
    except (OSError, ValueError) as error:
        parser.error(str(error))
    pipe.to(state.device)
    if args.compile:
        quicken(pipe)
    call = {"num_inference_steps": args.sampling_steps}
    if args.guidance_scale is not None:
        call["guidance_scale"] = args.guidance_scale
    redrawing = Redrawing(pipe, args.out, sizes, (low, high), args.seed, **call)
    count = min(args.n or len(pictures), len(pictures))
    step = args.batch_size * state.num_processes
    with tqdm(total=count, unit=" pictures", desc="redrawn", disable=not state.is_main_process, mininterval=1) as bar:
        for first in range(0, count, step):
            begin = first + state.process_index * args.batch_size
            redrawing.draw([(i, pictures[i]) for i in range(begin, min(begin + args.batch_size, count))])
            bar.update(min(step, count - first))
    state.wait_for_everyone()
    if state.is_main_process:
        lines = "".join(metadata(redrawing, (pictures[i] for i in range(count))))
        part = args.out / f"{METADATA}.part"
        part.write_text(lines, encoding="utf-8")
        os.replace(part, args.out / METADATA)


if __name__ == "__main__":
    main()
