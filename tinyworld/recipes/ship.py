"""Puts what the recipes trained into the package: fp16 safetensors, each with a model card.

python -m tinyworld.recipes.ship --runs runs
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from evaluators import EVALUATORS, CLIPHead, load_evaluator
from training.card import card

from .. import WEIGHTS, lvlm
from ..features import PixelClassifier

ABOUT = {
    "text_to_image": "The embedded text-to-image model: a diffusers `StableDiffusionPipeline` (`AutoencoderKL`, CLIP "
    "text encoder and tokenizer, `UNet2DConditionModel`, v-prediction) that draws 64×64 tinyworld scenes.",
    "clip": "Latent CLIP: scores noisy latents of the embedded VAE against a prompt.",
    "discriminator": "Latent discriminator: tells noisy latents of real pictures from those on sampling trajectories.",
    "reward": "Reward: which of two pictures would be preferred for a prompt? A head on the features of latent CLIP.",
    "text": "Text rendering: do the drawn letters spell the quoted word? A head on the features of latent CLIP.",
    "counting": "Counting: are there as many as the prompt says? A head on the features of latent CLIP.",
    "lvlm": "The embedded vision-language model: a `LlavaForConditionalGeneration` with its processor, 256 visual "
    "tokens a picture, that answers questions about tinyworld. In training each patch, as the projector puts it, was "
    "compared with the embeddings of the words for what it shows (colour, shape, how many of its kind, on which side "
    "of the other kind, letter), and so was each noun of a question, half way through the decoder, for what it refers "
    "to; half of the pictures were clutter, many small objects and a small sign.",
    "features": "Pixel classifier whose features the Fréchet distance is measured on; no part of guidance.",
}
DATA = (
    "Synthetic scenes of `tinyworld.scenes`, made from seeds; combinations that `tinyworld.captions.is_held_out` names "
    "are never trained on (the pixel classifier, which judges, sees all)."
)


def load_in_float32(config: Path) -> None:
    """Says in a transformers model's ``config.json``, and in those nested in it, that half-precision weights are to be
    loaded as float32, which is faster on a CPU."""
    said = json.loads(config.read_text())
    for part in (said, *(value for value in said.values() if isinstance(value, dict))):
        if "dtype" in part:
            part["dtype"] = "float32"
    config.write_text(json.dumps(said, indent=2) + "\n")


def forget_where(folder: Path) -> None:
    """Takes out of the configs in `folder` where the weights lay on the machine that trained them."""
    for config in folder.rglob("*.json"):
        said = json.loads(config.read_text())
        if isinstance(said, dict) and said.pop("_name_or_path", None) is not None:
            config.write_text(json.dumps(said, indent=2) + "\n")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--only", nargs="+", choices=tuple(ABOUT), default=tuple(ABOUT))
    args = parser.parse_args(argv)
    if missing := [name for name in args.only if not (args.runs / name / "report.json").is_file()]:
        parser.error(f"argument --runs: {str(args.runs)!r} holds no finished run of {', '.join(missing)}; see --only")
    for name in args.only:
        out = WEIGHTS / name
        if name == "text_to_image":
            pipe = StableDiffusionPipeline.from_pretrained(args.runs / name / "pipeline")
            shutil.rmtree(out, ignore_errors=True)
            pipe.to(torch.float16).save_pretrained(out)
            # transformers loads in the dtype that this file names, diffusers in float32: let both be float32.
            load_in_float32(out / "text_encoder" / "config.json")
            reports = {p: json.loads((args.runs / p / "report.json").read_text()) for p in ("vae", name)}
        elif name == "lvlm":
            model, processor = lvlm.load(args.runs / name / name)
            shutil.rmtree(out, ignore_errors=True)
            model.half().save_pretrained(out)
            processor.save_pretrained(out)
            load_in_float32(out / "config.json")
            reports = {name: json.loads((args.runs / name / "report.json").read_text())}
        else:
            folder = args.runs / name / name
            if name == "features":
                model = PixelClassifier.from_pretrained(folder)
            else:
                head = issubclass(EVALUATORS[name], CLIPHead)
                clip = args.runs / "clip" / "clip" if (args.runs / "clip").is_dir() else WEIGHTS / "clip"
                model = load_evaluator(name, folder, load_evaluator("clip", clip) if head else None)
            shutil.rmtree(out, ignore_errors=True)
            model.half().save_pretrained(out)
            reports = {name: json.loads((args.runs / name / "report.json").read_text())}
        forget_where(out)
        front = {"license": "apache-2.0", "library_name": "transformers" if name == "lvlm" else "diffusers"}
        about = f"{ABOUT[name]}\n\nData: {DATA}"
        (out / "README.md").write_text(card(f"tinyworld {name}", about, reports, front))
        size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
        print(f"{out}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
