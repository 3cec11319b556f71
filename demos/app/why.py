"""Why a picture became what it is: in a sentence, and step by step."""

import math

from . import plots
from .looks import Card, cards
from .methods import METHODS
from .previews import Decoder
from .runs import Picture, Run
from .settings import whole
from .stage import ORDINALS

LEGEND = """<div class="legend">
<span><i class="scale"></i> what evaluators think of each candidate at a step, from worst to best</span>
<span><i class="dot chosen"></i> chosen</span>
<span><i class="dot"></i> what one evaluator by itself would have taken</span>
</div>"""
NOTE = (
    "What the picture would become by each candidate scale, as predicted at this step. The marked one was taken, or "
    "kept from the step before; under the others stands how far their scores differ from its."
)
NOTHING = "<p>A static scale is not searched: there is nothing to choose among.</p>"


def summary(run: Run, row: int) -> str:
    """What was done, in a sentence or two."""
    pictures = run.rows[row]
    told = ["Same prompt, same noise." if len(pictures) > 1 else "Done."]
    for picture in pictures:
        label = METHODS[picture.method].label
        disputed = int(picture.trace.disputed.sum())
        searched = sum(map(plots.is_searched, picture.trace.steps))
        if disputed:
            told.append(f"{label}: the evaluators disagreed at {disputed} of {searched} searched steps.")
        if picture.tried is not None:
            place, scores = picture.tried
            dropped = any(map(math.isnan, scores))  # of two that are left, one scores as much above as the other below
            compared = f" of {len(scores)}" if dropped else f", {max(scores):+.2f} to {min(scores):+.2f}"
            told.append(f"{label}: they kept the {ORDINALS[place]}{compared}.")
    return " ".join(told).replace("-", "−")


def explained(run: Run) -> list[str]:
    """The methods of a run that have something to explain."""
    return [one.method for one in run.rows[0] if any(map(plots.is_searched, one.trace.steps))]


def middle(picture: Picture) -> int:
    """A step, from 1, to begin with: a searched one half way."""
    steps = picture.trace.steps
    searched = [i for i, step in enumerate(steps, start=1) if plots.is_searched(step)] or [1]
    return min(searched, key=lambda i: abs(i - len(steps) / 2))


def candidates(decode: Decoder, picture: Picture, step: object) -> str:
    """What each candidate scale would have made of step `step` (from 1), as HTML; the one chosen is marked.

    Raises:
        ValueError: there is no such step, in words for the visitor.
    """
    index = whole(step, "Step", 1, len(picture.trace.steps)) - 1
    scales = picture.trace.candidates
    if not scales:
        return NOTHING
    record = picture.trace.to_dict()["steps"][index]
    held = "scores" not in record
    used = plots.place(scales, record["scale"][0])
    items = []
    for k, (scale, image) in enumerate(zip(scales, decode(picture.denoised(index)), strict=True)):
        lines = [] if held else [f"{name} {said(rows[0], k, used)}" for name, rows in record["scores"].items()]
        if not held and record["total"][0][k] is not None:
            lines.append(f"combined {record['total'][0][k]:+.2f}".replace("-", "−"))
        mark = ("kept" if held and "noise" not in record else "chosen") if k == used else None
        items.append(Card(image, f"scale {scale:g}", tuple(lines), mark, f"step {index + 1} by scale {scale:g}"))
    if "noise" not in record:
        return cards(items)
    draws = len(record["noise_total"][0])
    return f"<p>Number {record['noise'][0] + 1} of {draws} draws of noise was taken.</p>{cards(items)}"


def said(scores: list[float | None], k: int, chosen: int | None) -> str:
    """The score of candidate `k` in words: that of the chosen one as it is, of the others what they have more or less,
    for all may be alike in the digits that one reads. Without a chosen one, with the digits that tell them apart."""
    score, own = scores[k], None if chosen is None else scores[chosen]
    if score is None:
        return "—"
    if own is not None:
        return f"{own:.4g}" if k == chosen else f"{score - own:+.2g}".replace("-", "−")
    values = {value for value in scores if value is not None}
    digits = next((n for n in range(3, 9) if len({f"{value:.{n}g}" for value in values}) == len(values)), 9)
    return f"{score:.{digits}g}"
