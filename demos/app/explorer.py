"""The Explorer tab: many prompts by one search, and the schedules that it chose for each kind of them."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from threading import Event
from typing import Any

import gradio as gr
import numpy as np

from guidance import DenoisingStep, GreedySearch
from tinyworld.captions import CATEGORIES, caption, parse_caption, sample_spec

from ..generate import denoise
from . import plots
from .host import MAX_STEPS, STEPS, Host, prompt, whole
from .live import Cancelled, button, errors_as_messages, live
from .looks import status
from .playground import MAX_SEED

BATCH, MAX_PROMPTS, MAX_EACH = 4, 60, 12


def prompts_of(text: Any, categories: Any, each: Any, seed: int) -> list[tuple[str, str]]:
    """``(category, prompt)`` pairs: those of `text`, one a line, or where it is blank `each` held-out captions of each
    of the `categories`.

    Raises:
        ValueError: there are none, or too many.
    """
    lines = [prompt(line) for line in str(text or "").split("\n") if line.strip()]
    if len(lines) > MAX_PROMPTS:
        raise ValueError(f"Prompts must be at most {MAX_PROMPTS}, got {len(lines)}")
    if lines:
        return [(category_of(line), line) for line in lines]
    if not categories or not set(categories) <= set(CATEGORIES):
        raise ValueError("Give prompts, or choose at least one category")
    rng = np.random.default_rng(seed)
    each = whole(each, "Prompts of each category", 1, MAX_EACH)
    return [
        (name, caption(sample_spec(rng, "test", name)))
        for name in CATEGORIES
        if name in categories
        for _ in range(each)
    ]


def category_of(text: str) -> str:
    """Of a tinyworld caption its category, of anything else "other"."""
    try:
        return parse_caption(text).category
    except ValueError:
        return "other"


class Watched:
    """`search`, with a `report` at every step, which may stop it by what it raises."""

    def __init__(self, search: GreedySearch, report: Callable[[None], None]) -> None:
        self.guidance, self.report = search, report
        self.scales, self.check, self.noises = search.scales, search.check, search.noises

    def decide(self, step: DenoisingStep) -> tuple:
        self.report(None)
        return self.guidance.decide(step)


def explore(
    host: Host, stop: Event, text: Any, categories: Any, each: Any, seed: Any, steps: Any, *search: Any
) -> Iterator[tuple[list, Any, str]]:
    """Yields gallery (picture and prompt), plot and status after every batch.

    Raises:
        gr.Error: an input that cannot be used, before anything is sampled, or what the pipeline says of it.
    """
    with errors_as_messages():
        seed = whole(seed, "Seed", 0, MAX_SEED)
        jobs = prompts_of(text, categories, each, seed)
        steps = whole(steps, "Steps", 2, MAX_STEPS)
        guidance = host.search(*search)
        gallery: list[tuple[Any, str]] = []
        scales: dict[str, list[list[float]]] = defaultdict(list)
        yield [], None, status("Waiting for the model …")

        def work(report: Callable[[Any], None]) -> None:
            watched = Watched(guidance, report)
            for first in range(0, len(jobs), BATCH):
                batch = jobs[first : first + BATCH]
                seeds = [seed + i for i in range(first, first + len(batch))]
                images, trace = denoise(host.pipe, watched, [line for _, line in batch], seeds, steps)
                report((images, trace.scales.T.tolist()))

        try:
            for update in live(host.lock, stop, work):
                if update is None:
                    continue
                images, chosen = update
                batch = jobs[len(gallery) : len(gallery) + len(images)]
                for (category, line), image, schedule in zip(batch, images, chosen, strict=True):
                    gallery.append((image, line))
                    scales[category].append(schedule)
                line = status(f"{len(gallery)} of {len(jobs)} pictures", len(gallery), len(jobs))
                yield [*gallery], plots.mean_schedules(scales), line
        except Cancelled:
            yield gr.skip(), gr.skip(), status("Cancelled.")


def tab(host: Host) -> None:
    """Builds the tab inside the `gr.Blocks` in force."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            categories = gr.CheckboxGroup(
                [(name.replace("_", " "), name) for name in CATEGORIES],
                value=["binding", "count", "relation"] * host.embedded,
                label="Categories",
                visible=host.embedded,
            )
            each = gr.Slider(1, MAX_EACH, 4, step=1, label="Prompts of each category", visible=host.embedded)
            text = gr.Textbox(
                label="Own prompts instead, one a line" if host.embedded else "Prompts, one a line",
                lines=4,
                max_lines=10,
                max_length=20_000,
                elem_id="prompts",
            )
            with gr.Row():
                go = gr.Button("Explore", variant="primary", elem_id="explore", min_width=120)
                stop = gr.Button("Cancel", min_width=120)
            seed = gr.Number(0, label="Seed of the first picture", precision=0, minimum=0, maximum=MAX_SEED)
            steps = gr.Slider(2, MAX_STEPS, STEPS, step=1, label="Steps")
            with gr.Accordion("The search", open=False):
                search = host.controls()
        with gr.Column(scale=5, min_width=320):
            line = gr.HTML(status("Ready. Every prompt has noise of its own."))
            figure = gr.Plot(show_label=False, elem_id="schedules", container=False)
            gallery = gr.Gallery(
                show_label=False,
                elem_id="pictures",
                columns=6,
                height="auto",
                format="png",
                object_fit="contain",
                buttons=["download", "fullscreen"],
                interactive=False,
            )
    button(
        [go.click],
        stop,
        partial(explore, host),
        [text, categories, each, seed, steps, *search],
        [gallery, figure, line],
        line,
        "pipeline",
    )
