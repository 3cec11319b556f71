"""A vision-language model as a judge of pictures, with part of its visual tokens and with all of them."""

import statistics
import time
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

import tinyworld
from evaluators.pixel.vqa import VQAScore
from guidance import Static
from pipelines.prune.pruner import prune
from tinyworld.asking import questions_about

from . import embedded
from .quality import held_out_prompts

METHODS = ("visionzip", "divprune", "random")
BUDGETS = {"50": 0.5, "33": 0.33, "22": 0.22}
SCALE, STEPS, BATCH = 3.0, 10, 32


def pairs(prompts: list[str]) -> torch.Tensor:
    """Two pictures that the embedded pipeline makes of each caption, ``(captions, 2, 3, H, W)`` in [0, 1]."""
    pipe = embedded.load()
    asked, made = [prompt for prompt in prompts for _ in range(2)], []
    for first in range(0, len(asked), BATCH):
        texts = asked[first : first + BATCH]
        seeded = [torch.Generator().manual_seed(first + i) for i in range(len(texts))]
        call = {"num_inference_steps": STEPS, "output_type": "pt", "generator": seeded}
        made.append(torch.as_tensor(pipe(texts, guidance=Static(SCALE), **call).images))
    return torch.cat(made).unflatten(0, (-1, 2))


def agreement(whole: np.ndarray, pruned: np.ndarray) -> dict[str, float]:
    """Of scores of pictures ``(captions, 2)``: which picture of a caption is preferred alike, where the whole judge
    prefers one by at least a hundredth; and how far the scores are from one another."""
    gap = whole[:, 0] - whole[:, 1]
    clear = abs(gap) >= 0.01
    same = ((pruned[:, 0] > pruned[:, 1]) == (gap > 0))[clear]
    return {
        "clear_pairs": int(clear.sum()),
        "same_preference": round(float(same.mean()), 4) if len(same) else float("nan"),
        "correlation": round(float(np.corrcoef(whole.ravel(), pruned.ravel())[0, 1]), 4),
        "mean_difference": round(float(abs(whole - pruned).mean()), 4),
    }


@torch.inference_mode()
def measure_judge(captions: int, repeats: int) -> dict[str, Any]:
    """Everything that is said of the embedded model as a judge of its own world's pictures."""
    prompts = held_out_prompts(captions)
    judge = VQAScore.from_pretrained(tinyworld.WEIGHTS / "lvlm", questions_about)
    images, asked = pairs(prompts).flatten(0, 1), [prompt for prompt in prompts for _ in range(2)]

    def judged() -> tuple[np.ndarray, float]:
        """Scores ``(captions, 2)`` and seconds of the processor for a picture, whatever else the machine does."""
        start = time.process_time()
        scores = judge.judge(images, asked).numpy().reshape(-1, 2)
        return scores, (time.process_time() - start) / len(images)

    whole, _ = judged()
    rows: dict[str, dict[str, Any]] = {name: {} for name in METHODS}
    plain_seconds = []
    for name in tqdm(METHODS, mininterval=5):
        spent: dict[str, list[tuple[float, float]]] = {budget: [] for budget in BUDGETS}
        for _ in range(repeats):
            _, plain = judged()
            plain_seconds.append(plain)
            for budget, keep in BUDGETS.items():
                with prune(judge.model, name, keep=keep):
                    scores, pruned = judged()
                spent[budget].append((pruned, pruned / plain))
                rows[name][budget] = agreement(whole, scores)
        for budget, times in spent.items():
            seconds, ratios = zip(*times, strict=True)
            rows[name][budget] |= {
                "seconds_per_picture": round(statistics.median(seconds), 4),
                "seconds_ratio": round(statistics.median(ratios), 4),
                "seconds_range": [round(min(ratios), 4), round(max(ratios), 4)],
            }
    return {
        "captions": captions,
        "questions": sum(len(questions_about(prompt)) for prompt in asked),
        "repeats": repeats,
        "whole": {"seconds_per_picture": round(statistics.median(plain_seconds), 4)},
        "presets": rows,
    }
