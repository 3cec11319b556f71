"""Finished pictures and those on the way, as HTML: side by side or under a slider, and what was made before."""

import html
from collections.abc import Sequence
from typing import Any

from PIL import Image

from .looks import data, picture
from .methods import METHODS
from .runs import Picture, Run
from .settings import Settings
from .visits import Files, Kept

SIDES = ("left", "right")
ORDINALS = ("first", "second", "third", "fourth")
EMPTY = "<p>Write what to draw and press Generate. The same noise then becomes a picture by each way of guidance.</p>"
# What is clicked in a part of the page that is written in HTML goes to Python as its `data-pick`.
PICK = """element.addEventListener('click', (event) => {
  const chosen = event.target.closest('[data-pick]');
  if (chosen) trigger('select', {pick: chosen.dataset.pick});
});"""


def shot(name: str, side: str, source: str, alt: str, facts: str = "", below: str = "", large: str = "") -> str:
    """One picture of the stage; `alt` is plain text, `below` HTML."""
    body = picture(source, html.escape(alt), large) if source else '<div class="blank"></div>'
    return (
        f'<figure class="shot {side}"><figcaption><b>{html.escape(METHODS[name].label)}</b> '
        f"<small>{html.escape(facts)}</small></figcaption>{body}{below}</figure>"
    )


def pair(shots: Sequence[str], strip: str = "") -> str:
    """The stage, as HTML."""
    if not shots:
        return f'<div class="stage empty">{EMPTY}</div>'
    slider = '<input class="cut" type="range" min="0" max="100" value="50" aria-label="Where the left picture ends">'
    two = "two" if len(shots) == 2 else "one"
    inside = f'<div class="pair">{"".join(shots)}{slider if two == "two" else ""}</div>'
    return f'<div class="stage {two}">{inside}{strip}</div>'


def under_way(settings: Settings, latest: dict[int, list[Image.Image]]) -> str:
    """The stage while a run is under way: of each method, what its first picture is going to be; place to images."""
    shots = []
    for place, name in enumerate(settings.methods):
        images = latest.get(place)
        alt = f"{settings.prompt}, by {METHODS[name].label}, on the way"
        shots.append(shot(name, SIDES[place], data(images[0], 512) if images else "", alt, "…"))
    return pair(shots)


def shown(kept: Kept, row: int) -> str:
    """The stage with the pictures of one seed of a run, and the others below."""
    run: Run = kept.what
    width = len(run.settings.methods)
    files = kept.files[row * width : (row + 1) * width]
    shots = [
        shot(
            one.method,
            SIDES[place],
            file.picture,
            f"{run.settings.prompt}, by {METHODS[one.method].label}, seed {one.seed}",
            facts(one),
            f'<div class="links">{links(file, METHODS[one.method].label)}</div>',
        )
        for place, (one, file) in enumerate(zip(run.rows[row], files, strict=True))
    ]
    return pair(shots, strip(kept, row) if len(run.rows) > 1 else "")


def facts(one: Picture) -> str:
    """What a picture took, in a few words."""
    scales = one.trace.scales[:, 0]
    low, high = float(scales.min()), float(scales.max())
    scale = f"scale {low:g}" if low == high else f"mean scale {float(scales.mean()):.1f}"
    told = [scale, f"{one.passes} passes"]
    if one.tried is not None:
        place, scores = one.tried
        told.append(f"the {ORDINALS[place]} of {len(scores)}")
    return " · ".join(told)


def links(file: Files, label: str) -> str:
    """What of a picture can be taken home, as HTML."""
    offered = (("PNG", file.picture, ".png"), ("Trace", file.trace, "_trace.json"))
    return "".join(
        f'<a href="{html.escape(where)}" download="{html.escape(file.name + ending)}" '
        f'aria-label="Download the {kind} of {html.escape(label)}">↓ {kind}</a>'
        for kind, where, ending in offered
    )


def strip(kept: Kept, row: int) -> str:
    """The pictures of every seed of a run, to choose among, as HTML."""
    run: Run = kept.what
    width = len(run.settings.methods)
    items = []
    for place, pictures in enumerate(run.rows):
        images = "".join(f'<img src="{file.thumb}" alt="">' for file in kept.files[place * width : (place + 1) * width])
        pressed = "true" if place == row else "false"
        items.append(
            f'<button type="button" data-pick="{place}" aria-pressed="{pressed}"><span>{images}</span>'
            f"seed {pictures[0].seed}</button>"
        )
    return f'<div class="strip" role="group" aria-label="Pictures of this run">{"".join(items)}</div>'


def history(made: Sequence[Kept], current: str | None = None) -> str:
    """What a visitor has made, the newest first, to choose among, as HTML; empty where there is nothing to choose."""
    if len(made) < 2:
        return ""
    items = []
    for kept in reversed(made):
        settings: Settings = kept.what.settings
        title = html.escape(settings.prompt)
        labels = html.escape(" and ".join(METHODS[name].label for name in settings.methods))
        images = "".join(f'<img src="{file.thumb}" alt="">' for file in kept.files[: len(settings.methods)])
        pressed = "true" if kept.id == current else "false"
        items.append(
            f'<button type="button" data-pick="{kept.id}" aria-pressed="{pressed}" title="{title}"><span>{images}'
            f"</span><b>{title}</b>{labels}</button>"
        )
    return (
        f'<h2>Made before</h2><div class="strip history" role="group" aria-label="Made before">{"".join(items)}</div>'
    )


def picked(event: Any) -> str:
    """What a click in HTML has chosen, of a Gradio event; empty where it says nothing."""
    value = getattr(event, "_data", None)
    return str(value.get("pick", "")) if isinstance(value, dict) else ""
