"""Measures how far apart an evaluator's scores of the candidates lie at each noise level; kept beside its weights.

    online-guidance calibrate --model FOLDER --evaluators clip=FOLDER discriminator=FOLDER --prompts FILE
    online-guidance calibrate --model FOLDER --evaluators clip=FOLDER --prompts FILE --steps 30 --scales 3 5 7.5 10

The prompts should be ones to train on: nothing held out is looked at.
"""

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline

from commands.parser import Parser
from commands.prompts import read
from evaluators import Calibration, Evaluator, load_evaluators
from guidance import SCALES, GreedySearch
from pipelines import guide


def spreads(
    pipe: DiffusionPipeline, evaluators: list[Evaluator], prompts: list[str], scales: tuple[float, ...], steps: int
) -> dict[str, list[tuple[float, float]]]:
    """Per evaluator: ``(noise share, mean standard deviation over the candidates)`` at each step of a guided run."""
    found: dict[str, list[tuple[float, float]]] = {}
    for start in range(0, len(prompts), 32):
        with guide(pipe, GreedySearch(evaluators, scales)) as traces:
            pipe(
                prompts[start : start + 32],
                num_inference_steps=steps,
                output_type="latent",
                generator=torch.Generator().manual_seed(start),
            )
        for step in traces[-1].steps:
            for name, scores in step["scores"].items():
                spread = scores.std(1, correction=0)
                if (asked := spread > 0).any():  # a specialist is silent on the other rows
                    found.setdefault(name, []).append((step["noise_levels"][name], float(spread[asked].mean())))
    return found


def main(argv: list[str] | None = None) -> None:
    parser = Parser("calibrate", __doc__)
    parser.add_argument("--model", required=True, help="folder or hub id of the pipeline")
    parser.add_argument("--evaluators", nargs="+", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--scales", nargs="+", type=float, default=SCALES)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--prompts", required=True, metavar="FILE", help="see `commands.prompts`; a hundred will do")
    args = parser.parse_args(argv)
    try:
        prompts = [prompt.text for prompt in read(args.prompts)]
    except ValueError as error:
        parser.error(f"argument --prompts: {error}")
    if unnamed := [item for item in args.evaluators if "=" not in item]:
        parser.error(f"argument --evaluators: must be NAME=FOLDER, got {', '.join(unnamed)}")
    folders = dict(item.split("=", 1) for item in args.evaluators)
    pipe = DiffusionPipeline.from_pretrained(args.model)
    evaluators = load_evaluators(folders)
    if unmeasured := [e.name for e in evaluators if e.calibration is None]:
        parser.error(f"argument --evaluators: {', '.join(unmeasured)} has no reliability, which its recipe measures")
    found = spreads(pipe, evaluators, prompts, tuple(args.scales), args.steps)
    if silent := [e.name for e in evaluators if e.name not in found]:
        parser.error(f"argument --prompts: none of {len(prompts)} asks {', '.join(silent)}; take more")
    for evaluator in evaluators:
        old, rows = evaluator.calibration, np.array(found[evaluator.name])
        levels = np.unique(rows[:, 0])  # every batch of prompts has been at each of them
        means = [rows[rows[:, 0] == level, 1].mean() for level in levels]
        spread = np.interp(old.noise_level, levels, means).round(5)
        evaluator.calibrate(Calibration(old.noise_level, tuple(map(float, spread)), old.reliability))
        evaluator.save_config(Path(folders[evaluator.name]))
        print(json.dumps({evaluator.name: evaluator.config.calibration}, indent=1))


if __name__ == "__main__":
    main()
