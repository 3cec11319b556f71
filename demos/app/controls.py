"""The inputs by which a visitor sets up a run, and how they become `Settings` and are set from them."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from .host import EXAMPLES, OF_SHAPES, Host
from .methods import METHODS
from .settings import (
    MAX_DRAWS,
    MAX_PICTURES,
    MAX_PROMPT,
    MAX_SCALE,
    MAX_SEED,
    MAX_STEPS,
    MAX_TOLERANCE,
    MAX_WEIGHT,
    SIDES,
    Settings,
)

# The inputs, but for the weights, which come last, in the order of the evaluators.
NAMES = (
    *("prompt", "methods", "seed", "pictures", "steps", "static", "negative", "sampler", "width", "height"),
    *("scales", "every", "draws", "tolerance"),
)
KEEP = "(...values) => [values]"
LAST_TWO = "(chosen) => [chosen.slice(-2)]"
RANDOM = f"() => Math.floor(Math.random() * {2**31})"


def settings_of(host: Host, values: Sequence[Any]) -> Settings:
    """What the inputs say, unchecked."""
    told = dict(zip(NAMES, values, strict=False))
    weights = tuple(zip(host.default.evaluators, values[len(NAMES) :], strict=True))
    return Settings(**told | {"weights": weights, "sampler": told["sampler"] or ""})


def values_of(host: Host, settings: Settings) -> list[Any]:
    """What the inputs show of `settings`."""
    told = {name: getattr(settings, name) for name in NAMES}
    told |= {"methods": list(settings.methods), "scales": ", ".join(f"{scale:g}" for scale in settings.scales)}
    weights = dict(settings.weights)
    return [*told.values(), *(weights[name] for name in host.default.evaluators)]


def kept(parts: Sequence[Any], where: str) -> gr.BrowserState:
    """What the browser keeps of inputs as they are left there, in their order; nothing as long as none was changed."""
    left = gr.BrowserState(storage_key=f"online-guidance-{where}", secret=where)
    gr.on([part.change for part in parts], None, parts, left, js=KEEP, api_visibility="private", show_progress="hidden")
    return left


def method_note(chosen: Sequence[str]) -> str:
    """What the chosen methods are, as Markdown."""
    return "  \n".join(f"**{METHODS[name].label}**: {METHODS[name].note}." for name in chosen if name in METHODS)


def build(host: Host) -> tuple[dict[str, Any], list[Any]]:
    """The inputs of the Playground, in the `gr.Blocks` in force, by name, with whatever belongs to them; and those of
    `settings_of`, in order."""
    own = host.settings
    parts: dict[str, Any] = {}
    parts["prompt"] = gr.Textbox(own.prompt, label="Prompt", lines=2, max_length=MAX_PROMPT, elem_id="prompt")
    parts["advice"] = gr.HTML(elem_id="advice")
    examples = OF_SHAPES if host.embedded else EXAMPLES
    gr.Examples([[example] for example in examples], [parts["prompt"]], label="Examples", elem_id="examples")
    parts["methods"] = gr.CheckboxGroup(
        [(METHODS[name].label, name) for name in host.methods],
        value=list(own.methods),
        label="Guidance, one or two of",
        elem_id="methods",
    )
    parts["note"] = gr.Markdown(method_note(own.methods), elem_classes="note")
    with gr.Row():
        parts["go"] = gr.Button("Generate", variant="primary", interactive=False, elem_id="generate", min_width=120)
        parts["stop"] = gr.Button("Cancel", elem_id="cancel", min_width=120)
    with gr.Group():
        parts["seed"] = gr.Number(own.seed, label="Seed", precision=0, minimum=0, maximum=MAX_SEED, elem_id="seed")
        with gr.Row(elem_classes="tight"):
            parts["random"] = gr.Button("Random", size="sm", min_width=80, elem_id="random")
            parts["last"] = gr.Button("Reuse last", size="sm", min_width=80, elem_id="last")
        parts["fresh"] = gr.Checkbox(False, label="A new one each time", elem_id="fresh")
    parts["pictures"] = gr.Slider(1, MAX_PICTURES, own.pictures, step=1, label="Pictures", elem_id="count")
    parts["steps"] = gr.Slider(2, MAX_STEPS, own.steps, step=1, label="Steps", elem_id="steps")
    with gr.Accordion("Of the model", open=False):
        parts["negative"] = gr.Textbox(
            own.negative,
            label="Negative prompt",
            max_length=MAX_PROMPT,
            visible="negative_prompt" in host.takes,
            elem_id="negative",
        )
        parts["sampler"] = gr.Dropdown(
            [(f"its own ({host.own_sampler})", ""), *((name, name) for name in host.samplers)],
            value=own.sampler,
            label="Sampler",
            visible=bool(host.samplers),
            elem_id="sampler",
        )
        with gr.Row(visible=host.sized):
            for name in ("width", "height"):
                parts[name] = gr.Number(
                    getattr(own, name), label=f"{name.capitalize()}, 0 for its own", precision=0, minimum=0,
                    maximum=SIDES[1], step=8, min_width=120, elem_id=name,
                )  # fmt: skip
    with gr.Accordion("Of the guidance", open=False):
        parts["static"] = gr.Number(
            own.static, label="Static scale", minimum=0, maximum=MAX_SCALE, elem_id="static-scale"
        )
        parts |= search(host)
    with gr.Row():
        parts["reuse"] = gr.Button("Settings of this picture", size="sm", min_width=120, elem_id="reuse")
        parts["drop"] = gr.UploadButton(
            "Settings of a PNG …", size="sm", min_width=120, file_types=[".png"], elem_id="drop"
        )
    gr.Markdown("A PNG that was made here can be dragged onto the page, too.", elem_classes="note")
    return parts, [*(parts[name] for name in NAMES), *parts["weights"]]


def search(host: Host, prefix: str = "") -> dict[str, Any]:
    """The inputs of a search, by name; ``weights`` are a list."""
    own = host.settings
    weights = dict(own.weights)
    text = ", ".join(f"{scale:g}" for scale in own.scales)
    parts: dict[str, Any] = {
        "scales": gr.Textbox(text, label="Candidate scales", max_length=200, elem_id=f"{prefix}scales"),
        "every": gr.Slider(1, 10, own.every, step=1, label="Search every n-th step"),
        "draws": gr.Slider(2, MAX_DRAWS, own.draws, step=1, label="Draws of noise", visible="noise" in host.methods),
        "tolerance": gr.Slider(0, MAX_TOLERANCE, own.tolerance, step=0.05, label="Tolerance of the budget"),
        "weights": [
            gr.Slider(0, MAX_WEIGHT, weights[name], step=0.05, label=f"Weight of {name}, 0 for none")
            for name in host.default.evaluators
        ],
    }
    return parts
