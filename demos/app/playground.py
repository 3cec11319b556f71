"""The Playground tab: one prompt by the search and at a fixed scale, side by side, and why each step chose so."""

from collections.abc import Callable, Iterator
from functools import partial
from threading import Event
from typing import Any

import gradio as gr

from . import plots
from .host import MAX_PROMPT, MAX_STEPS, STEPS, Host, number, prompt, whole
from .live import Cancelled, button, errors_as_messages, live
from .looks import Card, cards, status
from .side_by_side import Progress, Result, run

MAX_SEED = 2**32 - 1  # what a browser's number still holds exactly
STATIC_SCALE, MAX_SCALE = 4.5, 100.0
EXAMPLES = (
    "two red circles above a blue square",
    "three green triangles",
    'a yellow sign saying "CAB"',
    "a pink heart",
)

# Pointing at a step of the schedule, or a click, sets the slider, and the slider moves the line in the schedule. Only a
# step where the pointer rests counts: each one costs the server pictures, and on its way the pointer crosses many.
POINT = """<script>
new MutationObserver(() => {
  const plot = document.querySelector('#schedule .js-plotly-plot');
  if (!plot || !plot.on || plot.dataset.bound) return;
  plot.dataset.bound = true;
  const input = document.querySelector('#step input[type=number]');
  const mark = (step) => window.Plotly.relayout(plot, {'shapes[0].x0': step, 'shapes[0].x1': step});
  mark(Number(input.value));
  let resting;
  const choose = (event) => {
    clearTimeout(resting);
    const step = event.points[0].x;
    if (Number(input.value) === step) return;
    Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(input, step);
    for (const kind of ['input', 'change', 'blur']) input.dispatchEvent(new Event(kind, {bubbles: true}));
  };
  plot.on('plotly_click', choose);
  plot.on('plotly_unhover', () => clearTimeout(resting));
  plot.on('plotly_hover', (event) => {
    clearTimeout(resting);
    resting = setTimeout(choose, 150, event);
  });
}).observe(document, {childList: true, subtree: true});
</script>"""
MARK = """(step) => {
  const plot = document.querySelector('#schedule .js-plotly-plot');
  if (plot && window.Plotly) window.Plotly.relayout(plot, {'shapes[0].x0': step, 'shapes[0].x1': step});
}"""


def generate(host: Host, stop: Event, text: Any, seed: Any, steps: Any, static: Any, *search: Any) -> Iterator[tuple]:
    """Yields dynamic picture, static picture, status, and what `explain` returns, as they come.

    Raises:
        gr.Error: an input that cannot be used, before anything is sampled, or what the pipeline says of it.
    """
    keep = gr.skip()
    with errors_as_messages():
        text = prompt(text)
        seed = whole(seed, "Seed", 0, MAX_SEED)
        steps = whole(steps, "Steps", 2, MAX_STEPS)
        static = number(static, "Static scale", 0, MAX_SCALE)
        guidance = host.search(*search)
        yield None, None, status("Waiting for the model …"), gr.Column(visible=False), keep, keep, "", None

        def work(report: Callable[[Progress], None]) -> Result:
            return run(host.pipe, guidance, text, seed, steps, static, host.decode, report)

        try:
            yield from (shown(host, static, update) for update in live(host.lock, stop, work))
        except Cancelled:
            yield keep, keep, status("Cancelled."), keep, keep, keep, keep, keep


def shown(host: Host, static: float, update: Progress | Result) -> tuple:
    """What the page shows of a report of `run`."""
    keep = gr.skip()
    if isinstance(update, Result):
        return *update.images, status(summary(update)), *explain(host, update)
    text = f"Step {update.done} of {update.steps}, dynamic {update.scale:g}, static {static:g}"
    line = status(text, update.done, update.steps)
    return *(update.images or (keep, keep)), line, keep, keep, keep, keep, keep


def summary(result: Result) -> str:
    """What was done, in a sentence."""
    scales = result.trace.scales[:, 0]
    disputed = int(result.trace.disputed.sum())
    searched = sum("favourites" in step for step in result.trace.steps)
    dispute = f" The evaluators disagreed at {disputed} of {searched} searched steps." if disputed else ""
    return (
        f"Dynamic: mean scale {scales.mean():.1f}, from {scales.min():g} to {scales.max():g}. "
        f"Static: {result.static:g}. Same prompt, same noise.{dispute}"
    )


def explain(host: Host, result: Result) -> tuple:
    """The explanation made visible, schedule, step slider at a searched step in the middle, its candidates, result."""
    steps = result.trace.steps
    searched = [i for i, step in enumerate(steps, start=1) if "scores" in step] or [1]
    step = min(searched, key=lambda i: abs(i - len(steps) / 2))
    slider = gr.Slider(maximum=len(steps), value=step)
    figure = plots.schedule(result.trace, result.static)
    return gr.Column(visible=True), figure, slider, candidates(host, result, step), result


