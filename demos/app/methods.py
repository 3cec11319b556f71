"""The ways of guidance that the app shows, each a search or a schedule made from the visitor's settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evaluators import Evaluator
from guidance import Budget, GreedySearch, NoiseSearch, Static

from ..denoising import Several
from .settings import Settings

BEST_OF = 2  # pictures, of which the evaluators keep one


@dataclass(frozen=True)
class Method:
    """Attributes:
    label, note: in a word or two, and in a sentence.
    draws: whether its sampler adds noise at each step.
    cost: of a picture, in those of one by itself.
    """

    label: str
    note: str
    draws: bool = False
    cost: int = 1


METHODS = {
    "dynamic": Method("Dynamic scale", "at each step evaluators choose the guidance scale"),
    "noise": Method("Noise", "they choose among draws of the sampler's noise, at the static scale", draws=True),
    "halving": Method(
        "Halving",
        "four are begun by a search over noise, then scale; two are dropped early, one at the end",
        draws=True,
    ),
    "best": Method(
        "Best of two", "two whole pictures by a search over noise, of which they keep one", draws=True, cost=BEST_OF
    ),
    "budget": Method("Budget", "the dynamic scale, less passes of the model that would change little"),
    "static": Method("Static", "one scale all the way, as everywhere else"),
}


def offered(evaluators: dict[str, Evaluator]) -> tuple[str, ...]:
    """The methods for which these evaluators do: draws of noise are told apart by those that read noisy latents."""
    noisy = any(evaluator.space == "noisy" for evaluator in evaluators.values())
    return tuple(name for name in METHODS if noisy or name != "noise")


def draws_noise(settings: Settings, evaluators: dict[str, Evaluator]) -> bool:
    """Whether the sampler adds noise at each step, which it then does for both methods: they differ in nothing else."""
    noisy = "noise" in offered({name: evaluators[name] for name in settings.panel})
    return noisy and any(METHODS[name].draws for name in settings.methods)


def guidance_of(
    name: str, settings: Settings, evaluators: dict[str, Evaluator], judges: Sequence[Evaluator] = ()
) -> Any:
    """The guidance of a method, `Several` where one of several pictures is kept: by `judges` in halving, where there
    are some, else by the evaluators. These are made by a search over noise; where nobody can tell draws of noise apart,
    in halving at the static scale, else by the search over scales.

    Raises:
        ValueError: nothing can be searched so, in words for the visitor.
    """
    if name == "static":
        return Static(settings.static)
    panel, weights = [evaluators[one] for one in settings.panel], settings.panel
    search = GreedySearch(panel, settings.scales, weights, every=settings.every)
    if name == "budget":
        return Budget(search, settings.tolerance)
    noisy = any(evaluator.space == "noisy" for evaluator in panel)
    if name == "noise" and not noisy:
        raise ValueError("Noise is chosen by evaluators that read noisy latents; give one of them a weight")
    guidance: Any = Static(settings.static) if name == "halving" else search
    if METHODS[name].draws and noisy:
        scales = settings.scales if name == "halving" else (settings.static,)
        guidance = NoiseSearch(panel, scales, settings.draws, weights, every=settings.every)
    if name == "halving":
        final = list(judges) or None
        return Several.halved(guidance, settings.static, panel, weights, final)
    return Several(guidance, panel, weights, BEST_OF) if name == "best" else guidance
