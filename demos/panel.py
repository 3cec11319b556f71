"""Which evaluators a command asks: those of the embedded model, judges with public weights, or what its user names."""

import argparse
import warnings
from collections.abc import Sequence
from typing import Any

import tinyworld

from .denoising import Several

JUDGES = ("open_clip", "aesthetic")  # of a model that is not the embedded one; the second shares the tower of the first
EMBEDDED = "embedded"  # as the value of a name: what the package itself ships


def check(args: argparse.Namespace) -> None:
    """Whether the names of ``--evaluators`` are known and go with ``--model``; takes torch."""
    from evaluators import EVALUATORS

    named = args.evaluators or {}
    if unknown := [name for name in named if name not in EVALUATORS]:
        args.error(f"argument --evaluators: unknown {', '.join(unknown)}; there are {', '.join(EVALUATORS)}")
    latent = [name for name, value in named.items() if value is None and is_ours(name)]
    if args.model and latent:
        judges = ", ".join(name for name in EVALUATORS if not is_ours(name))
        args.error(
            f"argument --evaluators: {', '.join(latent)} of the package belongs to the VAE of the embedded model; give "
            f"NAME=FOLDER of your own, or judges of pictures: {judges}"
        )


def is_ours(name: str) -> bool:
    """Whether that evaluator reads latents and was published for none but the package's own."""
    from evaluators import EVALUATORS

    cls = EVALUATORS[name]
    return getattr(cls, "space", "noisy") != "pixels" and not hasattr(cls, "published_for")


def load(args: argparse.Namespace, pipe: Any) -> list[Any]:
    """The evaluators that ``--evaluators`` names, as loud as ``--calibration`` says; by default `JUDGES` for a model of
    the user's, for the embedded one none, which leaves its own. What was published for several VAEs is that of the VAE
    of `pipe`.

    Raises:
        OSError, ValueError: one cannot be loaded.
    """
    from evaluators import EVALUATORS, load_evaluators
    from evaluators.pixel.vqa import VQAScore
    from tinyworld.asking import questions_about
    from tinyworld.pipeline import PANEL

    default = JUDGES if args.model else PANEL if args.calibration else ()
    named = args.evaluators or dict.fromkeys(default)
    wanted: list[Any] = []
    for name, value in named.items():
        if name == "vqa" and value in (None, EMBEDDED):
            wanted.append(VQAScore.from_pretrained(tinyworld.WEIGHTS / "lvlm", questions_about))
            continue
        published_for = getattr(EVALUATORS[name], "published_for", None)
        if value is None and published_for is not None:
            value = published_for(getattr(pipe, "vae", None))
        elif value is None and is_ours(name) and (tinyworld.WEIGHTS / name).is_dir():
            value = tinyworld.WEIGHTS / name
        wanted.append(name if value is None else f"{name}={value}")
    return load_evaluators(wanted, args.calibration) if wanted else []


def silent_ones(guidance: Any, prompts: Sequence[str]) -> list[str]:
    """A warning of every evaluator that has nothing to say of any of the prompts."""
    from guidance.panel import Silent, silent
    from guidance.sampling import evaluators_of

    warnings.simplefilter("ignore", Silent)  # of single calls
    asked = evaluators_of(guidance)
    if isinstance(guidance, Several):
        asked += [evaluator for evaluator in guidance.evaluators if evaluator not in asked]
    told = f"finds nothing to judge in {prompts[0]!r}" + ", nor in the other prompts" * (len(prompts) > 1)
    return [
        f"warning: evaluator {evaluator.name!r} {told}, and is silent"
        for evaluator in asked
        if silent(evaluator, prompts)
    ]
