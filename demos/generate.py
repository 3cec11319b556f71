"""Pictures from the command line, each with the guidance schedule that made it.

    online-guidance generate "two red circles above a blue square"
    online-guidance generate --prompts prompts.txt --num-images 4 --guidance static --guidance-scale 6
    online-guidance generate "a fox" --model stabilityai/stable-diffusion-xl-base-1.0
    online-guidance generate 'a sign saying "go"' --model my_sd3 --evaluators open_clip,ocr

Writes ``000_<prompt>_seed0.png``, ``…_schedule.png`` and ``…_trace.json`` for every picture, numbered on from what the
folder holds: nothing there is written over. Image i of a prompt starts from seed + i, whatever else is made with it:
``--seed 3`` alone gives the fourth picture of ``--seed 0 --num-images 4``.
"""

import argparse
import json
import logging
import os
import re
import sys
import tempfile
import unicodedata
import warnings
from pathlib import Path
from typing import Any

import tinyworld
from commands.arguments import SCHEDULES, SEARCHES, evaluators, model, positive, scale, scales, seed
from commands.parser import Parser, stop
from commands.prompts import ENDINGS, TABLES, lines, read

from . import cut, panel
from .denoising import GUIDANCE_SCALE, Several, denoise, rows_of
from .searches import searching

METADATA_KEY = "guidance"  # of the PNG's text chunk: settings and schedule, as JSON


def read_prompts(parser: Parser, args: argparse.Namespace) -> list[str]:
    """The prompts of the command line or of the file."""
    if bool(args.prompt) == bool(args.prompts):
        parser.error("give prompts either as arguments or by --prompts FILE")
    if args.prompts is None:
        if not all(prompt.strip() for prompt in args.prompt):
            parser.error(f"argument prompt: must not be blank, got {args.prompt!r}")
        for prompt in args.prompt:  # it would be drawn as text
            if os.path.isfile(prompt) or (prompt.lower().endswith(ENDINGS) and not re.search(r"\s", prompt)):
                parser.error(f"argument prompt: {prompt!r} is the name of a file; prompts in it are read by --prompts")
        return args.prompt
    try:
        if args.prompts.lower().endswith(TABLES):
            return [prompt.text for prompt in read(args.prompts)]
        prompts = [line.strip() for line in lines(Path(args.prompts)) if line.strip()]
    except (OSError, ValueError) as error:
        parser.error(f"argument --prompts: {args.prompts!r} cannot be read: {error}")
    if not prompts:
        parser.error(f"argument --prompts: {args.prompts!r} holds no prompt")
    return prompts


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """What is denoised with, and how."""
    parser.add_argument("--batch-size", type=positive, default=4, help="images denoised together")
    parser.add_argument("--steps", type=positive, default=25)
    parser.add_argument("--scales", type=scales, metavar="S,S,…", help="candidates of the search")
    parser.add_argument(
        "--evaluators",
        type=evaluators,
        metavar="NAME[=SOURCE],…",
        help="with a folder, file or hub id; default: the embedded model's, with --model open_clip,aesthetic",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="DIR",
        help="of the evaluators, as `online-guidance calibrate --out` makes it",
    )
    parser.add_argument("--model", type=model, help="pipeline folder or hub id; default: the embedded model")
    parser.add_argument("--device", help="default: cuda where there is one, else cpu")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32")


