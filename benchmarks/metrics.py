"""What the quality benchmark measures of pictures: small functions of arrays."""

import functools
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torchmetrics.image.fid import FrechetInceptionDistance

from tinyworld import WEIGHTS
from tinyworld.captions import CATEGORIES
from tinyworld.features import PixelClassifier
from tinyworld.scenes import make_scene

REAL_SEED = 5_000_000  # of the held-out scenes that pictures are compared with


def real_images(n: int) -> np.ndarray:
    """Held-out scenes, uint8 ``(n, 64, 64, 3)``, the categories in turn as among the prompts."""
    scenes = (make_scene(REAL_SEED + i, "test", CATEGORIES[i % len(CATEGORIES)]) for i in range(n))
    return np.stack([scene.image for scene in scenes])


class Features:
    """Distances in the features of `tinyworld.features`, to which the real pictures are brought once."""

    def __init__(self, real: np.ndarray) -> None:
        self.classifier = PixelClassifier.from_pretrained(WEIGHTS / "features").eval()
        self.metric = FrechetInceptionDistance(
            feature=self.classifier, normalize=False, input_img_size=(3, 64, 64), reset_real_features=False
        )
        self.metric.update(_pixels(real), real=True)

    def frechet_distance(self, images: np.ndarray) -> float:
        """torchmetrics' Fréchet distance of uint8 ``(n, 64, 64, 3)`` to the real pictures."""
        self.metric.reset()
        self.metric.update(_pixels(images), real=False)
        return round(float(self.metric.compute()), 4)

    @torch.no_grad()
    def distances(self, images: np.ndarray, seeds: int) -> np.ndarray:
        """Mean distance between two pictures of one prompt ``(prompts,)``, `images` in prompt-major order; NaN with one
        seed."""
        features = self.classifier(_pixels(images)).numpy().reshape(-1, seeds, self.classifier.num_features)
        pairs = [features[:, i] - features[:, j] for i, j in combinations(range(seeds), 2)]
        return np.linalg.norm(pairs, axis=-1).mean(0) if pairs else np.full(len(features), np.nan)


