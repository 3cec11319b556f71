"""Trains the latent CLIP of a checkpoint: an image tower that reads its latents at any noise level, beside the frozen
text tower of a CLIP that reads pixels, its teacher.

    online-guidance train clip --cache runs/latents --out runs/clip
    online-guidance train clip --cache runs/latents --out runs/clip --trunk vit --minutes 600 --mixed-precision bf16

The latents are those of `online-guidance train latents`, best with `--teacher`. Learned are the captions of the
pictures among those of others, above captions that are wrong about them where the data has such, and the teacher's own
embeddings of the pictures. A `vit` begins with the teacher's weights (arXiv 2509.16131 trains one so, 90,000 steps of
512 pictures) and costs 46 GFLOPs a candidate as ViT-B; `conv` costs 0.05 on latents of 64×64, 0.19 on 128×128.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from commands.arguments import positive
from commands.parser import Parser
from evaluators import LatentCLIP, OpenCLIPTower
from evaluators.latent.vit import LatentViT, shape_of
from evaluators.pixel.base import Encodings

from . import loop
from .cache import Cache, Draws, split
from .evaluators import keep
from .latents import absolute
from .noise import LEVELS, add_noise

VIEWS = 2  # noise levels of every picture in a batch: captions cost more than latents, and are encoded once for all
LEARNING_RATE = {"conv": 2e-3, "vit": 1e-4}
TOKENS = 16  # a side of the latents of square pictures, in patches of a vit
TESTED = 2000  # pictures at most


def encode_ids(clip: LatentCLIP, input_ids: torch.Tensor) -> torch.Tensor:
    """As `LatentCLIP.encode_ids`, captions of like length together and without most of their padding, which the causal
    text model does not see: less than two thirds of the work."""
    length = (input_ids != clip.tokenizer.pad_token_id).sum(1) + 1  # padding is the end token, which is read once
    order = length.argsort()
    parts = [clip.encode_ids(input_ids[rows, : int(length[rows].max())]) for rows in order.chunk(4)]
    return torch.cat(parts)[order.argsort()]


class Texts:
    """Captions as `Contrast` takes them: embeddings by the frozen text tower, of which those of the last 100,000
    captions are kept, or the token ids of one that is trained."""

    def __init__(self, clip: LatentCLIP, device: torch.device) -> None:
        self.clip, self.known = clip, Encodings(100_000)
        if clip.config["teacher"] is not None:
            clip.tower.to(device)

    def __call__(self, captions: list[str]) -> torch.Tensor:
        if self.clip.config["teacher"] is None:
            return self.clip.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        rows = self.known(lambda texts: self.clip.tower.encode_text(texts).float().cpu(), captions)
        return torch.stack(rows)


class Contrast(torch.nn.Module):
    """Embeddings of latents ``(VIEWS · n, C, H, W)``, and their logits against captions, right ones and wrong ones,
    ``(VIEWS, n, n + wrong)``."""

    def __init__(self, clip: LatentCLIP) -> None:
        super().__init__()
        self.clip = clip

    def forward(
        self, latents: torch.Tensor, level: torch.Tensor, text: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        image = self.clip.encode_latents(latents, level)
        text = text if text.is_floating_point() else encode_ids(self.clip, text)
        logits = self.clip.logit_scale.exp().clamp(max=100) * image @ text.to(image.dtype).T
        return image, logits.unflatten(0, (VIEWS, -1))


def alike(right: list[str], wrong: list[str]) -> torch.Tensor:
    """Where a caption is another picture's word for word, and no negative ``(n, n + wrong)``."""
    texts = np.array([*right, *wrong])
    same = torch.from_numpy(texts[: len(right), None] == texts)
    return same & ~torch.eye(*same.shape, dtype=torch.bool)


def loss_of(model: torch.nn.Module, batch: tuple) -> tuple[torch.Tensor, dict[str, float]]:
    """Symmetric InfoNCE, with the wrong captions as further negatives for the latents; each of these below the right
    one; and ``1 - cosine`` to the teacher's embedding of the picture.

    Args:
        batch: latents, noise shares, captions (right, then wrong), the row of each wrong one, what `alike` returns, and
            the teacher's embeddings ``(n, dim)`` or `None`.
    """
    device = next(model.parameters()).device
    latents, level, text, of, same, teacher = (None if part is None else part.to(device) for part in batch)
    image, logits = model(latents, level, text)
    views, n, _ = logits.shape
    right, wrong = logits[:, :, :n].diagonal(dim1=1, dim2=2), logits[:, of, n + torch.arange(len(of), device=device)]
    others = logits.masked_fill(same, -torch.inf)
    target = torch.arange(n, device=device).repeat(views)
    to_caption, to_latents = others.flatten(0, 1), others[:, :, :n].transpose(1, 2).flatten(0, 1)
    loss = (F.cross_entropy(to_caption, target) + F.cross_entropy(to_latents, target)) / 2
    metrics: dict[str, Any] = {"first": (to_caption.argmax(1) == target).float().mean()}
    if len(of):
        # In-batch negatives are mostly far off; the one-thing-wrong caption is what guidance must tell apart.
        loss = loss + F.softplus(wrong - right[:, of]).mean()
        metrics["hard_accuracy"] = (right[:, of] > wrong).float().mean()
    if teacher is not None:
        away = 1 - (image.unflatten(0, (views, -1)) * teacher.to(image.dtype)).sum(-1).mean()
        loss = loss + away
        metrics["from_teacher"] = away.detach()
    return loss, metrics


