"""How often judges of either kind agree: with votes on pairs of pictures, or with the judge of trajectories.

    online-guidance evaluate pickscore open_clip --pairs study/pairs.jsonl
    online-guidance evaluate clip=runs/clip/clip value=runs/value/value --trajectories runs/trajectories

Of votes, ties count for nothing. Evaluators of latents are asked at every noise level: of pictures, which ``--model``
encodes, with noise added; of trajectories, of the latents as they were. Of trajectories only prompts that recipes hold
out are looked at, unless ``--all`` is given: for those that nothing was trained on.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.stats import binomtest
from tqdm.auto import tqdm

from commands.pairs import Pair, read_pairs
from commands.parser import Parser
from evaluators import Evaluator, load_evaluators
from evaluators.base import Context, score
from evaluators.pixel.preview import encode

from .judged import Judged, ranking_accuracy
from .noise import LEVELS, add_noise
from .shards import ShardFolder


def pictures(pairs: list[Pair], folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Each prompt with the chosen and the rejected picture ``(2, 3, H, W)`` in [0, 1], at the size of the first."""
    for pair in pairs:
        chosen, rejected = (Image.open(folder / name).convert("RGB") for name in (pair.chosen, pair.rejected))
        both = [np.asarray(picture.resize(chosen.size)) for picture in (chosen, rejected)]
        yield pair.prompt, torch.from_numpy(np.stack(both)).permute(0, 3, 1, 2) / 255


@torch.no_grad()
def on_pairs(evaluators: list[Evaluator], pairs: list[Pair], folder: Path, vae: Any) -> dict[str, Any]:
    """For each evaluator the share of votes that it would have cast, with its 95 % interval (Wilson)."""
    rng = np.random.default_rng(0)
    won: dict[tuple[str, float], list[float]] = {}
    for prompt, two in tqdm(pictures(pairs, folder), "pairs", len(pairs)):
        latents = None if vae is None else encode(vae, two).float().cpu()
        for evaluator in evaluators:
            pixels = evaluator.space == "pixels"
            for level in (0.0,) if pixels else LEVELS:
                candidates = two
                if not pixels:
                    assert latents is not None
                    candidates = add_noise(latents, torch.full((2,), level), rng)
                a, b = score(evaluator, candidates[None], Context([prompt], 0.0, level))[0].tolist()
                if a != b:
                    won.setdefault((evaluator.name, level), []).append(float(a > b))
    report: dict[str, Any] = {evaluator.name: {"votes": len(pairs), "by_noise_level": {}} for evaluator in evaluators}
    for (name, level), votes in won.items():
        interval = binomtest(int(sum(votes)), len(votes)).proportion_ci(method="wilson")
        report[name]["by_noise_level"][str(level)] = {
            "agreement": round(float(np.mean(votes)), 4),
            "interval": [round(interval.low, 4), round(interval.high, 4)],
            "told_apart": len(votes),
        }
    return report


def main(argv: list[str] | None = None) -> None:
    parser = Parser("evaluate", __doc__)
    parser.add_argument("evaluators", nargs="+", metavar="NAME[=SOURCE]", help="as `load_evaluators` takes them")
    against = parser.add_mutually_exclusive_group(required=True)
    against.add_argument("--pairs", type=Path, help="pairs.jsonl of votes, see docs/preference_pairs.md")
    against.add_argument("--trajectories", type=Path, help="folder of `train trajectories` with a judge")
    parser.add_argument("--question", default="overall", help="which votes")
    parser.add_argument("--model", help="folder or hub id of the pipeline whose VAE evaluators of latents read")
    parser.add_argument("--all", action="store_true", help="of trajectories: the prompts to train on, too")
    args = parser.parse_args(argv)
    try:
        evaluators = load_evaluators(args.evaluators)
    except (OSError, ValueError) as error:
        parser.error(f"argument evaluators: {error}")
    latent = [evaluator.name for evaluator in evaluators if evaluator.space != "pixels"]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for evaluator in evaluators:
        evaluator.to(device)
    if args.trajectories:
        if len(latent) < len(evaluators):
            parser.error("argument --trajectories: only evaluators of noisy latents can be asked about these")
        try:
            data = Judged(ShardFolder.open(args.trajectories))
            data.refresh()
            items = data.test + (data.train if args.all else [])
            report = {}
            for evaluator in evaluators:
                accuracy, pairs = ranking_accuracy(evaluator, data, items)
                report[evaluator.name] = {
                    "pairs": pairs,
                    "by_noise_level": {f"{k:.3f}": v for k, v in accuracy.items()},
                }
        except ValueError as error:
            parser.error(f"argument --trajectories: {error}")
    else:
        if latent and not args.model:
            parser.error(f"argument --model: is needed for {', '.join(latent)}, which reads latents")
        try:
            votes = [pair for pair in read_pairs(args.pairs) if pair.question == args.question and not pair.tie]
        except ValueError as error:
            parser.error(f"argument --pairs: {error}")
        if not votes:
            parser.error(f"argument --pairs: no vote on {args.question!r} that is no tie")
        vae = None
        if latent:
            from diffusers import DiffusionPipeline

            try:
                vae = DiffusionPipeline.from_pretrained(args.model).vae.to(device)
            except OSError as error:
                parser.error(f"argument --model: {error}")
        report = on_pairs(evaluators, votes, args.pairs.parent, vae)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
