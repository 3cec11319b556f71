"""The one look of every tab: theme, style sheet, and pictures as cards."""

import base64
import html
import io
from collections.abc import Iterable
from dataclasses import dataclass

import gradio as gr
from PIL import Image

CARD = 224  # pixels, at most, of a card's picture as sent

THEME = gr.themes.Base(
    primary_hue=gr.themes.colors.violet,
    neutral_hue=gr.themes.colors.slate,
    radius_size=gr.themes.sizes.radius_lg,
    font=["system-ui", "sans-serif"],  # no font is fetched from elsewhere
    font_mono=["ui-monospace", "monospace"],
).set(
    body_background_fill="*neutral_50",
    body_background_fill_dark="*neutral_950",
    block_border_width="1px",
    block_shadow="none",
    body_text_color_subdued="*neutral_500",
    body_text_color_subdued_dark="*neutral_400",
    block_label_background_fill="transparent",
    block_label_background_fill_dark="transparent",
    block_label_border_width="0px",
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_500",
    button_primary_text_color="white",
)

CSS = """
:root {--around: 470px;} /* what is above and below the pictures of a study, title and tabs too */
.gradio-container > main {width: 100%; max-width: 1280px;}
.html-container {padding: 0 !important;}
#title h1 {margin: 0.5rem 0 0; font-size: 1.6rem;}
#title p {margin: 0.1rem 0 0.4rem; color: var(--body-text-color-subdued);}
.note, .note p {color: var(--body-text-color-subdued); font-size: var(--text-sm);}
#pictures .grid-wrap {height: auto; min-height: 0; max-height: none;}
#pictures .grid-container {grid-template-columns: repeat(auto-fill, minmax(128px, 1fr)); align-items: start;}
#pictures .thumbnail-item {height: auto; aspect-ratio: auto; display: block; background: var(--block-background-fill);}
#pictures img {image-rendering: pixelated; aspect-ratio: 1; height: auto;}
#pictures .caption-label {position: static; max-width: none; width: 100%; border: 0; text-align: left;
  white-space: normal; background: none;}
.picture {aspect-ratio: 1; background: var(--background-fill-secondary);}
.picture img {width: 100%; height: 100%; object-fit: contain; image-rendering: pixelated;}
.heading p {margin: 0; color: var(--body-text-color-subdued);}
.heading strong {color: var(--body-text-color);}
.js-plotly-plot svg text {fill: var(--body-text-color) !important;}
.js-plotly-plot .modebar {display: none;}
.js-plotly-plot .hoverlayer text {fill: white !important;}
.cards {display: grid; grid-template-columns: repeat(auto-fill, minmax(128px, 1fr)); gap: 12px;}
.card {margin: 0; border: 1px solid var(--border-color-primary); border-radius: var(--radius-lg); overflow: hidden;
  background: var(--block-background-fill);}
.card img {width: 100%; aspect-ratio: 1; object-fit: contain; image-rendering: pixelated; display: block;
  background: var(--background-fill-secondary);}
.card figcaption {padding: 8px 10px; font-size: var(--text-sm); line-height: 1.45; color: var(--body-text-color);}
.card b {font-weight: 600;}
.card small {display: block; font-size: inherit; color: var(--body-text-color-subdued);
  font-variant-numeric: tabular-nums;}
.card.marked {border-color: var(--primary-500); box-shadow: 0 0 0 2px var(--primary-500);}
.card mark {float: right; background: var(--primary-600); color: white; border-radius: 999px; padding: 0 8px;
  font-size: var(--text-xs); line-height: 1.7;}
.facts {display: grid; grid-template-columns: repeat(auto-fit, minmax(min(300px, 100%), 1fr)); gap: 12px;
  margin-bottom: 16px;}
.fact {border: 1px solid var(--border-color-primary); border-radius: var(--radius-lg); padding: 10px 14px;
  background: var(--block-background-fill);}
.fact small {display: block; color: var(--body-text-color-subdued); font-size: var(--text-sm);}
.fact b {font-size: var(--text-lg); font-weight: 500; overflow-wrap: anywhere;}
.status {display: flex; align-items: center; gap: 12px; min-height: 24px; font-size: var(--text-sm);
  color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums;}
.status progress {flex: 0 0 180px; height: 6px; border: 0; border-radius: 999px; overflow: hidden; appearance: none;
  background: var(--border-color-primary);}
.status progress::-webkit-progress-bar {background: var(--border-color-primary);}
.status progress::-webkit-progress-value {background: var(--primary-500);}
.status progress::-moz-progress-bar {background: var(--primary-500);}
"""


@dataclass(frozen=True)
class Card:
    """A picture with a `title` and `lines` of plain text under it; `mark` is a badge, and the card stands out."""

    image: Image.Image
    title: str
    lines: tuple[str, ...] = ()
    mark: str | None = None


def cards(items: Iterable[Card]) -> str:
    """Cards in a grid, as HTML. All text is escaped."""
    return f'<div class="cards">{"".join(map(_card, items))}</div>'


def _card(card: Card) -> str:
    image = card.image.convert("RGB")
    image.thumbnail((CARD, CARD))
    data = io.BytesIO()
    image.save(data, "PNG")
    source = f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
    title, *lines = (html.escape(text) for text in (card.title, *card.lines))
    badge = f"<mark>{html.escape(card.mark)}</mark>" if card.mark else ""
    below = "".join(f"<small>{line}</small>" for line in lines)
    return (
        f'<figure class="card{" marked" if card.mark else ""}"><img src="{source}" alt="{title}">'
        f"<figcaption>{badge}<b>{title}</b>{below}</figcaption></figure>"
    )


def status(text: str, done: int = 0, of: int = 0) -> str:
    """One line, with a bar where `of` is above 0, as HTML. `text` is escaped."""
    bar = f'<progress value="{done}" max="{of}"></progress>' if of else ""
    return f'<div class="status" role="status">{bar}<span>{html.escape(text)}</span></div>'
