"""Interactive plots of guidance schedules. Colours of text and grid come from the page, see `looks`."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from guidance import GuidanceTrace

DYNAMIC, STATIC = "#7c6cf0", "#e08a1e"  # as in `looks`; both readable on white and on near black
SERIES = ("#7c6cf0", "#e08a1e", "#12a594", "#e5484d", "#3e8fe0", "#b5a000", "#d6409f", "#6f7f90")
SCHEDULE_HEIGHT, LABEL_HEIGHT, MARGIN = 200, 17, 90  # pixels


def schedule(trace: GuidanceTrace, static: float) -> go.Figure:
    """The scale at each step of a trace of one sample, beside the fixed one; below, where it was searched, every
    candidate's score by each evaluator that was asked and combined, the chosen one marked, and a ring where an
    evaluator by itself would have chosen another. Steps count from 1."""
    steps = trace.to_dict()["steps"]
    scales = [step["scale"][0] for step in steps]
    numbers = list(range(1, len(steps) + 1))
    labels = [f"{scale:g}" for scale in trace.candidates]
    places = [
        place(trace.candidates, scale) if "scores" in step else None for scale, step in zip(scales, steps, strict=True)
    ]
    chosen = [(n, labels[k]) for n, k in zip(numbers, places, strict=True) if k is not None]
    rows = [*dict.fromkeys(name for step in steps for name in step.get("scores", ()))]
    rows += ["combined"] if rows else []
    row_height = LABEL_HEIGHT * max(5, len(labels))
    figure = make_subplots(
        rows=1 + len(rows),
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.045,
        row_heights=[SCHEDULE_HEIGHT] + [row_height] * len(rows),
    )
    figure.add_scatter(
        x=numbers,
        y=scales,
        name="dynamic",
        mode="lines+markers",
        line={"color": DYNAMIC, "width": 2.5, "shape": "hvh"},
        marker={"size": [9 if "scores" in step else 5 for step in steps], "color": DYNAMIC},
        text=[_reasons(step, k) for step, k in zip(steps, places, strict=True)],
        hovertemplate="step %{x}: scale <b>%{y:.4~g}</b>%{text}<extra></extra>",
    )
    figure.add_scatter(
        x=numbers,
        y=[static] * len(numbers),
        name="static",
        mode="lines",
        line={"color": STATIC, "width": 2, "dash": "dash"},
        hovertemplate="static: %{y:.4~g}<extra></extra>",
    )
    for row, name in enumerate(rows, start=2):
        raw = np.full((len(labels), len(steps)), np.nan)
        for column, step in enumerate(steps):
            if (scores := _scores(step).get(name)) is not None:
                raw[:, column] = np.array(scores[0], float)
        figure.add_heatmap(
            x=numbers,
            y=labels,
            z=_standardised(raw),
            customdata=raw,
            name=name,
            colorscale="Viridis",
            showscale=False,
            xgap=1,
            ygap=1,
            hovertemplate=f"{name} at step %{{x}}, scale %{{y}}: %{{customdata:.3g}}<extra></extra>",
            row=row,
            col=1,
        )
        figure.add_scatter(
            x=[n for n, _ in chosen],
            y=[label for _, label in chosen],
            mode="markers",
            marker={"size": 8, "color": "white", "line": {"color": "black", "width": 1.5}},
            hoverinfo="skip",
            showlegend=False,
            row=row,
            col=1,
        )
        others = [
            (n, labels[favourite])
            for n, k, step in zip(numbers, places, steps, strict=True)
            if name in step.get("scores", {}) and (favourite := step["favourites"][name][0]) not in (-1, k)
        ]
        figure.add_scatter(
            x=[n for n, _ in others],
            y=[label for _, label in others],
            name=f"favourite of {name}",
            mode="markers",
            marker={"size": 8, "symbol": "circle-open", "color": "white", "line": {"width": 1.5}},
            hoverinfo="skip",
            showlegend=False,
            row=row,
            col=1,
        )
        figure.update_yaxes(type="category", dtick=1, title_text=name, tickfont_size=11, row=row, col=1)
    figure.update_yaxes(title_text="guidance scale", rangemode="tozero", row=1, col=1)
    figure.update_xaxes(range=[0.4, len(steps) + 0.6])
    figure.update_xaxes(title_text="step", row=1 + len(rows), col=1)
    figure.add_shape(
        type="line", x0=0, x1=0, y0=0, y1=1, yref="paper", line={"width": 1.5, "color": DYNAMIC, "dash": "dot"}
    )
    return _plain(figure, SCHEDULE_HEIGHT + row_height * len(rows) + MARGIN)


def mean_schedules(scales: Mapping[str, Sequence[Sequence[float]]]) -> go.Figure:
    """Category to the schedules of its images, all of one length: their mean, and one standard deviation around it."""
    figure = go.Figure()
    for (category, runs), colour in zip(scales.items(), SERIES * len(scales), strict=False):
        array = np.array(runs, float)
        steps, mean, spread = np.arange(1, array.shape[1] + 1), array.mean(0), array.std(0)
        name = f"{category} ({len(array)})"
        band = np.concatenate([mean + spread, (mean - spread).clip(min=0)[::-1]])
        figure.add_scatter(
            x=np.concatenate([steps, steps[::-1]]),
            y=band,
            fill="toself",
            fillcolor=_faint(colour),
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
            legendgroup=category,
        )
        figure.add_scatter(
            x=steps,
            y=mean,
            name=name,
            mode="lines",
            line={"color": colour, "width": 2.5},
            customdata=spread,
            hovertemplate=f"{category}, step %{{x}}: %{{y:.2f}} ± %{{customdata:.2f}}<extra></extra>",
            legendgroup=category,
        )
    figure.update_xaxes(title_text="step")
    figure.update_yaxes(title_text="guidance scale, mean ± standard deviation", rangemode="tozero")
    return _plain(figure, 420)


def place(candidates: Sequence[float], scale: float) -> int | None:
    """Where `scale` is among the candidates, `None` where it is none of them: the search left the step alone."""
    return next((k for k, candidate in enumerate(candidates) if abs(candidate - scale) <= 1e-5 * max(1, scale)), None)


def _scores(step: dict) -> dict:
    """Of every evaluator that was asked at a step, and combined; none where it was not searched."""
    return step["scores"] | {"combined": step["total"]} if "scores" in step else {}


def _reasons(step: dict, chosen: int | None) -> str:
    """The evaluators' scores of the chosen candidate, for the hover."""
    if "scores" not in step:
        return ", the only candidate" if "noise" in step else ", kept"
    if chosen is None:
        return ", the pipeline's own: no evaluator can tell"
    return "".join(
        f"<br>{name} {values[0][chosen]:.3g}, weight {step['weights'][name]:.2f}"
        for name, values in step["scores"].items()
    )


def _standardised(scores: np.ndarray) -> np.ndarray:
    """Each step's column to zero mean and unit spread, so that steps can be compared; NaN stays."""
    searched = ~np.isnan(scores).all(axis=0)
    out = np.full_like(scores, np.nan)
    part = scores[:, searched]
    out[:, searched] = (part - np.nanmean(part, axis=0)) / (np.nanstd(part, axis=0) + 1e-8)
    return out


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.16)"


def _plain(figure: go.Figure, height: int) -> go.Figure:
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 64, "r": 16, "t": 34, "b": 48},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        hovermode="x",  # a click anywhere on a step means that step
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0},
        font={"family": "system-ui, sans-serif", "size": 13},
        dragmode=False,
    )
    grid = {
        "gridcolor": "rgba(128,128,128,0.18)",
        "zeroline": False,
        "fixedrange": True,
        "ticks": "",
        "title_font_size": 13,
    }
    figure.update_xaxes(**grid)
    figure.update_yaxes(**grid)
    return figure
