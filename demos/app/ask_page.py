"""The Ask tab: a question about a picture, answered with all visual tokens and with most of them pruned."""

import html
from abc import ABCMeta
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image, ImageOps

from guidance import TOKEN_PRESETS
from tinyworld import lvlm
from tinyworld.scenes import make_scene

from .. import ask
from . import controls
from .live import Cancelled, Stop, Waiting, button, can_start, errors_as_messages, live
from .looks import Card, cards, status
from .turns import Turns
from .visits import Visits

WHERE, PICTURE = "ask", "picture"
MAX_PIXELS, MAX_QUESTION, MAX_ANSWER = 16_000_000, 400, 64
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
METHODS = tuple(name for name in TOKEN_PRESETS if name not in ("zero-tprune", "tome"))  # they are for encoders alone
# A scene, by the seed that draws it, and what to ask about it.
EXAMPLES = (
    (7, "how many purple squares are there?"),
    (23, "what is left of the cyan circle?"),
    (24, "what does the sign say?"),
    (27, "what color are the circles?"),
)


@dataclass(frozen=True)
class Reader:
    """A vision-language model with its processor, used only when it is one's turn."""

    model: Any
    processor: Any
    max_new_tokens: int = MAX_ANSWER
    turns: Turns = field(default_factory=Turns)


# Gradio has checked that the file is an upload; it would also open it, before any check of ours. A class, for Gradio
# makes copies of components; by ABCMeta, for Gradio's own metaclass writes a file beside the source of each subclass;
# and by this name, for the browser draws a component by that.
Upload: Any = ABCMeta.__new__(
    type(gr.Image), "Image", (gr.Image,), {"preprocess": lambda self, payload: payload and payload.path}
)


def open_upload(path: str | Path | None) -> Image.Image:
    """An uploaded picture, RGB. Its size is read before any pixel is.

    Raises:
        ValueError: there is none, or one that is too large or cannot be read, in words for the visitor.
    """
    if path is None:
        raise ValueError("Picture must be given")
    try:
        with Image.open(path, formats=FORMATS) as image:
            pixels = image.width * image.height
            picture = ImageOps.exif_transpose(image).convert("RGB") if pixels <= MAX_PIXELS else None
    except Exception as error:  # a broken file raises whatever its reader does
        raise ValueError(f"Picture cannot be read; it must be one of {', '.join(FORMATS)}") from error
    if picture is None:
        raise ValueError(f"Picture must be of at most {MAX_PIXELS // 1_000_000} million pixels")
    return picture


class Asking:
    """What the tab's inputs do."""

    def __init__(self, reader: Reader, visits: Visits) -> None:
        self.reader, self.visits = reader, visits

    def answer(
        self, stop: Stop, visitor: Any, path: Any, question: Any, method: Any, share: Any
    ) -> Iterator[tuple[str, str]]:
        """Yields status and result, as HTML.

        Raises:
            gr.Error: an input that cannot be used, or what the pruning says of it.
        """
        reader = self.reader
        with errors_as_messages():
            image = open_upload(path)
            if not isinstance(question, str) or not question.strip():
                raise ValueError("Question must not be blank")
            if len(question) > MAX_QUESTION:
                raise ValueError(f"Question must be of at most {MAX_QUESTION} characters, got {len(question)}")
            if method not in METHODS:
                raise ValueError(f"Method must be one of {', '.join(METHODS)}, got {method!r}")
            keep = ask.keep(share) if str(share or "").strip() else None
            text = ask.asked(question)

            def work(report: Callable[[str], None]) -> str:
                report("Asking the whole model …")
                settings = {"max_new_tokens": reader.max_new_tokens}
                (whole,) = lvlm.answer(reader.model, reader.processor, [image], [text], **settings)
                report(f"Asking it with tokens pruned by {method} …")
                told = ask.ask(reader.model, reader.processor, image, text, method, keep, **settings)
                pruned, ratio, trace, batch = told
                return result(whole, pruned, ratio, ask.stages(reader.model.config, batch, image, trace))

            yield status("Starting …"), ""
            try:
                for update in live(reader.turns, stop, work):
                    done = not isinstance(update, Waiting) and update.startswith("<")
                    if done:
                        self.visits.add(visitor, WHERE, update, len(update), 1)
                    yield status("Answered." if done else str(update)), update if done else ""
            except Cancelled:
                if not stop.replaced:
                    yield status("Cancelled."), ""

    def look(self, visitor: Any, path: Any) -> None:
        """Keeps the picture that a visitor has before them now, if it is one. The file of an upload goes earlier."""
        image = None
        with suppress(ValueError):  # said when it is asked about
            image = open_upload(path)
        size = 3 * image.width * image.height if image else 0
        with errors_as_messages():
            self.visits.add(visitor, PICTURE, image, size, 1)

    def come(self, visitor: Any, values: Any) -> tuple:
        """A visitor comes, or loads the page again: picture, question, method and share as they left them, and what
        was answered last."""
        seen, told = (self.visits.made(visitor, where) for where in (PICTURE, WHERE))
        picture, answered = (made[-1].what if made else gr.skip() for made in (seen, told))
        return picture, *self.left(values), answered

    def left(self, values: Any) -> list[Any]:
        """Question, method and share from what the browser kept; as they stand, where these are none of this page's."""
        try:
            question, method, share = values
        except (TypeError, ValueError):
            return [gr.skip()] * 3
        sound = isinstance(question, str) and method in METHODS and isinstance(share, str)
        return values if sound else [gr.skip()] * 3


