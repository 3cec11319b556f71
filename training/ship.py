"""Puts what the recipes trained into the package: fp16 safetensors, each with a model card.

python -m training.ship --runs runs
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from evaluators import load_evaluator
from tinyworld import WEIGHTS
from tinyworld.features import PixelClassifier

ABOUT = {
    "text_to_image": "The embedded text-to-image model: a diffusers `StableDiffusionPipeline` (`AutoencoderKL`, CLIP "
    "text encoder and tokenizer, `UNet2DConditionModel`, v-prediction) that draws 64×64 tinyworld scenes.",
    "clip": "Latent CLIP: scores noisy latents of the embedded VAE against a prompt.",
    "discriminator": "Latent discriminator: tells noisy latents of real pictures from those on sampling trajectories.",
    "reward": "Reward: which of two pictures would be preferred for a prompt? A head on the features of latent CLIP.",
    "text": "Text rendering: do the drawn letters spell the quoted word? A head on the features of latent CLIP.",
    "counting": "Counting: are there as many as the prompt says? A head on the features of latent CLIP.",
    "features": "Pixel classifier whose features the Fréchet distance is measured on; no part of guidance.",
}
DATA = (
    "Synthetic scenes of `tinyworld.scenes`, made from seeds; combinations that `tinyworld.captions.is_held_out` names "
    "are never trained on (the pixel classifier, which judges, sees all)."
)


def card(name: str, reports: dict[str, dict]) -> str:
    """A model card: what it is, and for every training run its command, seed, hardware, time and measures."""
    lines = ["---", "license: apache-2.0", "library_name: diffusers", "---", f"# tinyworld {name}", "", ABOUT[name], ""]
    lines += [f"Data: {DATA}", ""]
    for part, report in reports.items():
        lines += [f"## {part}", f"- command: `{report['command']}` (seed {report['seed']})"]
        lines += [f"- hardware: {report['hardware']}", f"- time: {report['minutes']} minutes, {report['steps']} steps"]
        skipped = {"command", "seed", "hardware", "minutes", "steps"}
        lines += [f"- {key}: {json.dumps(value)}" for key, value in report.items() if key not in skipped]
    return "\n".join([*lines, ""])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--only", nargs="+", choices=tuple(ABOUT), default=tuple(ABOUT))
    args = parser.parse_args(argv)
    clip = load_evaluator("clip", args.runs / "clip" / "clip")
    for name in args.only:
        out = WEIGHTS / name
        shutil.rmtree(out, ignore_errors=True)
        if name == "text_to_image":
            pipe = StableDiffusionPipeline.from_pretrained(args.runs / name / "pipeline")
            pipe.to(torch.float16).save_pretrained(out)
            # transformers loads in the dtype that this file names, diffusers in float32: let both be float32.
            config = out / "text_encoder" / "config.json"
            config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "float32"}, indent=2) + "\n")
            reports = {p: json.loads((args.runs / p / "report.json").read_text()) for p in ("vae", name)}
        else:
            folder = args.runs / name / name
            if name == "features":
                model = PixelClassifier.from_pretrained(folder)
            else:
                model = load_evaluator(name, folder, clip)
            model.half().save_pretrained(out)
            reports = {name: json.loads((args.runs / name / "report.json").read_text())}
        (out / "README.md").write_text(card(name, reports))
        size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
        print(f"{out}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
