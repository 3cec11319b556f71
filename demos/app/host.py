"""The pipeline that every visitor of the app shares, and the controls by which each sets up a search of their own."""

import argparse
import threading
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from commands import arguments
from guidance import GreedySearch, NoiseSearch

from .side_by_side import Decoder

MAX_STEPS, MAX_PROMPT, MAX_CANDIDATES, MAX_DRAWS, MAX_WEIGHT = 100, 400, 16, 16, 4.0
STEPS = 25


@dataclass(frozen=True)
class Host:
    """Attributes:
    pipe: a diffusers pipeline, used only under `lock`.
    default: the search to start from; its evaluators are those there are.
    embedded: whether `pipe` is the package's own model.
    """

    pipe: Any
    default: GreedySearch
    embedded: bool
    decode: Decoder
    lock: threading.Lock = field(default_factory=threading.Lock)

    def search(self, scales: str, every: float, draws: float, *weights: float) -> GreedySearch:
        """A search as the controls say, `weights` in the order of the evaluators.

        Raises:
            ValueError: nothing can be searched so, in words for the visitor.
        """
        try:
            candidates = arguments.scales(scales)
        except argparse.ArgumentTypeError as error:
            raise ValueError(f"Candidate scales {error}") from error
        if len(candidates) > MAX_CANDIDATES:
            raise ValueError(f"Candidate scales must be at most {MAX_CANDIDATES}, got {len(candidates)}")
        named = dict(zip(self.default.evaluators, (number(w, "Weight", 0, MAX_WEIGHT) for w in weights), strict=True))
        used = {name: weight for name, weight in named.items() if weight > 0}
        if not used:
            raise ValueError("Weights must not all be 0: someone has to choose")
        panel = [self.default.evaluators[name] for name in used]
        every = whole(every, "Search every n-th step", 1, MAX_STEPS)
        if (draws := whole(draws, "Draws of noise", 1, MAX_DRAWS)) == 1:
            return GreedySearch(panel, candidates, used, every=every)
        return NoiseSearch(panel, candidates, draws, used, every=every)

    def controls(self) -> list[gr.components.Component]:
        """The inputs of `search`, in its order."""
        scales = gr.Textbox(", ".join(f"{s:g}" for s in self.default.scales), label="Candidate scales", max_length=200)
        every = gr.Slider(1, 10, self.default.every, step=1, label="Search every n-th step")
        note = "Above 1 the sampler adds noise at each step, for both pictures, and the search chooses what for its own"
        draws = gr.Slider(1, MAX_DRAWS, 1, step=1, label="Draws of noise", info=note)
        weights = [
            gr.Slider(0, MAX_WEIGHT, self.default.weights.get(name, 1.0), step=0.05, label=f"Weight of {name}")
            for name in self.default.evaluators
        ]
        return [scales, every, draws, *weights]


def number(value: Any, name: str, low: float, high: float) -> float:
    """Raises ValueError unless `value` is a number from `low` to `high`: a browser need not keep to a slider's ends."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(f"{name} must be a number from {low:g} to {high:g}, got {value!r}")
    return float(value)


def whole(value: Any, name: str, low: int, high: int) -> int:
    """Raises ValueError unless `value` is a whole number from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value % 1 or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, got {value!r}")
    return int(value)


def prompt(text: Any) -> str:
    """Raises ValueError unless `text` is a prompt that is neither blank nor longer than `MAX_PROMPT`."""
    if not isinstance(text, str) or not text.strip():
        raise ValueError("Prompt must not be blank")
    if len(text) > MAX_PROMPT:
        raise ValueError(f"Prompt must be of at most {MAX_PROMPT} characters, got {len(text)}")
    return text.strip()