def _pixels(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def by_category(values: np.ndarray, categories: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    """Mean of the values ``(images,)`` of each category that occurs."""
    categories = np.asarray(categories)
    return {c: round(float(values[categories == c].mean()), 4) for c in names if c in categories}


def paired_bootstrap(difference: np.ndarray, repeats: int = 10_000) -> dict[str, float]:
    """Mean of ``(prompts, seeds)`` differences with the 95 % interval over resampled prompts."""
    per_prompt = difference.mean(1)
    low, high = np.quantile(resampled(len(per_prompt), repeats) @ per_prompt, (0.025, 0.975))
    return {"mean": round(float(per_prompt.mean()), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


@functools.lru_cache(2)
def resampled(n: int, repeats: int) -> np.ndarray:
    """The weight of each of `n` prompts in each bootstrap ``(repeats, n)``, drawn once for all that is resampled."""
    drawn = np.random.default_rng(0).integers(n, size=(repeats, n)) + n * np.arange(repeats)[:, None]
    return np.bincount(drawn.ravel(), minlength=repeats * n).reshape(repeats, n) / n


def win_rate(scores: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    """How often ``(prompts, seeds)`` scores are above the other's, a tie being half a win; 95 % interval as of
    `paired_bootstrap`; the share of ``ties``; and the wins among those ``decided``, `None` where all are ties."""
    wins, ties = scores > other, scores == other
    decided = None
    if not ties.all():
        weights, differ = resampled(len(scores), 10_000), (~ties).sum(1)
        with np.errstate(invalid="ignore"):  # nothing but ties may be drawn of a few
            low, high = np.nanquantile((weights @ wins.sum(1)) / (weights @ differ), (0.025, 0.975))
        figures = {"mean": wins.sum() / differ.sum(), "low": low, "high": high}
        decided = {name: round(float(figure), 4) for name, figure in figures.items()}
    return paired_bootstrap(wins + 0.5 * ties) | {"ties": round(float(ties.mean()), 4), "decided": decided}


def best_per_category(
    correct: dict[str, np.ndarray], categories: Sequence[str], names: Sequence[str]
) -> dict[str, object]:
    """What one would have with the best of several methods for each category, chosen with hindsight: an upper bound.

    Args:
        correct: method to ``(images,)`` of 0 and 1.

    Returns:
        Its ``accuracy``, and for each category which method is ``chosen``.
    """
    table = {name: by_category(values, categories, names) for name, values in correct.items()}
    present = list(next(iter(table.values())))
    chosen = {c: max(table, key=lambda name: table[name][c]) for c in present}
    right = sum(correct[chosen[c]][np.asarray(categories) == c].sum() for c in present)
    return {"accuracy": round(float(right / len(categories)), 4), "chosen": chosen}


def hindsight(correct: np.ndarray, scores: np.ndarray, seeds: int) -> dict[str, float | None]:
    """What choosing among several methods after the fact would bring: how much there is to win, and with what.

    Args:
        correct: ``(methods, images)`` of 0 and 1, images in prompt-major order.
        scores: an evaluator's scores of the finished images, of the same shape.

    Returns:
        Accuracy of the best method of every image (``judge``: asking the judge, which no method may), of the method
        whose image the evaluator prefers (``evaluator``), and of the one that is best for a prompt with its first seed,
        on its other seeds (``other_seeds``; between equals that which is best overall), beside the method that is best
        overall on those seeds (``other_seeds_overall``); both `None` with one seed.
    """
    found = {
        "judge": correct.max(0).mean(),
        "evaluator": np.take_along_axis(correct, scores.argmax(0)[None], 0).mean(),
        "other_seeds": None,
        "other_seeds_overall": None,
    }
    if seeds > 1:
        overall, by_prompt = correct.mean(1), correct.reshape(len(correct), -1, seeds)
        best = (by_prompt[..., 0] + overall[:, None] / 2).argmax(0)
        found["other_seeds"] = np.take_along_axis(by_prompt[..., 1:], best[None, :, None], 0).mean()
        found["other_seeds_overall"] = by_prompt[overall.argmax(), :, 1:].mean()
    return {name: value if value is None else round(float(value), 4) for name, value in found.items()}


def diversity_where_right(result: dict[str, np.ndarray], best: dict[str, np.ndarray], seeds: int) -> dict[str, Any]:
    """Diversity on the prompts all of whose pictures are right by both methods, for wrong ones differ in more ways. The
    prompts are others for every `result`: compare within what is returned.

    Args:
        result, best: ``correct`` ``(images,)`` and ``distance`` ``(prompts,)``, as of `Features.distances`.

    Returns:
        ``mean``, ``best_static``, the number of ``prompts`` and by how much they differ (``minus``, as of
        `paired_bootstrap`), each `None` where nothing is known.
    """
    right = np.all([r["correct"].reshape(-1, seeds).all(1) for r in (result, best)], 0)
    own, theirs = result["distance"][right], best["distance"][right]
    differ = own - theirs
    return {
        "mean": mean(own),
        "best_static": mean(theirs),
        "prompts": int(right.sum()),
        "minus": paired_bootstrap(differ[:, None]) if len(differ) and np.isfinite(differ).all() else None,
    }


def mean(values: np.ndarray) -> float | None:
    """Rounded; `None` of nothing, or of what is not known."""
    return round(float(values.mean()), 4) if len(values) and np.isfinite(values).all() else None


def per_step(scale: np.ndarray, categories: Sequence[str], names: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    """Mean and standard deviation of scales ``(images, steps)`` for each category that occurs."""
    categories, table = np.asarray(categories), {}
    for name in (n for n in names if n in categories):
        rows = scale[categories == name]
        table[name] = {"mean": rows.mean(0).round(3).tolist(), "std": rows.std(0).round(3).tolist()}
    return table
