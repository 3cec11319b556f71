"""Interactive plots of guidance schedules. Colours of text and grid come from the page, see `web/page.css`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from guidance import GuidanceTrace

LEFT, RIGHT = "#7c6cf0", "#e08a1e"  # as in `web/page.css`; both readable on white and on near black
SERIES = ("#7c6cf0", "#e08a1e", "#12a594", "#e5484d", "#3e8fe0", "#b5a000", "#d6409f", "#6f7f90")
SCHEDULE_HEIGHT, LABEL_HEIGHT, MARGIN = 200, 17, 90  # pixels


@dataclass(frozen=True)
class Row:
    """Scores of candidates at the steps where they were asked for.

    Attributes:
        labels: of the candidates.
        scores: ``(candidates, steps)``, NaN where there is none.
        chosen: at each step which candidate was taken, `None` for none of them.
        alone: which one this evaluator by itself would have taken, where that is another.
    """

    name: str
    noun: str
    labels: list[str]
    scores: np.ndarray
    chosen: list[int | None]
    alone: list[int | None]


def schedule(traces: Mapping[str, GuidanceTrace], explained: str) -> go.Figure:
    """The scale at each step of each trace, of one sample; below, of the one `explained`, every candidate's score by
    each evaluator that was asked and combined, the chosen one marked, and a ring where an evaluator by itself would
    have chosen another. Steps count from 1."""
    steps = traces[explained].to_dict()["steps"]
    rows = rows_of(traces[explained])
    heights = [LABEL_HEIGHT * max(5, len(row.labels)) for row in rows]
    figure = make_subplots(
        rows=1 + len(rows),
        cols=1,
        shared_xaxes=True,
        vertical_spacing=min(0.045, 0.3 / (1 + len(rows))),
        row_heights=[SCHEDULE_HEIGHT, *heights],
    )
    for (label, trace), colour, dash in zip(traces.items(), (LEFT, RIGHT), ("solid", "dash"), strict=False):
        own = trace.to_dict()["steps"]
        figure.add_scatter(
            x=list(range(1, len(own) + 1)),
            y=[step["scale"][0] for step in own],
            name=label,
            mode="lines+markers",
            line={"color": colour, "width": 2.5, "shape": "hvh", "dash": dash},
            marker={"size": [8 if is_searched(step) else 0 for step in own], "color": colour, "line": {"width": 0}},
            text=[_reasons(trace.candidates, step) for step in own],
            hovertemplate=f"{label}, step %{{x}}: scale <b>%{{y:.4~g}}</b>%{{text}}<extra></extra>",
        )
    numbers = list(range(1, len(steps) + 1))
    for place, row in enumerate(rows, start=2):
        _heat(figure, numbers, row, place)
    figure.update_yaxes(title_text="guidance scale", rangemode="tozero", row=1, col=1)
    figure.update_xaxes(range=[0.4, len(steps) + 0.6])
    figure.update_xaxes(title_text="step", row=1 + len(rows), col=1)
    figure.add_shape(
        type="line", x0=0, x1=0, y0=0, y1=1, yref="paper", line={"width": 1.5, "color": LEFT, "dash": "dot"}
    )
    return _plain(figure, SCHEDULE_HEIGHT + sum(heights) + MARGIN)


def rows_of(trace: GuidanceTrace) -> list[Row]:
    """What evaluators said of draws of noise, if they were asked, and of scales."""
    steps = trace.to_dict()["steps"]
    numbers = [f"{k}" for k in range(1, 1 + max((len(s["noise_total"][0]) for s in steps if "noise" in s), default=0))]
    taken = [step["noise"][0] if "noise" in step else None for step in steps]
    rows = _rows(steps, "noise_scores", "noise_total", "draw", numbers, taken)
    scales = [f"{scale:g}" for scale in trace.candidates]
    chosen = [place(trace.candidates, step["scale"][0]) if "scores" in step else None for step in steps]
    return rows + _rows(steps, "scores", "total", "scale", scales, chosen)


def _rows(steps: list[dict], key: str, total: str, noun: str, labels: list[str], chosen: list[int | None]) -> list[Row]:
    names = list(dict.fromkeys(name for step in steps for name in step.get(key, ())))
    found = []
    for name in [*names, "combined"] if names else []:
        scores = np.full((len(labels), len(steps)), np.nan)
        alone: list[int | None] = [None] * len(steps)
        for column, step in enumerate(steps):
            told = step.get(total) if name == "combined" else step.get(key, {}).get(name)
            if told is None:
                continue
            scores[:, column] = values = np.array(told[0], float)
            finite = values[np.isfinite(values)]
            if name != "combined" and len(set(finite.tolist())) > 1:  # it tells them apart
                best = int(np.nanargmax(values))
                alone[column] = best if best != chosen[column] else None
        found.append(Row(name, noun, labels, scores, chosen, alone))
    return found


def _heat(figure: go.Figure, numbers: list[int], row: Row, at: int) -> None:
    figure.add_heatmap(
        x=numbers,
        y=row.labels,
        z=_standardised(row.scores),
        customdata=row.scores,
        name=row.name,
        colorscale="Viridis",
        showscale=False,
        xgap=1,
        ygap=1,
        hovertemplate=f"{row.name} at step %{{x}}, {row.noun} %{{y}}: %{{customdata:.3g}}<extra></extra>",
        row=at,
        col=1,
    )
    for name, places, marker in (
        ("chosen", row.chosen, {"color": "white", "line": {"color": "black", "width": 1.5}}),
        (f"favourite of {row.name}", row.alone, {"symbol": "circle-open", "color": "white", "line": {"width": 1.5}}),
    ):
        told = [(n, row.labels[k]) for n, k in zip(numbers, places, strict=True) if k is not None]
        figure.add_scatter(
            x=[n for n, _ in told],
            y=[label for _, label in told],
            name=name,
            mode="markers",
            marker={"size": 8, **marker},
            hoverinfo="skip",
            showlegend=False,
            row=at,
            col=1,
        )
    title = row.name if row.noun == "scale" else f"{row.name}<br>of draws"
    figure.update_yaxes(type="category", dtick=1, title_text=title, tickfont_size=11, row=at, col=1)


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
            line={"width": 0, "shape": "hvh"},
            mode="lines",
            hoverinfo="skip",
            showlegend=False,
            legendgroup=category,
        )
        figure.add_scatter(
            x=steps,
            y=mean,
            name=name,
            mode="lines",
            line={"color": colour, "width": 2.5, "shape": "hvh"},
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


def is_searched(step: dict) -> bool:
    return "scores" in step or "noise" in step


def _reasons(candidates: Sequence[float], step: dict) -> str:
    """The evaluators' scores of the chosen candidate, for the hover."""
    if "scores" not in step:
        return f", draw {step['noise'][0] + 1}" if "noise" in step else ", kept" if candidates else ""
    chosen = place(candidates, step["scale"][0])
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
