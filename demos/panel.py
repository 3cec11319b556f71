"""Which evaluators a command asks: those of the embedded model, judges with public weights, or what its user names."""

import argparse
from typing import Any

import tinyworld

JUDGES = ("open_clip", "aesthetic")  # of a model that is not the embedded one; the second shares the tower of the first
EMBEDDED = "embedded"  # as the value of a name: what the package itself ships


def check(args: argparse.Namespace) -> None:
    """Whether the names of ``--evaluators`` are known and go with ``--model``; takes torch."""
    from evaluators import EVALUATORS

    named = args.evaluators or {}
    if unknown := [name for name in named if name not in EVALUATORS]:
        args.error(f"argument --evaluators: unknown {', '.join(unknown)}; there are {', '.join(EVALUATORS)}")
    latent = [name for name, value in named.items() if value is None and of_latents(name)]
    if args.model and latent:
        judges = ", ".join(name for name in EVALUATORS if not of_latents(name))
        args.error(
            f"argument --evaluators: {', '.join(latent)} of the package belongs to the VAE of the embedded model; give "
            f"NAME=FOLDER of your own, or judges of pictures: {judges}"
        )


def of_latents(name: str) -> bool:
    """Whether that evaluator reads latents, and so belongs to one VAE."""
    from evaluators import EVALUATORS

    return getattr(EVALUATORS[name], "space", "noisy") != "pixels"


def load(args: argparse.Namespace) -> list[Any]:
    """The evaluators that ``--evaluators`` names, as loud as ``--calibration`` says; by default `JUDGES` for a model of
    the user's, for the embedded one none, which leaves its own.

    Raises:
        OSError, ValueError: one cannot be loaded.
    """
    from evaluators import load_evaluators
    from evaluators.pixel.vqa import VQAScore
    from tinyworld.asking import questions_about
    from tinyworld.pipeline import PANEL

    default = JUDGES if args.model else PANEL if args.calibration else ()
    named = args.evaluators or dict.fromkeys(default)
    wanted: list[Any] = []
    for name, value in named.items():
        if name == "vqa" and value in (None, EMBEDDED):
            wanted.append(VQAScore.from_pretrained(tinyworld.WEIGHTS / "lvlm", questions_about))
        elif value is None and of_latents(name) and (tinyworld.WEIGHTS / name).is_dir():
            wanted.append(f"{name}={tinyworld.WEIGHTS / name}")
        else:
            wanted.append(name if value is None else f"{name}={value}")
    return load_evaluators(wanted, args.calibration) if wanted else []
