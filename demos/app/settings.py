"""What a visitor's pictures are made with: checked, kept, written into the pictures, and read from them again."""

import argparse
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from commands import arguments

from ..generate import METADATA_KEY

MAX_STEPS, MAX_PROMPT, MAX_CANDIDATES, MAX_DRAWS, MAX_WEIGHT = 100, 400, 16, 16, 4.0
MAX_SEED = 2**32 - 1  # what a browser's number still holds exactly
MAX_SCALE, MAX_TOLERANCE, MAX_PICTURES = 100.0, 1.0, 4
SIDES = (64, 2048)  # pixels
STEPS, STATIC_SCALE, DRAWS, TOLERANCE = 25, 4.5, 8, 0.2


@dataclass(frozen=True)
class Settings:
    """Of a run. What has no meaning for its methods is kept with it.

    Attributes:
        methods: one or two names of `methods.METHODS`.
        seed: of the first of so many `pictures`; each next one has the next.
        sampler: a name of `Host.samplers`, empty for the model's own.
        width, height: pixels, 0 for what the model makes by itself.
        scales, every, weights: of the search; `weights` by evaluator.
        draws: of a search over noise.
        tolerance: of a budget.
    """

    prompt: str
    methods: tuple[str, ...] = ("dynamic", "static")
    seed: int = 0
    pictures: int = 1
    steps: int = STEPS
    static: float = STATIC_SCALE
    negative: str = ""
    sampler: str = ""
    width: int = 0
    height: int = 0
    scales: tuple[float, ...] = ()
    every: int = 1
    draws: int = DRAWS
    tolerance: float = TOLERANCE
    weights: tuple[tuple[str, float], ...] = ()

    @property
    def panel(self) -> dict[str, float]:
        """The evaluators that are asked, with their weights."""
        return {name: weight for name, weight in self.weights if weight > 0}

    def metadata(self, method: str, seed: int, model: str) -> dict[str, Any]:
        """What a picture by one of the methods says of itself, by the names that `online-guidance generate` uses."""
        searched = method != "static"
        own = {
            "prompt": self.prompt,
            "seed": seed,
            "model": model,
            "steps": self.steps,
            "guidance": method,
            "guidance_scale": self.static,
            "candidates": list(self.scales) if searched else None,
            "evaluators": list(self.panel) if searched else [],
            "weights": self.panel if searched else {},
            "every": self.every,
            "draws": self.draws,
            "tolerance": self.tolerance,
            "negative_prompt": self.negative,
            "sampler": self.sampler,
            "width": self.width,
            "height": self.height,
            "methods": list(self.methods),
        }
        return own


def check(settings: Settings, known: Settings, samplers: tuple[str, ...], methods: tuple[str, ...]) -> Settings:
    """`settings`, with everything of its type: a browser need not keep to what a page offers.

    Args:
        known: the settings that the page started with; its evaluators are those there are.

    Raises:
        ValueError: something cannot be used, in words for the visitor.
    """
    chosen = tuple(settings.methods) if isinstance(settings.methods, list | tuple) else ()
    if not 1 <= len(chosen) <= 2 or len(set(chosen)) != len(chosen) or not set(chosen) <= set(methods):
        raise ValueError("Choose one way of guidance, or two to compare")
    weights = dict(settings.weights)
    named = tuple((name, number(weights.get(name), f"Weight of {name}", 0, MAX_WEIGHT)) for name, _ in known.weights)
    if not any(weight for _, weight in named) and set(chosen) != {"static"}:
        raise ValueError("Weights must not all be 0: someone has to choose")
    if settings.sampler not in ("", *samplers):
        raise ValueError(f"Sampler must be one of {', '.join(samplers)}, got {settings.sampler!r}")
    return replace(
        settings,
        prompt=prompt(settings.prompt),
        methods=chosen,
        seed=whole(settings.seed, "Seed", 0, MAX_SEED),
        pictures=whole(settings.pictures, "Pictures", 1, MAX_PICTURES),
        steps=whole(settings.steps, "Steps", 2, MAX_STEPS),
        static=number(settings.static, "Static scale", 0, MAX_SCALE),
        negative=prompt(settings.negative, "Negative prompt") if str(settings.negative or "").strip() else "",
        width=side(settings.width, "Width"),
        height=side(settings.height, "Height"),
        scales=candidates(settings.scales),
        every=whole(settings.every, "Search every n-th step", 1, MAX_STEPS),
        draws=whole(settings.draws, "Draws of noise", 2, MAX_DRAWS),
        tolerance=number(settings.tolerance, "Tolerance", 0, MAX_TOLERANCE),
        weights=named,
    )


