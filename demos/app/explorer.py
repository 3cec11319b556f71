"""The Explorer tab: many prompts by one way of guidance, and the schedules that it chose for each kind of them."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import gradio as gr
import numpy as np

from tinyworld.captions import CATEGORIES, caption, parse_caption, sample_spec

from ..denoising import Made, denoise
from . import controls, plots
from .host import EXAMPLES, Host
from .live import Cancelled, Stop, Waiting, button, can_start, errors_as_messages, live
from .looks import Card, cards, status
from .methods import METHODS, draws_noise, guidance_of
from .runs import watching
from .settings import MAX_SEED, MAX_STEPS, STEPS, Settings, prompt, whole
from .visits import Files

WHERE = "explorer"
BATCH, MAX_PROMPTS, MAX_EACH = 4, 60, 12
INPUTS = 10  # and a weight for each evaluator
SETS = {
    "One to five circles": ["one red circle", *(f"{n} red circles" for n in ("two", "three", "four", "five"))],
    "Where things are": [f"a blue star {side} a pink ring" for side in ("left of", "right of", "above", "below")],
    "Signs": ['a red sign saying "CAB"', 'a blue sign saying "HEN"', 'a green sign saying "TO"'],
}
LABELS = {"binding": "one object", "two_kind": "two kinds", "text": "word"}  # the others are called what they are
READY = "Ready. Every prompt has noise of its own."


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


class Explorer:
    """What the tab's inputs do."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def explore(
        self, stop: Stop, visitor: Any, text: Any, categories: Any, each: Any, seed: Any, steps: Any, method: Any,
        *search: Any,
    ) -> Iterator[tuple]:  # fmt: skip
        """Yields pictures as HTML, plot and status after every batch. `search` are scales, every, draws, tolerance and
        weights.

        Raises:
            gr.Error: an input that cannot be used, before anything is sampled, or what the pipeline says of it.
        """
        host = self.host
        with errors_as_messages():
            seed = whole(seed, "Seed", 0, MAX_SEED)
            jobs = prompts_of(text, categories, each, seed)
            settings = searched(host, jobs[0][1], steps, method, search)
            guidance = guidance_of(method, settings, host.default.evaluators, host.judges)
            noises = 1 + draws_noise(settings, host.default.evaluators)
            found: list[tuple[str, Files, int]] = []
            scales: dict[str, list[list[float]]] = defaultdict(list)
            yield "", plots.mean_schedules({}), status("Starting …")

            def work(report: Callable[[Any], None]) -> None:
                for first in range(0, len(jobs), BATCH):
                    batch = jobs[first : first + BATCH]
                    seeds = [seed + i for i in range(first, first + len(batch))]
                    how, _ = watching(guidance, lambda seen: report(None), noises, record=False)
                    made = denoise(host.pipe, how, [line for _, line in batch], seeds, settings.steps)
                    report(Batch(batch, seeds, made, (first + len(batch)) / len(jobs)))

            try:
                for update in live(host.turns, stop, work, settings.steps * len(jobs)):
                    if isinstance(update, Waiting):
                        yield gr.skip(), gr.skip(), status(str(update))
                    elif isinstance(update, Batch):
                        self.keep(visitor, settings, method, update, scales, found)
                        line = status(f"{len(found)} of {len(jobs)} pictures", len(found), len(jobs))
                        yield gallery(found), plots.mean_schedules(scales), line
                if found:
                    host.visits.add(visitor, WHERE, (gallery(found), dict(scales), len(found)), 0, 1)
            except Cancelled:
                if not stop.replaced:
                    yield gr.skip(), gr.skip(), status("Cancelled.")

    def keep(self, visitor: Any, settings: Settings, method: str, batch: "Batch", scales: dict, found: list) -> None:
        """Writes a batch's pictures and adds to what is shown."""
        pictures, images = [], batch.made.images
        for row, ((category, line), seed, image) in enumerate(zip(batch.jobs, batch.seeds, images, strict=True)):
            one = batch.made.trace_of(row)
            told = replace(settings, prompt=line, seed=seed).metadata(method, seed, self.host.model)
            pictures.append((image, one, told, method))
            scales[LABELS.get(category, category)].append(one.scales[:, 0].tolist())
        most = -(-MAX_PROMPTS // BATCH)
        size = sum(3 * image.width * image.height for image in images)
        kept = self.host.visits.add(visitor, f"{WHERE}-pictures", None, size, most, pictures)
        found += [(line, file, seed) for (_, line), file, seed in zip(batch.jobs, kept.files, batch.seeds, strict=True)]

    def come(self, visitor: Any, values: Any) -> tuple:
        """A visitor comes, or loads the page again: the inputs as they left them, and what they had explored."""
        made = self.host.visits.made(visitor, WHERE)
        if not made:
            return *self.left(values), gr.skip(), gr.skip(), gr.skip()
        shown, scales, count = made[-1].what
        return *self.left(values), shown, plots.mean_schedules(scales), status(f"{count} pictures", count, count)

    def left(self, values: Any) -> list[Any]:
        """The inputs from what the browser kept; as they stand, where these are none of this page's."""
        host = self.host
        try:
            text, categories, each, seed, steps, method, *search = values
            whole(each, "Prompts of each category", 1, MAX_EACH), whole(seed, "Seed", 0, MAX_SEED)
            searched(host, host.settings.prompt, steps, method, search)
            if not isinstance(text, str) or not set(categories) <= set(CATEGORIES):
                raise ValueError("Prompts, or their categories")
        except (TypeError, ValueError):
            return [gr.skip() for _ in range(INPUTS + len(host.default.evaluators))]
        return values


class Batch:
    """Some of the pictures. `share` is how much of all is done by then."""

    def __init__(self, jobs: list[tuple[str, str]], seeds: list[int], made: Made, share: float) -> None:
        self.jobs, self.seeds, self.made, self.share = jobs, seeds, made, share


def searched(host: Host, text: str, steps: Any, method: Any, search: tuple) -> Settings:
    """The settings of the guidance of an exploration.

    Raises:
        ValueError: something cannot be used, in words for the visitor.
    """
    scales, every, draws, tolerance, *weights = search
    weighted = tuple(zip(host.default.evaluators, weights, strict=True))
    given = replace(
        host.settings, prompt=text, methods=(method,), steps=steps, scales=scales, every=every, draws=draws,
        tolerance=tolerance, weights=weighted,
    )  # fmt: skip
    found = host.checked(given)
    if METHODS[method].cost > 1:
        raise ValueError(f"{METHODS[method].label} is of the Playground")
    return found


def gallery(found: list[tuple[str, Files, int]]) -> str:
    """Pictures with their prompts and seeds, as HTML."""
    return cards(
        Card(None, line, (f"seed {seed}",), alt=line, address=file.thumb, large=file.picture)
        for line, file, seed in found
    )


def tab(host: Host, visitor: gr.BrowserState, entered: Any) -> None:
    """Builds the tab inside the `gr.Blocks` in force; `entered` is the event after which `visitor` is known."""
    does = Explorer(host)
    offered = [name for name in host.methods if METHODS[name].cost == 1]
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300, elem_classes="controls"):
            categories = gr.CheckboxGroup(
                [(LABELS.get(name, name), name) for name in CATEGORIES],
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
            sets = SETS if host.embedded else {"Four of all kinds": list(EXAMPLES)}
            examples = gr.Dataset(
                components=[gr.Textbox(visible=False)], samples=[[name] for name in sets], type="index",
                label="Examples", show_label=True, elem_id="sets",
            )  # fmt: skip
            method = gr.Radio([(METHODS[name].label, name) for name in offered], value=offered[0], label="Guidance")
            with gr.Row():
                go = gr.Button("Explore", variant="primary", interactive=False, elem_id="explore", min_width=120)
                stop = gr.Button("Cancel", min_width=120)
            seed = gr.Number(0, label="Seed of the first picture", precision=0, minimum=0, maximum=MAX_SEED)
            steps = gr.Slider(2, MAX_STEPS, STEPS, step=1, label="Steps", elem_id="explorer-steps")
            with gr.Accordion("Of the guidance", open=False):
                search = controls.search(host, "explorer-")
        with gr.Column(scale=5, min_width=320, elem_classes="results"):
            line = gr.HTML(status(READY))
            figure = gr.Plot(plots.mean_schedules({}), show_label=False, elem_id="schedules", container=False)
            pictures = gr.HTML(elem_id="pictures")
    inputs = [text, categories, each, seed, steps, method]
    inputs += [*(search[name] for name in ("scales", "every", "draws", "tolerance")), *search["weights"]]
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    button([go.click], stop, does.explore, [visitor, *inputs], [pictures, figure, line])
    examples.click(lambda index: "\n".join([*sets.values()][index]), examples, text, **quiet)
    entered.then(can_start, None, go, **quiet)
    entered.then(does.come, [visitor, controls.kept(inputs, WHERE)], [*inputs, pictures, figure, line], **quiet)