def check_model(args: argparse.Namespace, searched: bool) -> None:
    """Whether the arguments of `add_model_arguments` go together; `searched`: whether dynamic guidance is asked for."""
    if not searched and (args.scales or args.evaluators or args.calibration):
        args.error("argument --scales, --evaluators, --calibration: are of the search (dynamic guidance)")
    if args.model is None and not (tinyworld.WEIGHTS / "text_to_image" / "model_index.json").is_file():
        args.error(f"argument --model: there is no embedded model at {tinyworld.WEIGHTS}; give another")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments, with everything checked that can be without loading anything heavy."""
    parser = Parser("generate", __doc__)
    parser.add_argument("prompt", nargs="*", help="one picture or more of each")
    parser.add_argument("--prompts", metavar="FILE", help="UTF-8 text, a prompt on every line, or a table")
    parser.add_argument("--out", type=Path, default=Path("outputs"), metavar="DIR")
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument("--num-images", type=positive, default=1, help="for each prompt")
    parser.add_argument("--best-of", type=positive, metavar="N", help="begin N of each, of which evaluators keep one")
    parser.add_argument(
        "--rungs",
        type=float,
        nargs="+",
        metavar="SHARE",
        help="with --best-of, after which shares of the steps to drop the worse half, such as 0.2 0.6",
    )
    parser.add_argument("--guidance", choices=(*SEARCHES, *SCHEDULES), help="default: halving, with --model dynamic")
    parser.add_argument("--guidance-scale", type=scale, help=f"fixed; default {GUIDANCE_SCALE}, of halving: searched")
    add_model_arguments(parser)
    args = parser.parse_args(argv)
    args.error = parser.error
    # Draws are told apart by evaluators of noisy latents, and the sampler of one's own model is not changed unasked.
    ours = args.model is None and not args.evaluators
    args.guidance = args.guidance or ("dynamic" if not ours else "noise" if args.best_of else "halving")
    args.prompt = read_prompts(parser, args)
    searched = args.guidance in SEARCHES and args.guidance != "halving"
    if searched and args.guidance_scale is not None:
        parser.error("argument --guidance-scale: is of a fixed schedule or of halving; the search takes --scales")
    if args.guidance == "halving" and args.scales and args.guidance_scale is not None:
        parser.error("argument --scales, --guidance-scale: halving searches scales or keeps one")
    if args.best_of and args.guidance not in SEARCHES:
        parser.error(
            "argument --best-of: evaluators keep one, and a fixed schedule has none: take a search (--guidance)"
        )
    if args.best_of and args.guidance == "halving":
        parser.error("argument --best-of: halving begins several and keeps one by itself; take noise or dynamic")
    if args.rungs and not args.best_of:
        parser.error("argument --rungs: is of --best-of N")
    if args.rungs and (sorted(set(args.rungs)) != args.rungs or not all(0 < rung < 1 for rung in args.rungs)):
        parser.error(f"argument --rungs: must rise and be above 0 and below 1, got {args.rungs}")
    check_model(args, searched=args.guidance in SEARCHES)
    return args


def check_late(args: argparse.Namespace) -> None:
    """The checks that take torch; sets `args.device`."""
    import torch

    panel.check(args)
    try:
        args.device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=args.device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        args.error(f"argument --device: {args.device} cannot be used: {str(error).splitlines()[0]}")


def check_out(args: argparse.Namespace) -> None:
    """Whether ``--out`` can be written to; makes it."""
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=args.out).close()
    except OSError as error:
        args.error(f"argument --out: cannot write into {str(args.out)!r}: {error}")


def load(args: argparse.Namespace) -> tuple[Any, Any]:
    """The pipeline and its guidance."""
    import diffusers
    import huggingface_hub
    import torch
    import transformers

    from guidance import SCHEDULES, GreedySearch
    from tinyworld.pipeline import scale_search

    for library in (diffusers, transformers):  # one bar, that of the denoising
        library.utils.logging.disable_progress_bar()
    for library in (diffusers, transformers, huggingface_hub):  # what fails is said once, by us
        library.utils.logging.set_verbosity(logging.CRITICAL)
    logging.getLogger().addFilter(is_critical)  # where open_clip logs
    folder = args.model or tinyworld.WEIGHTS / "text_to_image"
    pipe = load_pipeline(folder, getattr(torch, args.dtype)).to(args.device)
    if args.guidance not in SEARCHES:
        return pipe, SCHEDULES[args.guidance](GUIDANCE_SCALE if args.guidance_scale is None else args.guidance_scale)
    asked = panel.load(args, pipe)
    for evaluator in asked:
        if hasattr(evaluator, "to"):
            evaluator.to(args.device)
    scales = {"scales": args.scales} if args.scales else {}
    search = scale_search(asked, **scales) if args.model is None else GreedySearch(asked, **scales)
    fixed = getattr(args, "guidance_scale", None)  # of halving, which keeps one
    return pipe, searching(args.guidance if fixed is None else f"{args.guidance}:{fixed}", search, args)


def is_critical(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.CRITICAL


def load_pipeline(source: str | Path, dtype: Any) -> Any:
    """From a folder or hub id.

    Raises:
        OSError, ValueError: it cannot be loaded.
    """
    from diffusers import DiffusionPipeline

    from evaluators.pixel.checkpoint import is_offline

    try:
        return DiffusionPipeline.from_pretrained(source, dtype=dtype)
    except OSError as error:
        if is_offline(error):
            told = "is not in the cache and there is no network: download it first or give a folder (--model FOLDER)."
            raise OSError(f"{str(source)!r} {told}") from error
        raise


def save(stem: Path, image: Any, trace: Any, settings: dict[str, Any]) -> list[Path]:
    """Picture, with its settings and schedule in it, and trace; returns their paths."""
    from PIL.PngImagePlugin import PngInfo

    paths = [stem.with_name(stem.name + ending) for ending in (".png", "_trace.json")]
    info = PngInfo()
    info.add_text(METADATA_KEY, json.dumps(settings | {"schedule": trace.scales[:, 0].tolist()}))
    image.save(paths[0], pnginfo=info)
    trace.to_json(paths[1])
    return paths


def slug(prompt: str, length: int) -> str:
    """`prompt` as a part of a file name: letters of any script, and digits; at most `length` bytes."""
    text = unicodedata.normalize("NFC", prompt.lower())
    kept = "".join(letter if unicodedata.category(letter)[0] in "LMN" else "-" for letter in text)
    return re.sub("-+", "-", kept).encode()[:length].decode(errors="ignore").strip("-") or "image"


def claim(folder: Path, name: str) -> Path:
    """The path ``NNN_name`` with a number after all in `folder`, whose picture is made there, empty: what runs beside
    this finds it taken."""
    numbers = [int(found[1]) for file in folder.iterdir() if (found := re.match(r"(\d+)_", file.name))]
    number = max(numbers, default=-1) + 1
    while True:
        stem = folder / f"{number:03d}_{name}"
        try:
            stem.with_name(f"{stem.name}.png").open("xb").close()
            return stem
        except FileExistsError:
            number += 1


def keep(folder: Path, image: Any, trace: Any, settings: dict[str, Any]) -> list[Path]:
    """Writes what is kept of a picture, all of it or nothing; returns the paths.

    Raises:
        OSError: it could not be written.
    """
    stem = claim(folder, f"{slug(settings['prompt'], 60)}_seed{settings['seed']}")
    paths = [stem.with_name(stem.name + ending) for ending in (".png", "_schedule.png", "_trace.json")]
    try:
        save(stem, image, trace, settings)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # of the prompt, which the file's name says too
            trace.plot(paths[1])
    except BaseException:
        for path in paths:
            path.unlink(missing_ok=True)
        raise
    return paths


def main(argv: list[str] | None = None) -> None:
    """Exits with code 2 and one line on stderr where an argument is wrong."""
    args = parse(argv)
    check_late(args)
    check_out(args)
    try:
        pipe, guidance = load(args)
    except (OSError, ValueError) as error:
        args.error(f"argument --model, --evaluators: cannot be loaded: {error}")
    inner = guidance.guidance if isinstance(guidance, Several) else guidance
    search = getattr(inner, "guidance", inner)
    if args.best_of:
        guidance = Several(inner, list(search.evaluators.values()), search.weights, args.best_of, args.rungs or ())
    for line in panel.silent_ones(guidance, args.prompt):
        print(line, file=sys.stderr)
    settings = {
        "model": str(args.model or "embedded"),
        "steps": args.steps,
        "guidance": args.guidance,
        "guidance_scale": getattr(inner, "guidance_scale", None),
        "candidates": getattr(search, "scales", None),
        "evaluators": list(getattr(search, "evaluators", ())),
        "calibration": args.calibration and str(args.calibration),
        "dtype": args.dtype,
    }
    if isinstance(guidance, Several):
        settings |= {"best_of": guidance.n, "rungs": list(guidance.rungs)}
        settings |= {"kept_by": [evaluator.name for evaluator in guidance.kept_by]}
    together = max(1, args.batch_size // rows_of(guidance))
    jobs = [(prompt, args.seed + i) for prompt in args.prompt for i in range(args.num_images)]
    if said := cut.warning(pipe, args.prompt):
        print(said, file=sys.stderr)
    made = 0
    try:
        for first in range(0, len(jobs), together):
            prompts, seeds = map(list, zip(*jobs[first : first + together], strict=True))
            batch = denoise(pipe, guidance, prompts, seeds, args.steps)
            for place, (prompt, number) in enumerate(zip(prompts, seeds, strict=True)):
                about = {"prompt": prompt, "seed": number} | settings
                print(*keep(args.out, batch.images[place], batch.trace_of(place), about), sep="\n")
                made += 1
    except ValueError as error:  # what only the pipeline can tell, such as an evaluator of another VAE
        args.error(str(error))
    except OSError as error:  # a full disk
        args.error(f"argument --out: {error}, after {made} of {len(jobs)} pictures")
    except KeyboardInterrupt:
        stop(f"stopped after {made} of {len(jobs)} pictures")


if __name__ == "__main__":
    main()
