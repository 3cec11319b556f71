"""How loud each evaluator may speak, at each noise level: how far apart its scores of the candidates lie, and how far
they are to be trusted.

    online-guidance calibrate --model stabilityai/stable-diffusion-xl-base-1.0 --evaluators open_clip pickscore \\
        --prompts FILE --out calibration --device cuda --dtype float16
    online-guidance calibrate --model FOLDER --evaluators clip=FOLDER discriminator=FOLDER --prompts FILE

With ``--out``, for any model and any evaluators. A few pictures of each prompt are made at one scale, from noise of
their own, while every evaluator is asked what it says of the candidates, at the steps at which a search would ask it:

- *spread*: the standard deviation of its scores over the candidate scales of one step, the mean over pictures.
- *reliability*: of two pictures of one prompt, how often its scores at that step rank them as those of the finished
  pictures do; half where it scores them alike. Pairs that finish alike are left out. 0.5 is chance.

The score of a finished picture is the evaluator's own: of the picture that the VAE decodes, for judges of pictures; of
the final latents at a noise level of 0, for evaluators of latents. So reliability says how early it knows what it will
say in the end, not whether that is right: with ``--judge NAME`` one evaluator, the best that you have, says it for all.
``DIR/NAME.json`` is what ``--calibration DIR`` and ``load_evaluators(…, calibration=DIR)`` read. Every picture that is
done is kept in ``DIR/measured.jsonl``: the same command goes on where it was stopped, also with more prompts.

Without ``--out``, evaluators with a reliability of their recipe keep it; the spread is written into their folders.

The prompts should be ones to train on: nothing held out is looked at.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from tqdm.auto import tqdm

from commands.arguments import evaluators as named
from commands.arguments import model, positive, scale
from commands.parser import Parser
from commands.prompts import read
from evaluators import Evaluator, load_evaluators
from evaluators.pixel.preview import PREVIEWS
from guidance import SCALES

from .agreement import Row, calibration, measure, respread

MEASURED = "measured.jsonl"


def kept(file: Path, settings: dict[str, Any]) -> list[Row]:
    """The pictures that `file` holds, measured with `settings`, its first line; a last line that was cut off is
    dropped. Makes the file where there is none.

    Raises:
        ValueError: it was measured with other settings. OSError: it cannot be read or written.
    """
    lines = file.read_text().splitlines(keepends=True) if file.is_file() else []
    whole = [line for line in lines if line.endswith("\n")]
    told = json.loads(json.dumps(settings))
    if whole and (held := json.loads(whole[0])) != told:
        other = ", ".join(key for key in told if held.get(key) != told[key])
        raise ValueError(f"{str(file)!r} was measured with another {other}: give another folder, or delete that file")
    if whole != lines or not lines:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(whole or [json.dumps(told) + "\n"]))
    return [json.loads(line) for line in whole[1:]]


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments, with everything checked that can be without loading a model."""
    parser = Parser("calibrate", __doc__)
    parser.add_argument("--model", type=model, required=True, help="pipeline folder or hub id")
    parser.add_argument(
        "--evaluators", nargs="+", required=True, metavar="NAME[=SOURCE]", help="folder, file or hub id"
    )
    parser.add_argument("--prompts", required=True, metavar="FILE", help="see `commands.prompts`; a hundred will do")
    parser.add_argument("--out", type=Path, metavar="DIR", help="one JSON for each evaluator; default: their folders")
    parser.add_argument("--judge", metavar="NAME", help="of --evaluators, whose score of finished pictures counts")
    parser.add_argument("--pictures", type=positive, help="of each prompt; default 4, without --out 1")
    parser.add_argument("--scales", nargs="+", type=scale, default=SCALES, help="candidates that the spread is over")
    parser.add_argument("--guidance-scale", type=scale, help="of the pictures; default: the pipeline's own")
    parser.add_argument("--steps", type=positive, default=20)
    parser.add_argument("--batch-size", type=positive, default=4, help="pictures made together")
    parser.add_argument("--preview", choices=PREVIEWS, default="auto", help="what judges of pictures see")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--dtype", choices=("float32", "float16", "bfloat16"), default="float32", help="of the pipeline"
    )
    args = parser.parse_args(argv)
    args.error = parser.error
    try:
        args.sources = named(",".join(args.evaluators))
        if args.judge and args.judge not in args.sources:
            raise argparse.ArgumentTypeError(f"has no {args.judge} for --judge")
    except argparse.ArgumentTypeError as error:
        parser.error(f"argument --evaluators: {error}")
    if len(set(args.scales)) < 2:
        parser.error("argument --scales: must be at least two")
    args.pictures = args.pictures or (4 if args.out else 1)
    if args.out and args.pictures < 2:
        parser.error("argument --pictures: must be at least 2 with --out: reliability is of pairs")
    if not args.out and (args.judge or None in args.sources.values()):
        parser.error("argument --out: is needed for --judge, and for evaluators without a folder")
    try:
        args.prompts = [prompt.text for prompt in read(args.prompts)]
    except ValueError as error:
        parser.error(f"argument --prompts: {error}")
    return args


