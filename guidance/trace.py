"""The trace: what was chosen at each step, for each sample, and why."""

import json
import math
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

SCORES = ("scores", "noise_scores")  # what evaluators said, by name: of scales, of draws


@dataclass
class GuidanceTrace:
    """One run of a pipeline.

    Tensors stay on the device while sampling and are read only by the methods below, so recording never waits for the
    GPU.

    Attributes:
        candidates: the scales searched, empty for a fixed schedule and where only noise is.
        prompt: one per sample, `None` where the caller gave embeddings.
        steps: per step ``timestep``, ``noise_level``, ``scale`` ``(batch,)``, ``nfe`` ``(batch,)`` and, where it was
            searched, ``scores`` (name to ``(batch, candidates)``), ``noise_levels`` of what each evaluator saw,
            ``weights`` (both name to number), ``favourites`` (name to ``(batch,)``, which candidate each liked best, -1
            where it told none apart), and ``total`` ``(batch, candidates)``; with adaptive weights ``gain`` (name to
            ``(batch,)``); with a search over noise ``noise`` ``(batch,)``, which of the draws was chosen,
            ``noise_scores`` (name to ``(batch, draws)``) and ``noise_total`` ``(batch, draws)``. Where particles were
            resampled, their ``reward`` ``(batch,)`` and ``rows`` ``(batch,)``: after this step, row i goes on from row
            ``rows[i]``.
    """

    candidates: tuple[float, ...] = ()
    prompt: list[str] | None = None
    steps: list[dict[str, Any]] = field(default_factory=list)

    @property
    def scales(self) -> torch.Tensor:
        """The chosen scales ``(steps, batch)``, on the CPU."""
        return torch.stack([torch.as_tensor(step["scale"]).cpu() for step in self.steps])

    @property
    def nfe(self) -> torch.Tensor:
        """Passes of the denoiser that each sample took ``(batch,)``: 2 for a step with guidance, 1 without. What copies
        left behind is of the other rows."""
        return torch.stack([torch.as_tensor(step["nfe"]) for step in self.steps]).sum(0)

    @property
    def disputed(self) -> torch.Tensor:
        """Where evaluators contradicted each other, in that their favourites differ: ``(steps, batch)`` bool, on the
        CPU."""
        rows = torch.zeros(self.scales.shape, dtype=torch.bool)
        for row, step in zip(rows, self.steps, strict=True):
            if told := step.get("favourites"):
                best = torch.stack([torch.as_tensor(places).cpu() for places in told.values()])
                row |= best.amax(0) > torch.where(best < 0, best.amax(0), best).amin(0)
        return rows

    def warn_if_not_finite(self) -> None:
        """Warns once, by name, of evaluators that returned NaN or infinity while sampling."""
        scores = [pair for step in self.steps for key in SCORES for pair in step.get(key, {}).items()]
        bad = {name for name, values in scores if not torch.as_tensor(values).isfinite().all()}
        if bad:
            warnings.warn(
                f"evaluators returned scores that are not finite and were passed over: {sorted(bad)}", stacklevel=2
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for JSON; what is not finite becomes `None`."""

        def plain(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                value = value.tolist()
            if isinstance(value, dict):
                return {k: plain(v) for k, v in value.items()}
            if isinstance(value, list):
                return [plain(v) for v in value]
            return None if isinstance(value, float) and not math.isfinite(value) else value

        return {
            "candidates": list(self.candidates),
            "prompt": self.prompt,
            "steps": [plain(step) for step in self.steps],
        }

    def to_json(self, path: str | Path) -> None:
        """Writes `to_dict`."""
        Path(path).write_text(json.dumps(self.to_dict()))

    @classmethod
    def from_json(cls, path: str | Path) -> "GuidanceTrace":
        """Reads what `to_json` wrote."""
        data = json.loads(Path(path).read_text())
        return cls(tuple(data["candidates"]), data["prompt"], data["steps"])

    def sample(self, row: int) -> "GuidanceTrace":
        """The trace of one sample of the batch, back through those that it was copied from."""

        def cut(step: dict[str, Any], row: int) -> dict[str, Any]:
            keys = ("scale", "nfe", "total", "noise", "noise_total", "reward", "rows")
            per_sample = {key: step[key][row : row + 1] for key in keys if key in step}
            for key in (*SCORES, "favourites", "gain"):
                if key in step:
                    per_sample[key] = {name: values[row : row + 1] for name, values in step[key].items()}
            return step | per_sample

        prompt = None if self.prompt is None else self.prompt[row : row + 1]
        steps = []
        for step in reversed(self.steps):
            row = int(step["rows"][row]) if "rows" in step else row
            steps.append(cut(step, row))
        return GuidanceTrace(self.candidates, prompt, steps[::-1])

    def to_pandas(self):
        """A `pandas.DataFrame`, a row for every step and sample: ``step, sample, timestep, noise_level, scale, nfe``,
        with a search over noise ``noise``, and each evaluator's score of what was chosen: of the candidate scale
        nearest to it or, where only noise was searched, of the draw (NaN where nothing was searched)."""
        import pandas as pd

        rows = []
        for index, step in enumerate(self.to_dict()["steps"]):
            for sample, scale in enumerate(step["scale"]):
                row = {"step": index, "sample": sample, "scale": scale, "nfe": step["nfe"][sample]}
                row |= {key: step[key] for key in ("timestep", "noise_level")}
                if "noise" in step:
                    row["noise"] = at = step["noise"][sample]
                if "scores" in step:
                    at = self._nearest(scale)
                scores = step.get("scores", step.get("noise_scores", {}))
                row |= {name: values[sample][at] for name, values in scores.items()}
                rows.append(row)
        return pd.DataFrame(rows)

    def plot(self, path: str | Path) -> None:
        """Draws the schedule of every sample; below it, where searched, the combined scores of the first sample: of
        every draw of noise, and of every candidate scale. The file's ending gives the format."""
        from matplotlib.figure import Figure

        searched = [found for found in (self._searched("noise_total"), self._searched("total")) if found]
        figure = Figure(figsize=(7, 3 + 2.5 * len(searched)), layout="constrained")
        axes = figure.subplots(1 + len(searched), 1, sharex=True, squeeze=False)[:, 0]
        scales = self.scales.numpy()
        for sample in range(scales.shape[1]):
            label = self.prompt[sample].replace("$", r"\$") if self.prompt and scales.shape[1] <= 8 else None
            axes[0].step(range(len(scales)), scales[:, sample], where="mid", label=label)
        axes[0].set_ylabel("guidance scale")
        axes[0].set_ylim(bottom=0)
        if axes[0].get_legend_handles_labels()[0]:
            axes[0].legend(fontsize=8, frameon=False)
        for below, (label, names, totals, chosen) in zip(axes[1:], searched, strict=True):
            grid = np.full((len(names), len(scales)), np.nan)
            for i, total in totals.items():
                if np.isfinite(total).any():
                    grid[:, i] = (total - np.nanmean(total)) / (np.nanstd(total) + 1e-8)
            image = below.imshow(grid, aspect="auto", origin="lower", cmap="viridis")
            below.set_yticks(range(len(names)), names)
            below.set_ylabel(label)
            below.plot(list(totals), chosen, "o", color="white", markersize=4)
            figure.colorbar(image, ax=below, label="score, first sample")
        axes[-1].set_xlabel("step")
        figure.savefig(path, dpi=120)

    def _searched(self, key: str) -> tuple[str, list[str], dict[int, np.ndarray], list[int]] | None:
        """What was chosen among, the names of the candidates, the first sample's combined scores at each searched step,
        and which it chose; `None` where nothing was searched."""
        steps = self.to_dict()["steps"]
        # None, a score that was not finite, becomes NaN.
        totals = {i: np.array(step[key][0], float) for i, step in enumerate(steps) if key in step}
        if not totals:
            return None
        if key == "total":
            chosen = [self._nearest(float(self.scales[i, 0])) for i in totals]
            return "candidate scale", [f"{scale:g}" for scale in self.candidates], totals, chosen
        draws = max(map(len, totals.values()))
        return "draw of noise", [str(i) for i in range(draws)], totals, [int(steps[i]["noise"][0]) for i in totals]

    def _nearest(self, scale: float) -> int:
        """The place of `scale` among the candidates; a float32 that was 4.5 still is 4.5, one that was 0.1 is not."""
        return min(range(len(self.candidates)), key=lambda k: abs(self.candidates[k] - scale))
