"""Held-out questions, and how many of the right answers to them a pruned model still gives."""

from typing import Any

import numpy as np
from PIL import Image

from tinyworld import lvlm
from tinyworld.questions import KINDS, quiz

from .metrics import paired_bootstrap


class Exam:
    """The same questions for a model as it is and pruned; the first answers, `plain`, are of the model as it is.

    Args:
        clutter: whether the pictures are clutter (see `tinyworld.clutter`), else scenes that captions tell.
    """

    def __init__(self, model: Any, processor: Any, questions: int, clutter: bool) -> None:
        pairs = quiz(questions, clutter=clutter)
        self.model, self.processor = model, processor
        self.images = [Image.fromarray(scene.image) for scene, _ in pairs]
        self.texts = [question.text for _, question in pairs]
        self.wanted = np.array([question.answer for _, question in pairs])
        asked = np.array([question.kind for _, question in pairs])
        self.kinds = {kind: asked == kind for kind in KINDS if kind in asked}
        self.plain = self.answers()
        self.whole = self.plain == self.wanted

    def answers(self) -> np.ndarray:
        """What the model, pruned or not, answers now, ``(questions,)``."""
        return np.array(lvlm.answer(self.model, self.processor, self.images, self.texts))

    def unpruned(self) -> dict[str, Any]:
        """Share of right answers of the model as it is, over all and by kind."""
        by_kind = {kind: round(float(self.whole[about].mean()), 4) for kind, about in self.kinds.items()}
        return {"exact_match": round(float(self.whole.mean()), 4), "by_kind": by_kind}

    def compare(self, given: np.ndarray) -> dict[str, Any]:
        """The answers `given` with pruning against those without, over all and by kind."""
        right = given == self.wanted
        return {
            **compare(right, self.whole),
            "by_kind": {kind: compare(right[about], self.whole[about]) for kind, about in self.kinds.items()},
            "same_answer": round(float((given == self.plain).mean()), 4),
        }


def ratio(right: np.ndarray, whole: np.ndarray) -> float | None:
    """Of right answers with pruning to those without; `None` where there is nothing to divide by."""
    if right.sum() == whole.sum():
        return 1.0
    return round(float(right.sum() / whole.sum()), 4) if whole.any() else None


def ratio_interval(right: np.ndarray, whole: np.ndarray, repeats: int = 10_000) -> list[float] | None:
    """The 95 % interval of `ratio` over resampled questions; `None` where a resample has nothing to divide by."""
    counts = np.bincount(2 * right.astype(int) + whole, minlength=4)  # neither, whole alone, pruned alone, both
    drawn = np.random.default_rng(0).multinomial(len(right), counts / len(right), size=repeats)
    below = drawn[:, 1] + drawn[:, 3]
    if not below.all():
        return None
    return [round(float(q), 4) for q in np.quantile((drawn[:, 2] + drawn[:, 3]) / below, (0.025, 0.975))]


def compare(right: np.ndarray, whole: np.ndarray) -> dict[str, Any]:
    """Right answers with pruning against those without, to the same questions, bool ``(questions,)`` each."""
    return {
        "exact_match": round(float(right.mean()), 4),
        "exact_match_ratio": ratio(right, whole),
        "exact_match_ratio_interval": ratio_interval(right, whole),
        "exact_match_difference": paired_bootstrap((right * 1.0 - whole)[:, None]),
    }
