"""The Playground tab: one prompt by one way of guidance or two, side by side, and why each step chose so."""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import gradio as gr

from .. import cut
from . import advice, controls, plots, stage, why
from .controls import settings_of, values_of
from .host import Host
from .live import Cancelled, Stop, Waiting, button, can_start, errors_as_messages, live
from .looks import status
from .methods import METHODS
from .runs import Picture, Progress, Run, cost, run
from .settings import STEPS, of_picture
from .visits import MAX_RUNS, Kept

WHERE = "playground"
VIEW = ("seed", "advice", "stage", "line", "why", "explained", "figure", "step", "cards", "history", "current")
MARK = "(step) => window.markStep(step)"


def view(**shown: Any) -> tuple:
    """What the page shows anew, in the order of `VIEW`; the rest stays."""
    return tuple(shown.pop(name) if name in shown else gr.skip() for name in VIEW)


class Playground:
    """What the tab's inputs do. A visitor is known by a secret, what they see by ``current``: a run's id and the place
    of a seed in it."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def generate(self, stop: Stop, visitor: Any, fresh: Any, *values: Any) -> Iterator[tuple]:
        """Yields `view` as pictures come.

        Raises:
            gr.Error: an input that cannot be used, before anything is sampled, or what the pipeline says of it.
        """
        host = self.host
        with errors_as_messages():
            settings = host.checked(settings_of(host, values))
            if fresh:
                settings = replace(settings, seed=secrets.randbelow(2**31))
            world = advice.of_world(settings.prompt) if host.embedded else ""
            latest: dict[int, list] = {}
            yield view(
                seed=settings.seed,
                advice=advice.shown(world),
                stage=stage.under_way(settings, latest),
                line=status("Starting …"),
                why=gr.Column(visible=False),
                current=None,
            )

            def work(report: Callable[[Progress], None]) -> Run:
                lost = cut.lost(host.pipe, [settings.prompt]).get(settings.prompt, "")
                return replace(run(host, settings, report), lost=lost)

            try:
                for update in live(host.turns, stop, work, cost(settings)):
                    if isinstance(update, Waiting):
                        yield view(line=status(str(update)))
                    elif isinstance(update, Progress):
                        label = METHODS[settings.methods[update.place]].label
                        line = status(f"{label}, step {update.done} of {update.steps}", update.share, 1)
                        if update.images is not None:
                            latest[update.place] = update.images
                            yield view(line=line, stage=stage.under_way(settings, latest))
                        else:
                            yield view(line=line)
                    else:
                        told = advice.shown(world, advice.of_lost(update.lost))
                        yield self.shown(visitor, self.keep(visitor, update), 0, advice=told)
            except Cancelled:
                if not stop.replaced:
                    yield view(line=status("Cancelled."))

    def keep(self, visitor: Any, made: Run) -> Kept:
        """Keeps a run for its visitor, with its files."""
        pictures = [
            (one.image, one.trace, made.settings.metadata(one.method, one.seed, self.host.model), one.method)
            for row in made.rows
            for one in row
        ]
        size = sum(one.size for row in made.rows for one in row)
        return self.host.visits.add(visitor, WHERE, made, size, MAX_RUNS, pictures)

    def shown(self, visitor: Any, kept: Kept, row: int, **more: Any) -> tuple:
        """A run's pictures of one seed, and why they are so."""
        made: Run = kept.what
        names = why.explained(made)
        explained = gr.Radio(
            [(METHODS[name].label, name) for name in names], value=names[0] if names else None, visible=len(names) > 1
        )
        figure, step, cards = self.explain(visitor, (kept.id, row), names[0] if names else None)
        return view(
            stage=stage.shown(kept, row),
            line=status(why.summary(made, row)),
            why=gr.Column(visible=bool(names)),
            explained=explained,
            figure=figure,
            step=step,
            cards=cards,
            history=stage.history(self.host.visits.made(visitor, WHERE), kept.id),
            current=(kept.id, row),
            **more,
        )

    def explain(self, visitor: Any, current: Any, name: Any) -> tuple:
        """Schedule, step and candidates of one of the pictures shown."""
        pictures = self.pictures(visitor, current)
        if pictures is None or name not in [one.method for one in pictures]:
            return gr.skip(), gr.skip(), ""
        with errors_as_messages():
            picture = next(one for one in pictures if one.method == name)
            figure = plots.schedule({METHODS[one.method].label: one.trace for one in pictures}, METHODS[name].label)
            step = why.middle(picture)
            cards = why.candidates(self.host.decode, picture, step)
            return figure, gr.Slider(maximum=len(picture.trace.steps), value=step), cards

    def candidates(self, visitor: Any, current: Any, name: Any, step: Any) -> str:
        """What each candidate would have made of a step, as HTML."""
        pictures = self.pictures(visitor, current)
        picture = next((one for one in pictures or () if one.method == name), None)
        if picture is None:
            return ""
        with errors_as_messages():
            return why.candidates(self.host.decode, picture, step)

    def pictures(self, visitor: Any, current: Any) -> list[Picture] | None:
        """Those of the seed that a visitor sees."""
        kept = self.host.visits.find(visitor, WHERE, current[0]) if current else None
        return None if kept is None else kept.what.rows[current[1]]

    def pick_row(self, visitor: Any, current: Any, event: gr.EventData) -> tuple:
        """Another seed of the run shown."""
        kept = self.host.visits.find(visitor, WHERE, current[0]) if current else None
        place = stage.picked(event)
        if kept is None or not place.isdecimal() or int(place) >= len(kept.what.rows):
            return view()
        return self.shown(visitor, kept, int(place))

    def pick_run(self, visitor: Any, event: gr.EventData) -> tuple:
        """Another run of the visitor's."""
        kept = self.host.visits.find(visitor, WHERE, stage.picked(event))
        return view() if kept is None else self.shown(visitor, kept, 0)

    def reuse(self, visitor: Any, current: Any) -> list[Any]:
        """The settings of the picture shown, in the inputs, with its seed."""
        with errors_as_messages():
            pictures = self.pictures(visitor, current)
            if pictures is None:
                raise ValueError("There is no picture yet")
            made: Run = self.host.visits.find(visitor, WHERE, current[0]).what
            return values_of(self.host, replace(made.settings, seed=pictures[0].seed))

    def last_seed(self, visitor: Any, current: Any, seed: Any) -> Any:
        """That of the picture shown; `seed` where there is none."""
        pictures = self.pictures(visitor, current)
        return seed if pictures is None else pictures[0].seed

    def dropped(self, path: Any) -> list[Any]:
        """The settings in a PNG, in the inputs."""
        with errors_as_messages():
            found = of_picture(path, self.host.settings, self.host.methods)
            if found.sampler not in ("", *self.host.samplers):
                found = replace(found, sampler="")
            return values_of(self.host, self.host.checked(found))

    def come(self, visitor: Any, values: Any) -> tuple:
        """A visitor comes, or loads the page again: the inputs as they left them, and what they saw."""
        inputs: list[Any] = [gr.skip() for _ in values_of(self.host, self.host.settings)]
        fresh: Any = gr.skip()  # who has changed nothing may be doing so while this is on its way
        if isinstance(values, list) and len(values) == len(inputs) + 1:
            try:
                settings = self.host.checked(settings_of(self.host, values[1:]))
                fresh, inputs = bool(values[0]), values_of(self.host, settings)
            except (ValueError, TypeError):
                pass
        made = self.host.visits.made(visitor, WHERE)
        return fresh, *inputs, *(self.shown(visitor, made[-1], 0) if made else view())

    def advise(self, text: Any) -> str:
        """What the model does not know of a prompt, as HTML."""
        return advice.shown(advice.of_world(text)) if self.host.embedded else ""