@torch.no_grad()
def ranking_accuracy(clip: LatentCLIP, cache: Cache, rows: np.ndarray, seed: int = 0) -> list[float]:
    """Share of pictures whose caption beats a wrong one of theirs, or, of those that have none, the caption of another,
    at each of `LEVELS`."""
    rng = np.random.default_rng(seed)
    texts, device = Texts(clip, clip.device), clip.device
    captions = [said[0] for said in cache.captions(rows)]

    def wrong(batch: Any, i: int) -> str:
        if batch.wrong[i]:
            return batch.wrong[i][0]
        others = (captions[j] for j in rng.permutation(len(captions)) if captions[j] not in batch.captions[i])
        return next(others, "")

    def encode(prompts: list[str]) -> torch.Tensor:
        made = texts(prompts).to(device)
        return made if made.is_floating_point() else encode_ids(clip, made)

    right = torch.zeros(len(LEVELS))
    for batch in cache.batches(rows, 256):
        good, bad = encode([said[0] for said in batch.captions]), encode([wrong(batch, i) for i in range(len(batch))])
        for i, level in enumerate(LEVELS):
            levels = torch.full((len(batch),), level)
            image = clip.encode_latents(add_noise(batch.latents, levels, rng).to(device), levels.to(device))
            right[i] += ((image * good).sum(1) > (image * bad).sum(1)).sum().cpu()
    return [round(float(share), 4) for share in right / len(rows)]


def train(args: argparse.Namespace, clip: LatentCLIP, cache: Cache, test: Cache | None) -> None:
    """Trains `clip` by `loop.fit` and keeps it in ``args.out``, tested on `test` or on what is held out.

    Raises:
        ValueError: there are too few pictures.
    """
    rows, tested = split(cache, test)
    texts = Texts(clip, loop.processes().device)
    draw = Draws(cache, rows, args.batch_size)
    teacher = clip.config["teacher"] is not None

    def batch_of(step: int) -> tuple:
        rng = np.random.default_rng((args.seed, step))
        batch = draw(rng)
        captions = batch.caption(rng)
        of = [i for i, wrong in enumerate(batch.wrong) if wrong]
        wrong = [batch.wrong[i][rng.integers(len(batch.wrong[i]))] for i in of]
        level = cache.noise_levels(VIEWS * len(batch), rng)
        noisy = add_noise(batch.latents.repeat(VIEWS, 1, 1, 1), level, rng)
        said, rows = [*captions, *wrong], torch.tensor(of, dtype=torch.long)
        return noisy, level, said, rows, alike(captions, wrong), batch.teacher if teacher else None

    def loss(model: torch.nn.Module, batch: tuple) -> tuple[torch.Tensor, dict[str, float]]:
        noisy, level, said, *others = batch
        return loss_of(model, (noisy, level, texts(said), *others))

    report = loop.fit(args, Contrast(clip), batch_of, loss)
    test_cache, test_rows = tested
    if len(test_rows) > TESTED:
        test_rows = np.sort(np.random.default_rng(0).choice(test_rows, TESTED, replace=False))
    about = {"pictures": len(rows), "test_pictures": len(test_rows), "data": [str(path) for path in args.cache]}
    keep(clip, args, ranking_accuracy(clip, test_cache, test_rows), report | about)


def build(cache: Cache, teacher: str, tower: OpenCLIPTower, trunk: str, patch: int | None) -> LatentCLIP:
    """A latent CLIP for the latents of `cache`, its image tower as the teacher's where that can be."""
    vit, shape = None, shape_of(tower.model.visual)
    if trunk == "vit":
        side = max(max(shape) for shape in cache.shapes)
        vit = {"patch": patch or max(1, round(side / TOKENS)), **(shape or {})}
    clip = LatentCLIP(None, cache.channels, dim=tower.width, teacher=teacher, vit=vit)
    clip.load_tower = lambda: tower
    with torch.no_grad():
        clip.logit_scale.copy_(tower.model.logit_scale)
    if isinstance(clip.trunk, LatentViT) and shape is not None:
        clip.trunk.begin_as(tower.model.visual)
    return clip


def main(argv: list[str] | None = None) -> None:
    parser = Parser("train clip", __doc__)
    loop.add_arguments(parser, batch_size=128, lr=0.0, minutes=60)
    parser.set_defaults(lr=None)
    parser.add_argument("--cache", type=Path, nargs="+", required=True, help="latents to train on, of `train latents`")
    parser.add_argument("--test-cache", type=Path, help="latents to test on; default: one in ten pictures, held out")
    parser.add_argument("--teacher", help="MODEL/TAG of open_clip, hub id or folder; default: that of the latents")
    parser.add_argument(
        "--trunk",
        choices=tuple(LEARNING_RATE),
        default="conv",
        help="what reads latents; --lr is 2e-3 for conv, 1e-4 for vit",
    )
    parser.add_argument("--patch", type=positive, help="side of a vit's tokens, in latents; default: a 16th of theirs")
    args = parser.parse_args(argv)
    args.lr = LEARNING_RATE[args.trunk] if args.lr is None else args.lr
    try:
        cache, test = Cache(*args.cache), Cache(args.test_cache) if args.test_cache else None
        teacher = absolute(args.teacher) or cache.what["teacher"]
        if teacher is None:
            parser.error("argument --teacher: is needed, for the latents have none")
        if teacher != (cache.what["teacher"] or teacher):
            parser.error(f"argument --teacher: the latents have embeddings of {cache.what['teacher']!r}")
        torch.manual_seed(args.seed)
        clip = build(cache, teacher, OpenCLIPTower.from_pretrained(teacher, LatentCLIP.name), args.trunk, args.patch)
        split(cache, test)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    train(args, clip, cache, test)


if __name__ == "__main__":
    main()
