"""Pictures with captions become latents of a checkpoint's autoencoder, in shards on the disk; what evaluators of that
checkpoint are trained on.

    online-guidance train latents --model stabilityai/stable-diffusion-xl-base-1.0 --data pictures --out runs/latents \\
        --teacher ViT-B-32/laion2b_s34b_b79k
    online-guidance train latents --model MODEL --data owner/name:train --out runs/latents --resolution 512 --leave-out

Pictures are a folder with `metadata.jsonl` or with a .txt beside each, webdataset shards, or a data set of the hub, see
`training.pictures`. They are resized and cropped to shapes of nearly one area. What was interrupted goes on with the
same command; it loses no more than the shards that it was at. Several processes share the work (``accelerate launch
--num_processes 8 -m training.latents …``).
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from commands.arguments import positive
from commands.parser import Parser
from evaluators.pixel.open_clip import OpenCLIPTower
from evaluators.pixel.preview import family_of

from . import buckets, loop, vae
from .cache import KIND
from .pictures import Picture, Pictures, read
from .shards import ShardFolder
from .vae import PictureVAE

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
THREADS = 8  # that decode pictures
SHARD = 256  # pictures


class Maker:
    """Makes shards.

    Args:
        pictures: all of them.
        encode: pictures uint8 ``(n, h, w, 3)`` of one size to latents fp16 ``(n, C, H, W)``.
        sizes: the buckets.
        batch_size: pictures that are encoded together.
        embed: the same pictures to what the teacher makes of them ``(n, dim)``; `None` without a teacher.
        leave_out: goes on without pictures that cannot be read or say nothing, instead of raising.
    """

    def __init__(
        self,
        pictures: Pictures,
        encode: Callable[[np.ndarray], torch.Tensor],
        sizes: list[buckets.Size],
        batch_size: int,
        embed: Callable[[np.ndarray], torch.Tensor] | None = None,
        leave_out: bool = False,
    ) -> None:
        self.pictures, self.encode, self.sizes, self.batch_size = pictures, encode, sizes, batch_size
        self.embed, self.leave_out = embed, leave_out
        self.pool = ThreadPoolExecutor(THREADS)

    def shard(self, numbers: range, done: Callable[[int], Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Tensors and JSON of one shard, its rows by shape; `done` is told how many pictures were."""
        left_out: list[str] = []
        by_bucket: dict[buckets.Size, list[tuple[int, Picture]]] = {}
        for number in numbers:
            try:
                picture = self.pictures[number]
                by_bucket.setdefault(buckets.nearest(picture.size, self.sizes), []).append((number, picture))
            except ValueError as error:
                self._refuse(error, left_out)
        done(len(left_out))
        tensors: dict[str, torch.Tensor] = {}
        about: dict[str, Any] = {"shapes": [], "numbers": [], "captions": [], "wrong": [], "left_out": left_out}
        teacher = []
        for bucket in sorted(by_bucket):
            latents = []
            for loaded in self._batches(by_bucket[bucket], bucket, left_out):
                images = np.stack([image for *_, image in loaded])
                latents.append(self.encode(images))
                if self.embed is not None:
                    teacher.append(self.embed(images).half().cpu())
                for number, picture, _ in loaded:
                    about["numbers"].append(number)
                    about["captions"].append(picture.captions)
                    about["wrong"].append(picture.wrong)
                done(len(loaded))
            if latents:
                whole = torch.cat(latents)
                height, width = whole.shape[-2:]
                tensors[f"latents.{height}x{width}"] = whole
                about["shapes"].append((height, width, len(whole)))
        if teacher:
            tensors["teacher"] = torch.cat(teacher)
        return tensors, about

    def _batches(
        self, pictures: list[tuple[int, Picture]], bucket: buckets.Size, left_out: list[str]
    ) -> Iterator[list[tuple[int, Picture, np.ndarray]]]:
        """With the pixels, decoded while the batch before is encoded."""

        def begin(first: int) -> list[tuple[int, Picture, Future]]:
            batch = pictures[first : first + self.batch_size]
            return [(n, p, self.pool.submit(lambda p=p: buckets.fit(p.image(), bucket))) for n, p in batch]

        ahead = begin(0)
        for first in range(self.batch_size, len(pictures) + self.batch_size, self.batch_size):
            now, ahead = ahead, begin(first)
            loaded = []
            for number, picture, future in now:
                try:
                    loaded.append((number, picture, future.result()))
                except ValueError as error:
                    self._refuse(error, left_out)
            if loaded:
                yield loaded

    def _refuse(self, error: ValueError, left_out: list[str]) -> None:
        if not self.leave_out:
            raise ValueError(f"{error}; --leave-out goes on without such pictures")
        left_out.append(str(error))