def tab(host: Host, visitor: gr.BrowserState, entered: Any) -> None:
    """Builds the tab inside the `gr.Blocks` in force; `entered` is the event after which `visitor` is known."""
    does = Playground(host)
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300, elem_classes="controls"):
            parts, inputs = controls.build(host)
        with gr.Column(scale=5, min_width=320, elem_classes="results"):
            parts |= _results()
    parts["current"] = gr.State()
    shown = [parts[name] for name in VIEW]
    _wire(does, entered, visitor, parts, inputs, shown)


def _results() -> dict[str, Any]:
    parts: dict[str, Any] = {}
    gr.HTML(
        '<div class="views" role="group" aria-label="How two pictures are shown">'
        '<button type="button" data-view="side" aria-pressed="true">Side by side</button>'
        '<button type="button" data-view="slider" aria-pressed="false">Slider</button></div>',
        elem_id="views",
    )
    parts["stage"] = gr.HTML(stage.pair(()), elem_id="stage", js_on_load=stage.PICK)
    parts["line"] = gr.HTML(status("Ready."), elem_id="status")
    with gr.Column(visible=False, elem_id="why") as parts["why"]:
        gr.Markdown("## Why", elem_classes="heading")
        parts["explained"] = gr.Radio([], label="Of", visible=False, elem_id="explained")
        gr.HTML(why.LEGEND)
        parts["figure"] = gr.Plot(show_label=False, elem_id="schedule", container=False)
        parts["step"] = gr.Slider(1, STEPS, 1, step=1, label="Step, also by pointing at the schedule", elem_id="step")
        parts["cards"] = gr.HTML(elem_id="candidates")
        gr.Markdown(why.NOTE, elem_classes="note")
    parts["history"] = gr.HTML(elem_id="history", js_on_load=stage.PICK)
    return parts


def _wire(
    does: Playground,
    entered: Any,
    visitor: gr.BrowserState,
    parts: dict[str, Any],
    inputs: list[Any],
    shown: list[Any],
) -> None:
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}
    here = [visitor, parts["current"]]
    button([parts["go"].click], parts["stop"], does.generate, [visitor, parts["fresh"], *inputs], shown)
    entered.then(can_start, None, parts["go"], **quiet)
    everything = [parts["fresh"], *inputs]
    entered.then(does.come, [visitor, controls.kept(everything, WHERE)], [*everything, *shown], **quiet)
    parts["prompt"].change(does.advise, parts["prompt"], parts["advice"], trigger_mode="always_last", **quiet)
    parts["methods"].input(None, parts["methods"], parts["methods"], js=controls.LAST_TWO, **quiet)
    parts["methods"].change(controls.method_note, parts["methods"], parts["note"], **quiet)
    parts["random"].click(None, None, parts["seed"], js=controls.RANDOM, **quiet)
    parts["last"].click(does.last_seed, [*here, parts["seed"]], parts["seed"], **quiet)
    parts["reuse"].click(does.reuse, here, inputs, **quiet)
    parts["drop"].upload(does.dropped, parts["drop"], inputs, **quiet)
    parts["stage"].select(does.pick_row, here, shown, **quiet)
    parts["history"].select(does.pick_run, visitor, shown, **quiet)
    parts["explained"].input(
        does.explain, [*here, parts["explained"]], [parts["figure"], parts["step"], parts["cards"]], **quiet
    )
    parts["step"].change(
        does.candidates,
        [*here, parts["explained"], parts["step"]],
        parts["cards"],
        trigger_mode="always_last",
        **quiet,
    )
    parts["step"].change(None, parts["step"], None, js=MARK, **quiet)
