"""The one look of every tab: theme, style sheet, script, and pictures as cards."""

import base64
import html
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..theme import CSS as TOKENS
from ..theme import THEME

__all__ = ["CSS", "HEAD", "THEME", "Card", "cards", "data", "picture", "status"]

CARD = 224  # pixels, at most, of a card's picture as sent
WEB = Path(__file__).parent / "web"
CSS = TOKENS + (WEB / "page.css").read_text(encoding="utf-8")
HEAD = f"<script>{(WEB / 'page.js').read_text(encoding='utf-8')}</script>"


@dataclass(frozen=True)
class Card:
    """A picture with a `title` and `lines` of plain text under it; `mark` is a badge, and the card stands out. `alt` is
    what it shows, in words, by default the title. It is sent as it is where it has no `address`, with a `large` one to
    be seen instead when it is opened."""

    image: Image.Image | None
    title: str
    lines: tuple[str, ...] = ()
    mark: str | None = None
    alt: str = ""
    address: str = ""
    large: str = ""


def cards(items: Iterable[Card]) -> str:
    """Cards in a grid, as HTML. All text is escaped."""
    return f'<div class="cards">{"".join(map(_card, items))}</div>'


def _card(card: Card) -> str:
    source = card.address or data(card.image)
    title, alt, *lines = (html.escape(text) for text in (card.title, card.alt or card.title, *card.lines))
    badge = f"<mark>{html.escape(card.mark)}</mark>" if card.mark else ""
    below = "".join(f"<small>{line}</small>" for line in lines)
    return (
        f'<figure class="card{" marked" if card.mark else ""}">{picture(source, alt, card.large)}'
        f"<figcaption>{badge}<b>{title}</b>{below}</figcaption></figure>"
    )


def picture(source: str, alt: str, large: str = "") -> str:
    """A picture that opens when it is clicked, as HTML; `alt` is HTML already."""
    more = f' data-large="{html.escape(large)}"' if large else ""
    return f'<button type="button" class="open"{more}><img src="{html.escape(source)}" alt="{alt}"></button>'


def data(image: Image.Image, side: int = CARD) -> str:
    """A small copy of a picture, as an address that holds it."""
    image = image.convert("RGB")
    image.thumbnail((side, side))
    content = io.BytesIO()
    image.save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def status(text: str, done: float = 0, of: float = 0) -> str:
    """One line, with a bar where `of` is above 0, as HTML. `text` is escaped."""
    bar = f'<progress value="{done:g}" max="{of:g}" aria-label="done"></progress>' if of else ""
    return f'<div class="status" role="status">{bar}<span>{html.escape(text)}</span></div>'
