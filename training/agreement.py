"""What evaluators say of pictures while these are made, and of the finished ones: how far apart their scores of the
candidates lie, and how early they know what they will say in the end. `training.calibrate` is the command."""

import functools
import inspect
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline

from evaluators import Calibration, Evaluator
from evaluators.pixel.preview import Preview, make_preview
from guidance import SCALES, DenoisingStep
from guidance.panel import Panel
from guidance.step import pictures
from pipelines import guide
from pipelines.dynamic import with_true_cfg

# Of one picture: its "prompt" and "seed", and by evaluator the lists "level", "spread" and "score" over the steps, and
# the "final" score.
Row = dict[str, Any]


class Watch(Panel):
    """Guidance that leaves the pipeline's own scale and keeps what evaluators say: at each step of the candidates, that
    scale's first and then those of `scales`; in the end of the finished picture.

    Args:
        evaluators: what is asked.
        scales: candidates that the spread is over.
        finish: final latents to pictures, `None` where nobody reads these.
    """

    def __init__(self, evaluators: Sequence[Evaluator], scales: Sequence[float], finish: Preview | None) -> None:
        super().__init__(evaluators)
        self.scales, self.finish = tuple(scales), finish
        self.final: dict[str, torch.Tensor] = {}

    def decide(self, step: DenoisingStep) -> tuple[None, dict]:
        """Nothing, and the scores ``(batch, 1 + scales)`` of those that a search would ask at this step."""
        if step.index == step.num_steps - 1:
            latents = step.candidates((step.own_scale,), "noisy")
            finish = self.finish
            shown = lambda space: latents if space != "pixels" or finish is None else pictures(latents, finish)  # noqa: E731
            _, told = self.ask(shown, lambda space: 0.0, step.prompt, 0.0)
            self.final = {name: scores[:, 0].cpu() for name, scores in told["scores"].items()}
        if not any(map(step.due, self.evaluators.values())):
            return None, {}
        candidates = functools.partial(step.candidates, (step.own_scale, *self.scales))
        return None, self.ask(candidates, step.noise_level, step.prompt, step.timestep, step.due)[1]


@torch.no_grad()
def measure(
    pipe: DiffusionPipeline,
    evaluators: Sequence[Evaluator],
    jobs: Sequence[tuple[str, int]],
    scales: Sequence[float] = SCALES,
    steps: int = 20,
    guidance_scale: float | None = None,
    preview: str | Preview = "auto",
) -> list[Row]:
    """What `evaluators` say of one batch of pictures, ``(prompt, seed)`` each, while `pipe` makes them.

    Raises:
        ValueError: `pipe` cannot be guided, or an evaluator does not fit it.
    """
    prompts = [prompt for prompt, _ in jobs]
    seen = any(e.space == "pixels" for e in evaluators)
    watch = Watch(evaluators, scales, make_preview(getattr(pipe, "vae", None), "vae") if seen else None)
    stock: Any = pipe.__call__
    options: dict[str, Any] = {"output_type": "latent", "num_inference_steps": steps}
    if guidance_scale is not None:
        true_cfg = "true_cfg_scale" in inspect.signature(stock).parameters
        options["true_cfg_scale" if true_cfg else "guidance_scale"] = guidance_scale
    options["generator"] = [torch.Generator().manual_seed(seed) for _, seed in jobs]  # the same on every device
    args, options = with_true_cfg(stock, (prompts,), options)
    with guide(pipe, watch, preview=preview) as traces:
        pipe(*args, **options)  # type: ignore[operator]  # every pipeline can be called
    rows: list[Row] = [{"prompt": prompt, "seed": seed} for prompt, seed in jobs]
    for name in watch.evaluators:
        asked = [step for step in traces[-1].steps if name in step.get("scores", ())]
        scores = torch.stack([step["scores"][name] for step in asked], 1).cpu()  # (batch, steps, 1 + scales)
        spread = scores[..., 1:].std(2, correction=0)
        for i, row in enumerate(rows):
            row[name] = {
                "level": [round(step["noise_levels"][name], 5) for step in asked],
                "spread": spread[i].tolist(),
                "score": scores[i, :, 0].tolist(),
                "final": float(watch.final[name][i]),
            }
    return rows


def spread_of(rows: Iterable[Row], name: str) -> dict[float, float]:
    """Noise level to the mean spread of the evaluator called `name`, from what was measured.

    Raises:
        ValueError: it told no candidates apart.
    """
    found = defaultdict(list)
    for row in rows:
        for level, spread in zip(row[name]["level"], row[name]["spread"], strict=True):
            if math.isfinite(spread) and spread > 0:  # a specialist is silent on the other prompts
                found[level].append(spread)
    if not found:
        raise ValueError(f"no prompt asks {name}, or it tells no candidates apart: take more prompts")
    return {level: float(np.mean(found[level])) for level in sorted(found)}


def reliability_of(rows: Iterable[Row], name: str, judge: str) -> dict[float, float]:
    """Noise level to how often the evaluator called `name` ranks two pictures of a prompt as `judge` ranks the finished
    ones.

    Raises:
        ValueError: `judge` tells no two finished pictures apart.
    """
    groups, found = defaultdict(list), defaultdict(list)
    for row in rows:
        groups[row["prompt"]].append(row)
    for one, other in (pair for group in groups.values() for pair in itertools.combinations(group, 2)):
        better = np.sign(one[judge]["final"] - other[judge]["final"])
        for level, a, b in zip(one[name]["level"], one[name]["score"], other[name]["score"], strict=True):
            if abs(better) == 1 and math.isfinite(a - b):  # neither alike nor NaN
                found[level].append((1 + better * np.sign(a - b)) / 2)
    if not found:
        raise ValueError(f"{judge} tells no two finished pictures of a prompt apart: take more prompts")
    return {level: float(np.mean(found[level])) for level in sorted(found)}


def calibration(rows: Sequence[Row], name: str, judge: str | None = None) -> Calibration:
    """Of the evaluator called `name`, from what was measured; `judge` says which finished picture is better, by default
    the evaluator itself.

    Raises:
        ValueError: nothing can be said, see `spread_of` and `reliability_of`.
    """
    spread, reliability = spread_of(rows, name), reliability_of(rows, name, judge or name)
    levels = tuple(reliability)
    return Calibration(
        levels,
        tuple(float(f"{x:.5g}") for x in np.interp(levels, [*spread], [*spread.values()])),
        tuple(round(x, 4) for x in reliability.values()),
    )


def respread(old: Calibration, rows: Sequence[Row], name: str) -> Calibration:
    """`old` with the spread that was measured, at its own noise levels."""
    spread = spread_of(rows, name)
    values = np.interp(old.noise_level, [*spread], [*spread.values()]).round(5)
    return Calibration(old.noise_level, tuple(map(float, values)), old.reliability)