def embedder(tower: OpenCLIPTower) -> Callable[[np.ndarray], torch.Tensor]:
    """What a teacher makes of pictures uint8 ``(n, h, w, 3)``."""

    def embed(images: np.ndarray) -> torch.Tensor:
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).to(tower.device)
        with torch.no_grad():
            return tower.embed(pixels.float() / 255)

    return embed


def absolute(source: str | None) -> str | None:
    """A path in full; a hub id as it is."""
    path = Path(source or "").expanduser()
    return str(path.resolve()) if source and path.exists() else source


def describe(model: PictureVAE, pictures: Pictures, size: int = SHARD, /, **of: Any) -> dict[str, Any]:
    """What a folder of shards says of itself; `of` is whatever else the latents depend on."""
    own = {"vae": [type(model.vae).__name__, *family_of(model.vae)], "channels": model.channels, "levels": model.levels}
    return {"kind": KIND, **own, "pictures": len(pictures), "shard_size": size, "teacher": None, **of}


def fill(folder: ShardFolder, maker: Maker) -> None:
    """Makes the shards that are not there yet; those of this process, where there are several.

    Raises:
        ValueError: a picture cannot be read, or has no caption.
    """
    state = loop.processes()
    count, size = folder.what["pictures"], folder.what["shard_size"]
    shards = range(state.process_index, -(-count // size), state.num_processes)
    numbers = {shard: range(shard * size, min((shard + 1) * size, count)) for shard in shards}
    finished = sum(len(numbers[shard]) for shard in shards if folder.has(shard))
    bar = tqdm(
        total=sum(map(len, numbers.values())),
        initial=finished,
        unit=" pictures",
        desc="latents" if state.num_processes == 1 else f"latents, first of {state.num_processes} processes",
        disable=not state.is_main_process,
        mininterval=1,
    )
    with bar:
        for shard in shards:
            if not folder.has(shard):
                tensors, about = maker.shard(numbers[shard], bar.update)
                folder.write(shard, tensors, about)
                for line in about["left_out"]:
                    bar.write(f"left out: {line}")
    state.wait_for_everyone()


def main(argv: list[str] | None = None) -> None:
    parser = Parser("train latents", __doc__)
    parser.add_argument("--model", required=True, help="folder or hub id of the pipeline, or folder of an autoencoder")
    parser.add_argument("--data", required=True, help="captioned pictures: a folder, a .tar, or owner/name[:split]")
    parser.add_argument("--out", type=Path, required=True, help="folder of the latents; none is made twice")
    parser.add_argument("--teacher", help="CLIP whose embeddings are kept: MODEL/TAG of open_clip, hub id or folder")
    parser.add_argument("--resolution", type=positive, help="side of square pictures; default: the model's own")
    parser.add_argument("--aspect", type=float, default=2.0, help="longest side over shortest, 1 for squares alone")
    parser.add_argument("--shard-size", type=positive, default=SHARD, help="pictures in a shard")
    parser.add_argument("--batch-size", type=positive, default=16, help="pictures that are encoded together")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="float32", help="of the autoencoder and the teacher")
    parser.add_argument(
        "--leave-out", action="store_true", help="go on without pictures that are broken or have no caption"
    )
    parser.add_argument("--check", action="store_true", help="read finished shards again and compare their checksums")
    args = parser.parse_args(argv)
    for name in ("model", "data", "teacher"):  # the same work from wherever it goes on
        setattr(args, name, absolute(getattr(args, name)))
    state, dtype = loop.processes(), DTYPES[args.dtype]
    try:
        pictures = read(args.data)
        model = vae.load(args.model, dtype)
        if (resolution := args.resolution or model.resolution) is None:
            parser.error("argument --resolution: is needed, for an autoencoder alone does not say")
        sizes = buckets.buckets(resolution, model.multiple, args.aspect)
        tower = args.teacher and OpenCLIPTower.from_pretrained(args.teacher, dtype=dtype)
        of = {name: getattr(args, name) for name in ("model", "data", "aspect", "teacher")}
        what = describe(model, pictures, args.shard_size, resolution=resolution, **of)
        with state.main_process_first():
            folder = ShardFolder(args.out, what)
        if args.check:
            for shard in folder.shards()[state.process_index :: state.num_processes]:
                shard.check()
        model.vae.to(state.device)
        embed = embedder(tower.to(state.device)) if tower else None
        fill(folder, Maker(pictures, model.encode, sizes, args.batch_size, embed, args.leave_out))
    except (OSError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
