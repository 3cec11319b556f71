"""The page of a preference study: two pictures side by side, a question, three answers. It serves no file: pictures are
in the page itself, without a name or metadata that would tell what made them."""

import base64
import hashlib
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from ..manifest import inside
from . import report, report_page
from .preference import votes_needed
from .votes import QUESTIONS, Task, VoteStore

SPOILT_GRID = 16  # an attention check shuffles so many by so many tiles of a picture
ANSWERS = {"left": "Left", "tie": "Tie", "right": "Right"}
STYLE = """<style>
.study-page, .study-report {--soft: color-mix(in srgb, var(--body-text-color) 65%, transparent);}
.study-page {max-width: 900px; margin: 0 auto; gap: 14px !important;}
.study-page .html-container, .study-report .html-container {padding: 0 !important;}
.question {text-align: center; color: var(--body-text-color);}
.question h3 {margin: 0 0 .25rem; font-size: 1.15rem; font-weight: 600; color: inherit;}
.question p {margin: 0; overflow-wrap: anywhere; color: inherit;}
/* So low that the answers are on the screen with them. */
.pair {display: grid; grid-template-columns: 1fr 1fr; gap: 12px; margin: 0 auto;
  max-width: max(300px, calc(2 * (100vh - var(--around, 330px))));}
.pair img {width: 100%; aspect-ratio: 1; object-fit: contain; border-radius: 12px; display: block;
  background: var(--background-fill-secondary); border: 1px solid var(--border-color-primary);}
.pair img.pixels {image-rendering: pixelated;}
#study-answers {flex-wrap: nowrap; gap: 12px;}
#study-answers button {min-width: 0; min-height: 52px;}
#study-answers button.chosen {background: var(--primary-600); color: white;}
/* Where a finger touched, the browser keeps `hover`: the next pair would have one answer in another colour. */
@media not all and (hover: hover) {#study-answers button.open:is(:hover, :focus, :active) {
  background: var(--button-secondary-background-fill); color: var(--button-secondary-text-color);
  border-color: var(--button-secondary-border-color); box-shadow: none; transform: none;}}
#study-back, #study-refresh {align-self: center; width: auto; min-width: 120px;}
#study-refresh {align-self: start;}
.report p {margin: 0 0 .5rem;}
.study-note {color: var(--soft); font-size: var(--text-sm); text-align: center;}
@media (pointer: coarse), (max-width: 600px) {.study-keys {display: none;}}
.report {color: var(--body-text-color); line-height: 1.5;}
.report table {border-collapse: collapse; margin: .25rem 0 .75rem; font-variant-numeric: tabular-nums;}
.report th, .report td {text-align: left; font-weight: normal; padding: .35rem 1.25rem .35rem 0;}
.report tr {border-bottom: 1px solid var(--border-color-primary);}
.report th, .report small, .report .part td:first-child {color: var(--soft);}
.report small {margin-left: .4rem;}
.report .part td:first-child {padding-left: 1rem;}
.report h3 {margin: 1rem 0 .25rem; font-size: 1.1rem; font-weight: 600; text-transform: capitalize;}
</style>"""
# What is on the screen, so that a second click on a slow line is no vote on what has not been seen yet.
SHOWN = "(state, shown) => [state, document.querySelector('.question')?.dataset.shown ?? '']"
KEYS = """() => {
  if (window.studyKeys) return;
  window.studyKeys = true;
  const keys = {ArrowLeft: 'left', t: 'tie', ArrowRight: 'right', 1: 'left', 2: 'tie', 3: 'right', Backspace: 'back'};
  document.addEventListener('keydown', (event) => {
    const typing = event.target.closest('input, textarea, select, [contenteditable], [role=tablist]');
    const button = document.getElementById('study-' + keys[event.key.length > 1 ? event.key : event.key.toLowerCase()]);
    if (typing || event.repeat || event.ctrlKey || event.altKey || event.metaKey || !button?.offsetParent) return;
    event.preventDefault();
    button.click();
  });
}"""