def candidates(given: Any) -> tuple[float, ...]:
    """Scales, from what was typed between commas or from numbers."""
    if isinstance(given, list | tuple):
        given = ",".join(f"{number(scale, 'Candidate scales', 0, math.inf):g}" for scale in given)
    text = str(given)
    try:
        scales = arguments.scales(text)
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"Candidate scales {error}") from error
    if len(scales) > MAX_CANDIDATES:
        raise ValueError(f"Candidate scales must be at most {MAX_CANDIDATES}, got {len(scales)}")
    return tuple(scales)


def number(value: Any, name: str, low: float, high: float) -> float:
    """Raises ValueError unless `value` is a number from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(f"{name} must be a number from {low:g} to {high:g}, got {value!r}")
    return float(value)


def whole(value: Any, name: str, low: int, high: int) -> int:
    """Raises ValueError unless `value` is a whole number from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high or value % 1:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, got {value!r}")
    return int(value)


def side(value: Any, name: str) -> int:
    """Pixels: 0 or nothing for the model's own, else what a VAE can have, a multiple of 8."""
    if value in (None, "", 0):
        return 0
    if (pixels := whole(value, name, *SIDES)) % 8:
        raise ValueError(f"{name} must be a multiple of 8, got {pixels}")
    return pixels


def prompt(text: Any, name: str = "Prompt") -> str:
    """Raises ValueError unless `text` is neither blank nor longer than `MAX_PROMPT`."""
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{name} must not be blank")
    if len(text) > MAX_PROMPT:
        raise ValueError(f"{name} must be of at most {MAX_PROMPT} characters, got {len(text)}")
    return text.strip()


def of_picture(path: str | Path, known: Settings, methods: tuple[str, ...]) -> Settings:
    """The settings that a PNG of the app, or of `online-guidance generate`, has in it; what it does not say is as in
    `known`.

    Raises:
        ValueError: it is no PNG or has none, in words for the visitor.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            data = json.loads(image.info[METADATA_KEY])
            text, seed = data["prompt"], data["seed"]
    except KeyError as error:
        raise ValueError("There are no settings in this picture; it must be one that was made here") from error
    except Exception as error:  # a broken file raises whatever its reader does
        raise ValueError("This cannot be read as a picture with settings in it: a PNG is wanted") from error
    method = str(data.get("guidance", "")).partition(":")[0]
    named = data.get("methods")
    both = [name for name in (named if isinstance(named, list) else [method]) if name in methods]
    found = {
        "prompt": text,
        "seed": seed,
        "steps": data.get("steps"),
        "methods": tuple(both[:2]) or None,
        "static": data.get("guidance_scale"),
        "scales": data.get("candidates"),
        "every": data.get("every"),
        "draws": data.get("draws"),
        "tolerance": data.get("tolerance"),
        "negative": data.get("negative_prompt"),
        "sampler": data.get("sampler"),
        "width": data.get("width"),
        "height": data.get("height"),
    }
    told = {name: value for name, value in found.items() if value is not None}
    weights = data.get("weights")
    if isinstance(weights, dict) and weights and set(weights) <= {name for name, _ in known.weights}:
        told["weights"] = tuple((name, weights.get(name, 0)) for name, _ in known.weights)
    return replace(known, **told)
