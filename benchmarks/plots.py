"""Pictures of what `benchmarks.quality` or `benchmarks.pruning` wrote, for the docs.

    online-guidance benchmark plots results.json --out docs
    online-guidance benchmark plots results.json --out docs --table

Of quality it writes ``scales.png``, the chosen scale at each timestep, mean and spread for each category of prompts;
``reliability.png``, how well each evaluator ranks at each noise level; ``front.png``, accuracy against passes of the
denoiser. Of `benchmarks.front` ``cost.png``, the same at budgets from 10 to 160, with intervals. Of pruning
``pruning.png``, right answers against FLOPs. ``--table`` prints the methods as Markdown.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from commands.parser import Parser


def scales(report: dict[str, Any]) -> Figure:
    """The search's scale against the timestep: for each category its mean, and one standard deviation either side."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for category, steps in report["methods"]["dynamic"]["scale"]["per_category"].items():
        mean, spread = np.array(steps["mean"]), np.array(steps["std"])
        (line,) = axes.plot(report["timesteps"], mean, marker=".", label=category)
        axes.fill_between(report["timesteps"], mean - spread, mean + spread, color=line.get_color(), alpha=0.12)
    axes.invert_xaxis()  # as sampling goes
    axes.set(xlabel="timestep", ylabel="chosen guidance scale", ylim=(0, None))
    axes.legend(frameon=False)
    return figure


def reliability(report: dict[str, Any]) -> Figure:
    """Each evaluator's accuracy in ranking pairs against the share of noise; 0.5 is chance."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, calibration in report["calibration"].items():
        if calibration is not None:
            axes.plot(calibration["noise_level"], calibration["reliability"], marker=".", label=name)
    axes.axhline(0.5, color="grey", linestyle=":")
    axes.set(xlabel="share of noise", ylabel="pairs ranked rightly", xlim=(1, 0), ylim=(0.45, 1))
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def front(report: dict[str, Any]) -> Figure:
    """Accuracy against the denoiser's passes for each image, a colour for each family; the line is what no method beats
    at that cost."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    families: dict[str, list[tuple[float, float]]] = {}
    for name, row in report["methods"].items():
        families.setdefault(name.split(":")[0], []).append((row["nfe"], row["accuracy"]))
    markers = "osD^vP*X<>"
    for i, (family, points) in enumerate(families.items()):
        axes.scatter(
            *zip(*points, strict=True), marker=markers[i // 10 % len(markers)], color=f"C{i % 10}", label=family
        )
    best: list[tuple[float, float]] = []
    for nfe, accuracy in sorted((p for points in families.values() for p in points), key=lambda p: (p[0], -p[1])):
        if not best or accuracy > best[-1][1]:
            best.append((nfe, accuracy))
    axes.step(*zip(*best, strict=True), where="post", color="grey", linewidth=0.8, zorder=0)
    axes.set(xlabel="passes of the denoiser for each image", ylabel="right pictures")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def cost(report: dict[str, Any]) -> Figure:
    """Right pictures against passes, a line for each family, with 95 % intervals; ours are drawn thick."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    for i, (family, points) in enumerate(report["front"].items()):
        right = [point["right"] for point in points]
        mean = np.array([share["mean"] for share in right])
        spread = np.abs(np.array([[share["low"] for share in right], [share["high"] for share in right]]) - mean)
        # Side by side where they stand at the same passes, so that each interval can be seen.
        at = np.array([point["nfe"] for point in points]) * 1.012 ** (i - len(report["front"]) / 2)
        style = {"marker": "osD^vP*X<>"[i // 10 % 10], "color": f"C{i % 10}", "markersize": 4, "capsize": 2}
        axes.errorbar(at, mean, spread, linewidth=2 if family in report["ours"] else 0.8, label=family, **style)
    axes.set_xscale("log", base=2)
    axes.set_xticks(report["budgets"], [str(budget) for budget in report["budgets"]])
    axes.set(xlabel="passes of the denoiser for each image", ylabel="right pictures")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def pruning(report: dict[str, Any]) -> Figure:
    """Right answers against the FLOPs of reading the prompt, a line for each method over its budgets; beside them those
    in clutter, where the report has them."""
    parts = ["", "clutter"] if "clutter" in report["whole"] else [""]
    figure = Figure(figsize=(2 + 6 * len(parts), 5), layout="constrained")
    for axes, part in zip(figure.subplots(1, len(parts), squeeze=False)[0], parts, strict=True):
        for i, (name, budgets) in enumerate(report["presets"].items()):
            rows = [(row["prefill_flops_ratio"], row[part] if part else row) for row in budgets.values()]
            points = sorted((flops, cells["exact_match"]) for flops, cells in rows)
            axes.plot(*zip(*points, strict=True), marker="osD^vP*X<"[i % 9], color=f"C{i % 10}", label=name)
        whole = report["whole"][part] if part else report["whole"]
        axes.axhline(whole["exact_match"], color="grey", linestyle=":")
        axes.set(xlabel="FLOPs of the prompt, of those without pruning", ylabel="right answers", xlim=(None, 1.02))
        axes.set_title(part or "scenes")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


DIFFERENCES = ("minus_best_static", "minus_best_of_sampler", "minus_best_rival", "minus_unchanged")


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Methods of a quality report as a Markdown table, those that are right most often first."""

    def interval(cell: dict[str, float] | None, form: str) -> str:
        return "–" if cell is None else f"{cell['mean']:{form}} [{cell['low']:{form}}, {cell['high']:{form}}]"

    categories = list(next(iter(rows.values()))["categories"])
    known = [key for key in DIFFERENCES if any(key in row for row in rows.values())]
    names = ["guidance", "right", *(key.replace("minus_", "less ").replace("_", " ") for key in known), *categories]
    names += ["wins", "Fréchet", "diversity", "passes"]
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    for name, row in sorted(rows.items(), key=lambda item: -item[1]["accuracy"]):
        cells = [name, f"{row['accuracy']:.3f}"]
        cells += [interval(row.get(key), "+.3f") for key in known]
        cells += [f"{row['categories'][category]:.2f}" for category in categories]
        cells += [interval(row["win_rate"], ".2f"), f"{row['frechet_distance']:.0f}"]
        cells += ["–" if row["diversity"] is None else f"{row['diversity']:.2f}", f"{row['nfe']:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


PLOTS = {"scales": scales, "reliability": reliability, "front": front}
PRUNING_PLOTS = {"pruning": pruning}
COST_PLOTS = {"cost": cost}


def main(argv: list[str] | None = None) -> int:
    parser = Parser("benchmark plots", __doc__)
    parser.add_argument("results", type=Path, help="what `benchmarks.quality` or `benchmarks.pruning` printed")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of the pictures")
    parser.add_argument("--table", action="store_true", help="print the methods of quality as Markdown")
    args = parser.parse_args(argv)
    try:
        report = json.loads(args.results.read_text(encoding="utf-8"))
        plots = PRUNING_PLOTS if "presets" in report else COST_PLOTS if "front" in report else PLOTS
        figures = {name: plot(report) for name, plot in plots.items()}
        tables = [table(report[key]) for key in ("methods", "ablations") if args.table and report.get(key)]
        args.out.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(
            f"error: `results` {str(args.results)!r} is no report of benchmarks.quality, .front or .pruning: {error!r}",
            file=sys.stderr,
        )
        return 2
    for name, figure in figures.items():
        figure.savefig(args.out / f"{name}.png", dpi=120)
        print(args.out / f"{name}.png")
    for text in tables:
        print(f"\n{text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
