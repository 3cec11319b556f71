"""Can three decoded candidates stand for eight? Candidates lie on a line in the scale, so a quadratic through a judge's
scores of three of them may tell which of all it would like best.

    online-guidance benchmark decodes --json -n 60
    online-guidance benchmark decodes -n 200 --judges clip reward

On the embedded world, a search asks each judge about eight scales at every fifth step. Afterwards three of the eight
scores are kept, the others are read off the quadratic through them, and the choices are compared: how often they are
the same (*agreement*), how often the same or a neighbour, and what the choice by three is short of, in shares of how
far the eight lie apart (*regret*). Choices that the eight leave open, all alike, do not count. Judges of pictures are
the embedded vision-language model and rapidocr; evaluators of latents stand beside them.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tinyworld
from commands.arguments import positive
from commands.parser import Parser
from evaluators import load_evaluators
from evaluators.pixel.ocr import OCRScore
from evaluators.pixel.vqa import VQAScore
from guidance import SCALES, GreedySearch
from tinyworld.asking import questions_about
from tinyworld.pipeline import PANEL
from training.loop import hardware

from . import embedded
from .provenance import commit
from .quality import held_out_prompts
from .rivals import STEPS

KEPT = (0, 4, 7)  # of SCALES: the ends and the middle
EVERY = 5
BATCH = 16


def by_three(scores: np.ndarray, scales: tuple[float, ...] = SCALES, kept: tuple[int, ...] = KEPT) -> np.ndarray:
    """Scores ``(rows, candidates)`` of which only the places `kept` are known, the others on the quadratic in the scale
    through them."""
    x = np.array(scales)
    powers = np.vander(x[list(kept)], 3)
    return scores[:, list(kept)] @ np.linalg.inv(powers).T @ np.vander(x, 3).T


def compare(scores: np.ndarray) -> dict[str, Any]:
    """How the choice by three agrees with that by all, of scores ``(rows, candidates)``."""
    scores = scores[np.ptp(scores, 1) > 1e-9]
    if not len(scores):
        return {"choices": 0}
    full, short = scores.argmax(1), by_three(scores).argmax(1)
    rows = np.arange(len(scores))
    regret = (scores[rows, full] - scores[rows, short]) / np.ptp(scores, 1)
    return {
        "choices": len(scores),
        "agreement": round(float((full == short).mean()), 3),
        "within_a_neighbour": round(float((abs(full - short) <= 1).mean()), 3),
        "regret": round(float(regret.mean()), 3),
        "best_is_an_end": round(float(np.isin(full, (0, scores.shape[1] - 1)).mean()), 3),
    }


def main(argv: list[str] | None = None) -> None:
    parser = Parser("benchmark decodes", __doc__)
    parser.add_argument("-n", type=positive, default=60, help="held-out captions, the categories in turn")
    parser.add_argument("--judges", nargs="+", choices=(*PANEL, "vqa", "ocr"), default=[*PANEL, "vqa", "ocr"])
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("--out", type=Path, help="write the JSON there, too")
    args = parser.parse_args(argv)
    code = commit()
    made: dict[str, Any] = {}
    for name in args.judges:
        if name == "vqa":
            made[name] = VQAScore.from_pretrained(tinyworld.WEIGHTS / "lvlm", questions_about)
        else:
            made[name] = OCRScore() if name == "ocr" else load_evaluators({name: tinyworld.WEIGHTS / name})[0]
    pipe = embedded.load()
    pipe.preview = "vae"
    prompts, seen = held_out_prompts(args.n), {name: [] for name in made}
    for first in range(0, len(prompts), BATCH):
        search = GreedySearch(list(made.values()), SCALES, every=EVERY)
        texts = prompts[first : first + BATCH]
        seeded = [torch.Generator().manual_seed(first + i) for i in range(len(texts))]
        call = {"num_inference_steps": STEPS, "output_type": "latent", "generator": seeded}
        trace = pipe(texts, guidance=search, **call).guidance_trace
        for step in trace.steps:
            for name, scores in step.get("scores", {}).items():
                seen[name].append(scores.cpu().numpy())
    found = {name: compare(np.concatenate(rows)) for name, rows in seen.items()}
    settings = {"prompts": args.n, "steps": STEPS, "every": EVERY, "scales": SCALES, "kept": [SCALES[i] for i in KEPT]}
    report = {"commit": code, "hardware": hardware(), **settings, "judges": found}
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1) if args.json else "\n".join(f"{name}: {row}" for name, row in found.items()))


if __name__ == "__main__":
    main()
