"""What the recipes of evaluators share: the frozen CLIP that heads are trained on, and how a result is kept."""

import argparse
from pathlib import Path

from huggingface_hub import create_repo, upload_folder

from evaluators import Calibration, LatentCLIP
from evaluators.latent.base import LatentEvaluator

from . import loop
from .card import card
from .noise import LEVELS


def frozen_clip(parser: argparse.ArgumentParser, folder: Path) -> LatentCLIP:
    """The latent CLIP of ``--clip``, on the GPU of this process where there is one, its teacher as well; exits by
    `parser` unless it reads noisy latents."""
    device = loop.processes().device
    try:
        clip = LatentCLIP.from_pretrained(folder).eval().requires_grad_(False)
        if clip.config["teacher"] is not None:
            clip.tower.to(device)
    except (OSError, ValueError) as error:
        parser.error(f"argument --clip: {error}")
    if clip.space != "noisy":
        parser.error(f"argument --clip: must read noisy latents, {str(folder)!r} reads {clip.space} ones")
    return clip.to(device)


def keep(evaluator: LatentEvaluator, args: argparse.Namespace, reliability: list[float], report: dict) -> None:
    """Saves a trained evaluator in the folder of its name in ``--out``, calibrated by its ranking accuracy at each of
    `LEVELS`, with a model card, and the report of its training; and in a repository of the hub, if ``--push-to-hub``
    names one."""
    out = args.out
    evaluator.calibrate(Calibration(LEVELS, (1.0,) * len(LEVELS), tuple(reliability)))  # spread: `training.calibrate`
    evaluator.save_pretrained(out / evaluator.name)
    report = report | {"ranking_accuracy": dict(zip(map(str, LEVELS), reliability, strict=True))}
    about = (type(evaluator).__doc__ or "").split("\n\n")[0]
    made = f'{" ".join(about.split())}\n\nMade by online-guidance: `load_evaluators(["{evaluator.name}=FOLDER"])`.'
    text = card(f"{evaluator.name}, an evaluator of latents", made, {"Training": report}, {"library_name": "diffusers"})
    (out / evaluator.name / "README.md").write_text(text)
    loop.write_report(out, report)
    if args.push_to_hub:
        try:
            create_repo(args.push_to_hub, exist_ok=True)
            upload_folder(repo_id=args.push_to_hub, folder_path=out / evaluator.name)
        except (OSError, ValueError) as error:
            said = str(error).splitlines()[0]
            said = f"error: argument --push-to-hub: {said} (the weights are in {out / evaluator.name})"
            raise SystemExit(said) from error
