"""The page of a preference study, for Gradio: two pictures side by side, a question, four answers. What it does is in
``page.js``, which asks `server`."""

import html
import json
from pathlib import Path
from typing import Any

import gradio as gr

from . import report, report_page, server, texts
from .preference import votes_needed
from .settings import Settings
from .votes import VoteStore

HERE = Path(__file__).parent


def part(store: VoteStore) -> gr.HTML:
    """What raters see. `demos.guard` serves the ``routes`` of a page's parts."""
    said = json.dumps(texts.whole(store.settings.texts, store.settings.questions))
    # Where the browser keeps who somebody is, in this study.
    storage = json.dumps(f"study-{store.signature('browser')[:12]}")
    script = (HERE / "page.js").read_text(encoding="utf-8")
    script = f"const texts = {said}, storage = {storage};\n{script}"
    found = gr.HTML(body(store), js_on_load=script, padding=False, apply_default_css=False)
    found.routes = server.routes(store)
    return found


def body(store: VoteStore) -> str:
    """The part before anything is on it; the script fills it."""
    answers = store.settings.answers
    buttons = [f'<button type="button" id="study-{name}" data-choice="{name}" disabled></button>' for name in answers]
    return f"""<div class="study-page" id="study">
<div class="study-languages" hidden></div>
<div class="question" aria-live="polite"><h2></h2><p></p></div>
<div class="study-intro" hidden><p data-text="purpose"></p><p class="study-time"></p><p class="study-consent"></p>
<button type="button" id="study-start" class="study-main"></button></div>
<div class="pair" hidden><button type="button" id="study-zoom-left"><img alt=""></button>
<button type="button" id="study-zoom-right"><img alt=""></button></div>
<div id="study-answers"{"" if len(answers) == 4 else ' class="three"'} hidden>{"".join(buttons)}</div>
<div class="study-failed" role="alert" hidden><p></p><button type="button" id="study-again"></button></div>
<div class="study-note study-progress"></div>
<button type="button" id="study-back" hidden></button>
<div class="study-note study-zoom-hint" data-text="zoom" hidden></div>
<div class="study-note study-keys" data-text="keys" hidden></div>
<dialog class="study-zoomed"><img alt=""><button type="button" id="study-close"></button></dialog>
</div>"""


def build(study_folder: Path | str, show_report: bool = True, **settings: Any) -> gr.Blocks:
    """The page, to be launched by `guard.serve`, or rendered inside another: built before it, then ``.render()`` in it.

    Args:
        show_report: whether there is a tab with the results. Who votes should not see them.
        settings: those of `Settings`.

    Raises:
        ValueError: as `Settings` and `VoteStore`.
    """
    folder = Path(study_folder)
    store = VoteStore(folder, Settings(**settings))
    style = (HERE / "page.css").read_text(encoding="utf-8")
    title = next(iter(store.settings.texts.values()), {}).get("title", texts.ENGLISH["title"])
    with gr.Blocks(title=title, analytics_enabled=False) as page:
        _html(f'<style>{style}{report_page.PARTS}</style><h1 class="study-title">{html.escape(title)}</h1>')
        if show_report:
            with gr.Tab("Vote"):
                part(store)
            with gr.Tab("Report") as tab:
                _report(folder, tab)
        else:
            part(store)
    return page


def results(folder: Path) -> str:
    """The report as it stands, as HTML."""
    try:
        return report_page.fragment(report.whole(folder, report.read_votes(folder)))
    except ValueError as error:
        return f'<div class="report"><h2>No report yet</h2><p>{html.escape(str(error))}</p></div>'


def plan(percent: float, power: float) -> str:
    """How many votes a preference takes."""
    try:
        votes = votes_needed(percent / 100, power / 100)
    except (TypeError, ValueError):
        return "A preference from 0.1 to 99.9 %, at least 0.5 away from 50, and a certainty from 6 to 99.9 %."
    return f"**{votes:,} votes** for one of the two, on as many different prompts as can be had."


def _report(folder: Path, tab: gr.Tab) -> None:
    options: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}
    with gr.Column(elem_classes="study-report"):
        body = _html()
        refresh = gr.Button("Refresh", elem_id="study-refresh", size="sm")
        gr.Markdown("## How many votes?")
        with gr.Row():
            rate = gr.Number(53.8, label="To find a preference of, %", minimum=0.1, maximum=99.9)
            power = gr.Number(80, label="With certainty (power), %", minimum=6, maximum=99.9)
        needed = gr.Markdown(plan(53.8, 80))
    gr.on([rate.change, power.change], plan, [rate, power], needed, **options)
    gr.on([tab.select, refresh.click], lambda: results(folder), None, body, **options)


def _html(value: str = "") -> gr.HTML:
    return gr.HTML(value, padding=False, apply_default_css=False)