def result(whole: str, pruned: str, ratio: float, shown: list[tuple[str, int, Image.Image]]) -> str:
    """Both answers, the cost of reading the prompt, and what is left of the picture after each pruning, as HTML."""
    total, last = shown[0][1], shown[-1][1]
    facts = {
        "Answer of the whole model": whole or "(nothing)",
        "Answer of the pruned model": pruned or "(nothing)",
        "Prefill FLOPs, pruned / whole": f"{ratio:.3f}",
        "Visual tokens left": f"{last} of {total}",
    }
    tiles = "".join(
        f'<div class="fact"><small>{html.escape(name)}</small><b>{html.escape(value)}</b></div>'
        for name, value in facts.items()
    )
    pictures = [Card(image, name, (f"{count} of {total} tokens",)) for name, count, image in shown]
    return f'<div class="facts">{tiles}</div>{cards(pictures)}'


def scene(seed: int | None = None) -> np.ndarray:
    """A tinyworld picture to ask about, uint8 ``(64, 64, 3)``; another each time where no `seed` is given."""
    return make_scene(int(np.random.default_rng().integers(2**31)) if seed is None else seed).image


def example(number: int) -> tuple[np.ndarray, str]:
    """Picture and question of one of `EXAMPLES`."""
    seed, question = EXAMPLES[number]
    return scene(seed), question


def tab(reader: Reader, visits: Visits, visitor: gr.BrowserState, entered: Any) -> None:
    """Builds the tab inside the `gr.Blocks` in force; `entered` is the event after which `visitor` is known."""
    does = Asking(reader, visits)
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300, elem_classes="controls"):
            image = Upload(
                label="Picture",
                type="filepath",
                image_mode=None,
                format="png",  # WebP would lose what the model is asked about
                sources=["upload", "clipboard"],
                elem_id="picture",
                elem_classes="picture",
            )
            draw = gr.Button("Draw a scene", size="sm", elem_id="draw")
            question = gr.Textbox(label="Question", max_length=MAX_QUESTION, elem_id="question")
            examples = gr.Dataset(
                components=[gr.Textbox(visible=False)], samples=[[text] for _, text in EXAMPLES], type="index",
                label="Examples, each with its picture", show_label=True, elem_id="asked",
            )  # fmt: skip
            with gr.Row():
                method = gr.Dropdown(METHODS, value="transprune", label="Pruning", min_width=120)
                share = gr.Textbox(
                    label="Keep", placeholder="as published", info="0.25, 64 or 2:0.5,4:32", max_length=100,
                    min_width=120,
                )  # fmt: skip
            with gr.Row():
                go = gr.Button("Ask", variant="primary", interactive=False, elem_id="ask", min_width=120)
                stop = gr.Button("Cancel", min_width=120)
        with gr.Column(scale=5, min_width=320, elem_classes="results"):
            line = gr.HTML(status("Ready."))
            shown = gr.HTML(elem_id="answer")
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    draw.click(scene, None, image, **quiet)
    examples.click(example, examples, [image, question], **quiet)
    inputs = [image, question, method, share]
    button([go.click, question.submit], stop, does.answer, [visitor, *inputs], [line, shown])
    entered.then(can_start, None, go, **quiet)
    image.change(does.look, [visitor, image], None, **quiet)
    entered.then(does.come, [visitor, controls.kept(inputs[1:], WHERE)], [*inputs, shown], **quiet)
