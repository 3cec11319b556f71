"""Judges of pictures score those of a study, beside the people who vote on it.

    online-guidance score study --judges pickscore hpsv2 open_clip
    online-guidance score study --judges open_clip=ViT-B-32/openai vqa=embedded --device cuda

A judge is a name, or ``name=source`` with a folder, a file or a hub id. Writes ``scores.csv`` and says how often each
judge prefers a method and agrees with the votes; ``online-guidance study STUDY --report`` has both, too. The same
command again scores what is new.
"""

import argparse
import itertools
import sqlite3
import sys
from pathlib import Path
from typing import Any

from commands.arguments import evaluators, positive
from commands.parser import Parser, stop

from . import generate, panel
from .manifest import Image, Manifest, inside, write_text


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments, with everything checked that can be without loading anything heavy."""
    parser = Parser("score", __doc__)
    parser.add_argument("study", type=Path, help="folder that `online-guidance batch` wrote")
    parser.add_argument(
        "--judges", nargs="+", type=evaluators, required=True, metavar="NAME[=SOURCE]", help="see docs/judges.md"
    )
    parser.add_argument("--batch-size", type=positive, default=16, help="pictures judged together")
    parser.add_argument("--device", help="default: cuda where there is one, else cpu")
    args = parser.parse_args(argv)
    args.error = parser.error
    names = [name for part in args.judges for name in part]
    if len(set(names)) != len(names):
        parser.error(f"argument --judges: must be distinct, got {', '.join(names)}")
    args.judges = {name: source for part in args.judges for name, source in part.items()}
    return args


def check(args: argparse.Namespace) -> list[Image]:
    """The checks that take torch and the study; sets ``args.device`` and returns the study's pictures."""
    from evaluators import EVALUATORS

    known = [name for name, cls in EVALUATORS.items() if getattr(cls, "space", None) == "pixels"]
    if wrong := [name for name in args.judges if name not in known]:
        args.error(f"argument --judges: {', '.join(wrong)} judges no pictures; there are {', '.join(known)}")
    try:
        with Manifest(args.study, read_only=True) as manifest:
            images = [image for image in manifest.images() if (args.study / image.file).is_file()]
        for image in images:
            inside(args.study, image.file)
    except (ValueError, sqlite3.DatabaseError) as error:
        args.error(f"argument study: {error}")
    if not images:
        args.error(f"argument study: {str(args.study)!r} has no pictures")
    args.evaluators, args.model, args.calibration = args.judges, None, None  # as `panel` reads them
    generate.check_late(args)
    return images


def judge(evaluator: Any, folder: Path, images: list[Image]) -> list[float]:
    """The scores of pictures of one prompt."""
    import numpy as np
    import torch
    from PIL import Image as Picture

    from evaluators import Context, score

    pictures = [np.array(Picture.open(inside(folder, image.file)).convert("RGB")) for image in images]
    scores: list[float] = []
    for _, alike in itertools.groupby(pictures, lambda picture: picture.shape):  # of one size together
        batch = torch.from_numpy(np.stack(list(alike))).permute(0, 3, 1, 2)[None].float() / 255
        scores += score(evaluator, batch, Context([images[0].prompt], 0.0, 0.0))[0].tolist()
    return scores


def run(args: argparse.Namespace, images: list[Image], store: Any) -> None:
    """Scores what is not scored yet, by one judge after another."""
    import transformers
    from tqdm import tqdm

    transformers.utils.logging.disable_progress_bar()  # one bar, that of the pictures
    for name, source in args.judges.items():
        said = source or "its own"
        if (kept := store.source(name) or said) != said:
            args.error(f"argument --judges: this study was scored by {name} from {kept!r}, not {said!r}")
        done = store.done(name)
        left = sorted((image for image in images if image.key not in done), key=lambda image: image.prompt)
        if not left:
            continue  # nothing is loaded
        args.evaluators = {name: source}
        try:
            (evaluator,) = panel.load(args, None)
        except (OSError, ValueError, ImportError) as error:
            args.error(f"argument --judges: {name} cannot be loaded: {error}")
        if hasattr(evaluator, "to"):
            evaluator.to(args.device)
        store.settle(name, said)
        with tqdm(total=len(left), unit=" pictures", desc=name) as bar:
            for _, of_prompt in itertools.groupby(left, lambda image: image.prompt):
                group = list(of_prompt)
                for first in range(0, len(group), args.batch_size):
                    part = group[first : first + args.batch_size]
                    scores = judge(evaluator, args.study, part)
                    store.add(name, zip([image.key for image in part], scores, strict=True))
                    bar.update(len(part))


def main(argv: list[str] | None = None) -> None:
    """Exits with one line on stderr, and code 2 where an argument is wrong or the disk is full, 130 after Ctrl-C."""
    args = parse(argv)
    images = check(args)

    from .study import judges, report
    from .study.scores import ScoreStore, read_scores

    try:
        with ScoreStore(args.study) as store:
            run(args, images, store)
        scores = read_scores(args.study)
        write_text(args.study / "scores.csv", scores.map(report.guard).to_csv(index=False))
    except KeyboardInterrupt:
        stop("stopped; the same command goes on")
    except (OSError, ValueError, sqlite3.OperationalError) as error:
        args.error(f"argument study: {error}; the same command goes on")
    try:
        votes = report.read_votes(args.study)
    except ValueError:
        votes = None
        print("nobody has voted yet: with votes this says how far each judge agrees with them", file=sys.stderr)
    print(*judges.text(judges.summarize(scores, votes)), args.study / "scores.csv", sep="\n")


if __name__ == "__main__":
    main()