def candidates(host: Host, result: Result | None, step: Any) -> str:
    """What each candidate scale would have made of step `step` (from 1), as HTML; the one chosen is marked."""
    if result is None:
        return ""
    with errors_as_messages():
        index = whole(step, "Step", 1, len(result.trace.steps)) - 1
        record = result.trace.to_dict()["steps"][index]
        scales = result.trace.candidates
        held = "scores" not in record
        used = plots.place(scales, record["scale"][0])
        items = []
        for k, (scale, image) in enumerate(zip(scales, host.decode(result.denoised(index)), strict=True)):
            lines = [] if held else [f"{name} {said(rows[0], k, used)}" for name, rows in record["scores"].items()]
            if not held and record["total"][0][k] is not None:
                lines.append(f"combined {record['total'][0][k]:+.2f}")
            mark = ("kept" if held and "noise" not in record else "chosen") if k == used else None
            items.append(Card(image, f"scale {scale:g}", tuple(lines), mark))
        return cards(items)


def said(scores: list[float | None], k: int, chosen: int | None) -> str:
    """The score of candidate `k` in words: that of the chosen one as it is, of the others what they have more or less,
    for all may be alike in the digits that one reads. Without a chosen one, with the digits that tell them apart."""
    score, own = scores[k], None if chosen is None else scores[chosen]
    if score is None:
        return "—"
    if own is not None:
        return f"{own:.4g}" if k == chosen else f"{score - own:+.2g}".replace("-", "−")
    values = {value for value in scores if value is not None}
    digits = next((n for n in range(3, 9) if len({f"{value:.{n}g}" for value in values}) == len(values)), 9)
    return f"{score:.{digits}g}"


def tab(host: Host) -> None:
    """Builds the tab inside the `gr.Blocks` in force."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            text = gr.Textbox(EXAMPLES[0], label="Prompt", lines=2, max_length=MAX_PROMPT, elem_id="prompt")
            if host.embedded:
                gr.Examples([[example] for example in EXAMPLES], [text], label="The embedded model knows such scenes")
            with gr.Row():
                go = gr.Button("Generate", variant="primary", elem_id="generate", min_width=120)
                stop = gr.Button("Cancel", elem_id="cancel", min_width=120)
            with gr.Row():
                seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED, min_width=120)
                static = gr.Number(STATIC_SCALE, label="Static scale", minimum=0, maximum=MAX_SCALE, min_width=120)
            steps = gr.Slider(2, MAX_STEPS, STEPS, step=1, label="Steps", elem_id="steps")
            with gr.Accordion("The search", open=False):
                search = host.controls()
                gr.Markdown("A weight of 0 leaves an evaluator out.", elem_classes="note")
        with gr.Column(scale=5, min_width=320):
            with gr.Row():
                dynamic_picture = _picture("**Dynamic** scale", "dynamic")
                static_picture = _picture("**Static** scale", "static")
            line = gr.HTML(status("Ready."), elem_id="status")
            with gr.Column(visible=False, elem_id="why") as why:
                figure = gr.Plot(show_label=False, elem_id="schedule", container=False)
                step = gr.Slider(1, STEPS, 1, step=1, label="Step, also by pointing at the schedule", elem_id="step")
                gallery = gr.HTML(elem_id="candidates")
                gr.Markdown(
                    "What the picture would become by each candidate scale, as predicted at this step. The search took "
                    "the marked one, or kept it from the step before; under the others stands how far their scores "
                    "differ from its. The colours above compare the candidates of a step with each other, brighter is "
                    "better; a ring is what an evaluator by itself would have taken.",
                    elem_classes="note",
                )
    result = gr.State()
    button(
        [go.click, text.submit],
        stop,
        partial(generate, host),
        [text, seed, steps, static, *search],
        [dynamic_picture, static_picture, line, why, figure, step, gallery, result],
        line,
        "pipeline",
    )
    step.change(
        partial(candidates, host),
        [result, step],
        gallery,
        trigger_mode="always_last",
        show_progress="hidden",
        api_visibility="private",
    )
    step.change(None, step, None, js=MARK)


def _picture(heading: str, name: str) -> gr.Image:
    with gr.Column(min_width=150):
        gr.Markdown(heading, elem_classes="heading")
        return gr.Image(
            show_label=False,
            elem_id=name,
            elem_classes="picture",
            format="png",
            interactive=False,
            buttons=["download", "fullscreen"],
        )