def picture(path: Path, spoilt: bool = False) -> str:
    """An ``img`` element with the picture in it; `spoilt`, with its tiles shuffled."""
    image = Image.open(path).convert("RGB")
    if spoilt:
        side = max(1, min(image.size) // SPOILT_GRID)
        tiles = np.asarray(image)[: image.height // side * side, : image.width // side * side]
        rows, columns = tiles.shape[0] // side, tiles.shape[1] // side
        tiles = tiles.reshape(rows, side, columns, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)
        tiles = np.random.default_rng(0).permutation(tiles).reshape(rows, columns, side, side, 3)
        image = Image.fromarray(tiles.swapaxes(1, 2).reshape(rows * side, columns * side, 3))
    data = io.BytesIO()
    image.save(data, "PNG")
    look = "smooth" if min(image.size) >= 256 else "pixels"
    return f'<img class="{look}" alt="" src="data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}">'


def pair(folder: Path, task: Task) -> str:
    """The two pictures of a question, as HTML.

    Raises:
        ValueError: a picture lies outside the study's folder or is not there.
    """
    left = picture(inside(folder, task.left), task.check == "left")
    right = picture(inside(folder, task.right), task.check == "right")
    return f'<div class="pair">{left}{right}</div>'


def asked(task: Task) -> str:
    """The question above the pictures, as HTML."""
    return question(QUESTIONS[task.question], task.prompt, f"{task.assignment}:{task.question}")


def question(title: str, line: str, shown: str = "") -> str:
    """A question, or what stands in its place, as HTML."""
    title, line, shown = (html.escape(text) for text in (title, line, shown))
    return f'<div class="question" data-shown="{shown}"><h3>{title}</h3><p>{line}</p></div>'


class Sitting:
    """What the page's buttons do, on one store. A rater's `state` is their id and the place of the question shown."""

    def __init__(self, store: VoteStore, named: bool) -> None:
        self.store, self.named = store, named

    def start(self, kept: str | None, request: gr.Request) -> tuple:
        """A rater comes, by the link that they were sent or back in the same browser."""
        rater = request.query_params.get("rater") or kept
        if not isinstance(rater, str) or not self.store.knows(rater, self.named):
            if self.named:
                return (kept, *self.screen(None, question("By invitation", "Please open the link that you were sent.")))
            rater = self.store.new_rater()
        return (rater, *self.show(rater))

    def vote(self, choice: str, state: tuple[str, int] | None, shown: str) -> tuple:
        """Keeps the vote if its question is the one on the screen, and goes on."""
        if state is None:
            return self.screen(None, question("Not open", "Please load this page again."))
        rater, place = state
        task, _ = self.store.task(rater, place)
        if task is None or shown != f"{task.assignment}:{task.question}":
            return self.show(rater, place, shown)
        self.store.vote(rater, task.assignment, task.question, choice)
        return self.show(rater, place + 1, shown)

    def back(self, state: tuple[str, int] | None, shown: str) -> tuple:
        """The question before, with what was chosen."""
        if state is None:
            return self.screen(None, question("Not open", "Please load this page again."))
        return self.show(state[0], max(0, state[1] - 1), shown)

    def show(self, rater: str, place: int | None = None, shown: str = "") -> tuple:
        """The question at `place`; its pictures are sent unless those of `shown`, which are on the screen, are the
        same."""
        task, place = self.store.task(rater, place)
        done, of = self.store.progress(rater)
        note, back = f"{done} of {of} pairs", place > 0
        if task is None:
            end = question("Thank you", "You have seen every pair. Your votes are kept.")
            return self.screen((rater, place), end, note=note, back=back)
        there = shown.partition(":")[0] == str(task.assignment)
        pictures = gr.skip() if there else pair(self.store.folder, task)
        return self.screen((rater, place), asked(task), pictures, note, True, task.choice, back)

    def screen(
        self,
        state: tuple[str, int] | None,
        text: str,
        pictures: Any = "",
        note: str = "",
        asks: bool = False,
        choice: str | None = None,
        back: bool = False,
    ) -> tuple:
        """The outputs of every button, in their order."""
        answers = [
            gr.Button(interactive=asks, elem_classes=["chosen"] if side == choice else ["open"]) for side in ANSWERS
        ]
        return (
            state,
            text,
            pictures,
            f'<div class="study-note">{html.escape(note)}</div>',
            *answers,
            gr.Button(interactive=back),
        )


def results(folder: Path) -> str:
    """The report as it stands, as HTML."""
    try:
        return report_page.fragment(report.whole(folder, report.read_votes(folder)))
    except ValueError as error:
        return question("No report yet", str(error))


def plan(percent: float, power: float) -> str:
    """How many votes a preference takes."""
    try:
        votes = votes_needed(percent / 100, power / 100)
    except (TypeError, ValueError):
        return "A preference from 0.1 to 99.9 %, at least 0.5 away from 50, and a certainty from 6 to 99.9 %."
    return f"**{votes:,} votes**, ties left out, on as many different prompts as can be had."


def build(
    study_folder: Path | str,
    questions: Sequence[str] = ("overall",),
    check_every: int = 12,
    named: bool = False,
    show_report: bool = True,
) -> gr.Blocks:
    """The page, to be launched, or rendered inside another: built before that, then ``.render()`` in it.

    Args:
        questions, check_every: see `VoteStore`.
        named: whether only those may vote who come by the link of an invited rater (``?rater=…``).
        show_report: whether there is a tab with the results. Who votes should not see them.

    Raises:
        ValueError: as `VoteStore`.
    """
    folder = Path(study_folder)
    sitting = Sitting(VoteStore(folder, questions, check_every), named)
    with gr.Blocks(title="Which picture is better?", analytics_enabled=False) as page:
        _html(f"{STYLE}<style>{report_page.PARTS}</style>")
        if show_report:
            with gr.Tab("Vote"):
                _vote(page, sitting)
            with gr.Tab("Report") as tab:
                _report(folder, tab)
        else:
            _vote(page, sitting)
    return page


def _vote(page: gr.Blocks, sitting: Sitting) -> None:
    store = hashlib.sha256(str(sitting.store.folder.resolve()).encode()).hexdigest()[:12]
    options: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}
    kept = gr.BrowserState(None, storage_key=f"study-{store}", secret=store)
    state, shown = gr.State(None), gr.Textbox(visible=False)
    with gr.Column(elem_classes="study-page"):
        text = _html(question("One moment", "The first pair is on its way."))
        pictures = _html()
        with gr.Row(elem_id="study-answers"):
            buttons = [
                gr.Button(text, elem_id=f"study-{side}", size="lg", interactive=False) for side, text in ANSWERS.items()
            ]
        note = _html()
        back = gr.Button("Back", elem_id="study-back", size="sm", variant="secondary", interactive=False)
        _html('<div class="study-note study-keys">Keys: ← left, T tie, → right, Backspace back</div>')
    outputs = [state, text, pictures, note, *buttons, back]
    for side, button in zip(ANSWERS, buttons, strict=True):

        def vote(state: Any, shown: str, side: str = side) -> tuple:
            return sitting.vote(side, state, shown)

        button.click(vote, [state, shown], outputs, js=SHOWN, **options)
    back.click(sitting.back, [state, shown], outputs, js=SHOWN, **options)
    page.load(sitting.start, [kept], [kept, *outputs], **options)
    page.load(None, js=KEYS)


def _report(folder: Path, tab: gr.Tab) -> None:
    options: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}
    with gr.Column(elem_classes="study-report"):
        body = _html()
        refresh = gr.Button("Refresh", elem_id="study-refresh", size="sm")
        gr.Markdown("### How many votes?")
        with gr.Row():
            rate = gr.Number(53.8, label="To find a preference of, %", minimum=0.1, maximum=99.9)
            power = gr.Number(80, label="With certainty (power), %", minimum=6, maximum=99.9)
        needed = gr.Markdown(plan(53.8, 80))
    gr.on([rate.change, power.change], plan, [rate, power], needed, **options)
    gr.on([tab.select, refresh.click], lambda: results(folder), None, body, **options)


def _html(value: str = "") -> gr.HTML:
    return gr.HTML(value, padding=False, apply_default_css=False)
