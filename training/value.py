"""Trains the value: what a judge will say of the finished picture, told from the noisy latents at each step and the
prompt. It needs no pictures, only prompts: it learns from what the model itself makes of them.

    online-guidance train value --model MODEL --prompts prompts.txt --judge pickscore --clip runs/clip/clip \\
        --out runs/value
    online-guidance train value --model MODEL --prompts prompts.txt --judge vqa=VLM --teacher ViT-B-32/openai \\
        --out runs/value
    online-guidance train value --trajectories runs/trajectories --clip runs/clip/clip --out runs/value --minutes 30

Pictures are sampled and judged as `training.trajectories` does, into the folder ``trajectories`` of ``--out``, while
the training goes on: a fifth of them before it, the last when two thirds of it are over. With ``--trajectories`` they
are there. The CLIP that it begins as has a say about the finished pictures beside the judge (``--clip-share``): each
errs at other places, and mistakes are learned as well. Every eighth prompt is held out, and says how often the value
prefers the picture that the judge prefers.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from commands.arguments import scale
from commands.parser import Parser
from evaluators import LatentCLIP, LatentValue, OpenCLIPTower
from evaluators.base import Context

from . import loop
from .evaluators import frozen_clip, keep
from .judged import DECIDED, Judged, ranking_accuracy, scored
from .noise import LEVELS, add_noise
from .shards import ShardFolder
from .trajectories import Sampling, add_arguments, sampling

FIRST, LAST = 0.2, 0.66  # share of the pictures before the training; of the training when all of them are there
FRESH = 0.6  # share of the latents that are the finished ones with noise anew: else each draw is learned by heart
CLIP_SHARE = 0.5
REGRESSION = 0.2  # weight of the outcome itself beside the ranking, without which hard prompts drown it


class Values(torch.nn.Module):
    """Values ``(n, images)``, and the outcomes that they stand for ``(n, images)``, in the judge's own standard
    deviations."""

    def __init__(self, value: LatentValue) -> None:
        super().__init__()
        self.value = value
        self.outcome = torch.nn.Linear(1, 1)

    def forward(
        self, latents: torch.Tensor, level: torch.Tensor, prompts: list[str]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        text = self.value.encode_text(prompts).repeat_interleave(latents.shape[1], 0)
        values = self.value.values(latents.flatten(0, 1), level.flatten(), text).view(latents.shape[:2])
        return values, self.outcome(values[..., None])[..., 0]


def loss_of(model: torch.nn.Module, batch: tuple) -> tuple[torch.Tensor, dict[str, float]]:
    """Ranking within each prompt, every pair by how clearly the judge prefers one, and a little regression."""
    latents, level, scores = (t.to(next(model.parameters()).device) for t in batch[:3])
    values, outcomes = model(latents, level, batch[3])
    a, b = torch.triu_indices(scores.shape[1], scores.shape[1], 1, device=scores.device)
    difference = scores[:, a] - scores[:, b]
    weight = difference.abs().clamp(max=2)
    ranking = F.binary_cross_entropy_with_logits(
        values[:, a] - values[:, b], torch.sigmoid(4 * difference), weight=weight, reduction="sum"
    ) / weight.sum().clamp_min(1e-6)
    regression = F.smooth_l1_loss(outcomes, scores)
    decided = difference.abs() > DECIDED
    right = ((values[:, a] - values[:, b]) * difference > 0)[decided]
    return ranking + REGRESSION * regression, {"ranking_accuracy": float(right.float().mean()) if len(right) else 0.5}


@torch.no_grad()
def to_log_odds(value: LatentValue, data: Judged) -> None:
    """Brings what it says to begin with to a spread of one within a prompt: a CLIP's own units are far too loud for log
    odds, and the first steps would be spent, and its features spoilt, on that alone."""
    items = data.train[:64]
    latents, level, _, prompts = data.batch(items, [len(data.levels(item)) - 1 for item in items])
    said = scored(value, latents, Context(prompts, 0.0, float(level[0, 0])))
    value.logit_scale -= said.std(1).mean().clamp_min(1e-3).log().to(value.device)


def sample_until(task: Sampling, share: float) -> None:
    """Makes shards until `share` of all are there; each process makes its own."""
    state = loop.processes()
    due = min(len(task), max(state.num_processes, math.ceil(share * len(task))))
    missing = [number for number in range(due) if not task.folder.has(number)]
    for number in tqdm(missing[state.process_index :: state.num_processes], "sampling", disable=len(missing) < 2):
        task.make(number)
    state.wait_for_everyone()


def main(argv: list[str] | None = None) -> None:
    parser = Parser("train value", __doc__)
    loop.add_arguments(parser, batch_size=32, lr=3e-4, minutes=20)
    add_arguments(parser, images=8, required=False)
    parser.add_argument("--judge", metavar="NAME[=SOURCE]", help="a judge of pictures, see docs/judges.md")
    parser.add_argument("--trajectories", type=Path, help="folder of `train trajectories` with a judge, instead")
    parser.add_argument(
        "--clip-share",
        type=scale,
        default=CLIP_SHARE,
        help="how loudly the CLIP that it begins as speaks beside the judge, about the finished pictures",
    )
    begin = parser.add_mutually_exclusive_group(required=True)
    begin.add_argument("--clip", type=Path, help="folder of the latent CLIP that it begins as")
    begin.add_argument(
        "--teacher", help="or a CLIP whose text tower reads the prompts: MODEL/TAG of open_clip, or a folder"
    )
    args = parser.parse_args(argv, argparse.Namespace(parser=parser))
    task = None
    if args.trajectories is None:
        if missing := [name for name in ("model", "prompts", "judge") if getattr(args, name) is None]:
            parser.error(f"argument --{missing[0]}: is needed, or --trajectories")
        if args.workers:
            parser.error("argument --workers: take --trajectories, for other processes do not hear of new pictures")
        if args.images < 2:
            parser.error(f"argument --images: must be at least 2, got {args.images}")
    try:
        clip = frozen_clip(parser, args.clip) if args.clip else None
        tower = OpenCLIPTower.from_pretrained(args.teacher, "teacher") if args.teacher else None
        if args.trajectories is None:
            task = sampling(args, args.out / "trajectories")
            sample_until(task, FIRST)
        folder = ShardFolder.open(args.trajectories) if task is None else task.folder
        data = Judged(folder, clip if args.clip_share else None, args.clip_share)
        data.refresh()
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if not data.train or not data.test:
        parser.error(f"argument --prompts: {len(data.train) + len(data.test)} prompts are too few to train and test")
    torch.manual_seed(args.seed)
    if clip is None:
        assert tower is not None
        clip = LatentCLIP(None, data.channels, dim=tower.width, teacher=args.teacher).eval()
        clip.load_tower = lambda: tower
        clip.tower.to(device := loop.processes().device)
        clip.to(device)
    value = LatentValue.from_clip(clip)
    if clip.config["teacher"] is None:
        value.text_model.requires_grad_(False)  # the few prompts would be learned by heart
    if args.clip:
        value.trunk.requires_grad_(False)  # so would the pictures: what it knows of others is worth more
    to_log_odds(value, data)

    def prepare(done: float) -> None:
        if task is not None and len(data.shards) < len(task):
            sample_until(task, FIRST + (1 - FIRST) * done / LAST)
            data.refresh()

    def batch_of(step: int) -> tuple:
        rng = np.random.default_rng((args.seed, step))
        items = [data.train[i] for i in rng.integers(len(data.train), size=args.batch_size)]
        kept = len(data.levels(items[0]))
        # Stratified: every batch has been at all noise levels.
        steps = ((rng.permutation(args.batch_size) + rng.random(args.batch_size)) * kept / args.batch_size).astype(int)
        latents, level, scores, prompts = data.batch(items, steps.tolist())
        finished = torch.stack([data.latents(item, kept - 1) for item in items])
        noisy = add_noise(finished.flatten(0, 1), level.flatten(), rng).view_as(latents)
        fresh = torch.from_numpy(rng.random(args.batch_size) < FRESH).view(-1, *[1] * (latents.ndim - 1))
        return torch.where(fresh, noisy, latents), level, scores, prompts

    if task is not None:
        args.workers = 0  # by default, too: others would not hear of new pictures
    report = loop.fit(args, Values(value), batch_of, loss_of, prepare=prepare)
    judged = Judged(data.folder)  # by the judge alone
    judged.refresh()
    (accuracy, pairs), (before, _) = (ranking_accuracy(one, judged, judged.test) for one in (value, clip))
    levels = sorted(accuracy)
    reliability = np.interp(LEVELS, levels, [accuracy[level] for level in levels]).round(4).tolist()
    by_level = {f"{level:.3f}": [accuracy[level], before[level]] for level in reversed(levels)}
    report |= {"judge": data.folder.what["judge"], "pictures": data.images * len(data.train + data.test)}
    report |= {"held_out_pairs": pairs, "ranking_accuracy_of_value_and_clip": by_level}
    keep(value, args, reliability, report)


if __name__ == "__main__":
    main()