def load(args: argparse.Namespace) -> tuple[DiffusionPipeline, list[Evaluator]]:
    """The pipeline and the evaluators; exits with one line where they cannot be loaded or used."""
    try:
        torch.empty(1, device=args.device)  # before a large model is read
        evaluators = load_evaluators(args.sources)
        unmeasured = [e.name for e in evaluators if e.calibration is None or not hasattr(e, "save_config")]
        if unmeasured and not args.out:
            args.error(f"argument --out: is needed: {', '.join(unmeasured)} has no reliability in its folder")
        pipe = DiffusionPipeline.from_pretrained(args.model, dtype=getattr(torch, args.dtype)).to(args.device)
        for evaluator in evaluators:
            evaluator.to(args.device)
    except (OSError, ValueError, RuntimeError, AssertionError) as error:
        args.error(f"argument --model, --evaluators, --device: cannot be loaded: {error}")
    pipe.set_progress_bar_config(disable=True)
    return pipe, evaluators


def main(argv: list[str] | None = None) -> None:
    """Exits with code 2 and one line on stderr where an argument is wrong."""
    args = parse(argv)
    of_run = ("model", "sources", "scales", "guidance_scale", "steps", "preview", "dtype")
    rows: list[Row] = []
    try:
        if args.out:
            rows = kept(args.out / MEASURED, {key: getattr(args, key) for key in of_run})
    except (OSError, ValueError) as error:
        args.error(f"argument --out: {error}")
    done = {(row["prompt"], row["seed"]) for row in rows}
    wanted = [(prompt, seed) for prompt in args.prompts for seed in range(args.pictures)]
    todo = [job for job in wanted if job not in done]
    pipe, evaluators = load(args)
    with tqdm(total=len(wanted), initial=len(wanted) - len(todo), desc="pictures") as bar:
        for first in range(0, len(todo), args.batch_size):
            jobs = todo[first : first + args.batch_size]
            settings = (tuple(args.scales), args.steps, args.guidance_scale, args.preview)
            try:
                new = measure(pipe, evaluators, jobs, *settings)
            except (OSError, ValueError) as error:  # what only the pipeline can tell, as an evaluator of another VAE
                args.error(str(error))
            if args.out:
                with (args.out / MEASURED).open("a") as file:
                    file.writelines(json.dumps(row) + "\n" for row in new)
            rows += new
            bar.update(len(jobs))
    rows = [row for row in rows if (row["prompt"], row["seed"]) in set(wanted)]
    try:
        for evaluator in evaluators:
            name = evaluator.name
            if args.out:
                made = calibration(rows, name, args.judge)
                made.to_json(args.out / f"{name}.json")
            else:
                evaluator.calibrate(made := respread(evaluator.calibration, rows, name))
                evaluator.save_config(Path(args.sources[name]))
            print(json.dumps({name: vars(made)}, indent=1))
    except ValueError as error:
        args.error(f"argument --prompts: {error}")


if __name__ == "__main__":
    main()
