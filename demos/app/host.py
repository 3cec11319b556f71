"""The pipeline that every visitor of the app shares, and what can be asked of it."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from evaluators import Evaluator
from guidance import GreedySearch
from guidance.schedulers import AFFINE
from tinyworld.pipeline import SCALE

from . import methods
from .previews import Decoder
from .settings import STATIC_SCALE, Settings, check
from .turns import Turns
from .visits import Visits

EXAMPLES = ("a fox in the snow", "three red apples on a table", 'a shop sign saying "OPEN"', "a blue cube on a sphere")
OF_SHAPES = (
    "two red circles above a blue square",
    "three green triangles",
    'a yellow sign saying "CAB"',
    "a pink heart",
)


@dataclass(frozen=True)
class Host:
    """Attributes:
    pipe: a diffusers pipeline, used only when it is one's turn.
    default: the search to start from; its evaluators are those there are.
    embedded: whether `pipe` is the package's own model.
    model: its name, for what is written into pictures.
    judges: who chooses among finished pictures in halving; empty for the evaluators of the search.
    """

    pipe: Any
    default: GreedySearch
    embedded: bool
    decode: Decoder
    model: str = "embedded"
    judges: tuple[Evaluator, ...] = ()
    turns: Turns = field(default_factory=Turns)
    visits: Visits = field(default_factory=Visits)

    @cached_property
    def takes(self) -> frozenset[str]:
        """The names of what the pipeline's call takes."""
        return frozenset(inspect.signature(self.pipe.__call__).parameters)

    @property
    def sized(self) -> bool:
        """Whether pictures may have another size. The embedded model knows one alone."""
        return not self.embedded and {"width", "height"} <= self.takes

    @cached_property
    def own_sampler(self) -> str:
        return type(self.pipe.scheduler).__name__

    @cached_property
    def samplers(self) -> dict[str, type]:
        """Schedulers that may take the place of the pipeline's own, which is not among them, by name."""
        kin = getattr(self.pipe.scheduler, "compatibles", ())
        found = {cls.__name__: cls for cls in kin if cls.__name__ in AFFINE and cls.__name__ != self.own_sampler}
        return dict(sorted(found.items()))

    @cached_property
    def methods(self) -> tuple[str, ...]:
        return methods.offered(self.default.evaluators)

    @cached_property
    def settings(self) -> Settings:
        """Those that the page starts with."""
        weights = tuple((name, self.default.weights.get(name, 1.0)) for name in self.default.evaluators)
        text, static = (OF_SHAPES[0], SCALE) if self.embedded else (EXAMPLES[0], STATIC_SCALE)
        own = {"scales": tuple(self.default.scales), "every": self.default.every, "weights": weights}
        first = Settings(text, static=static, **own)
        # The sampler of a model of one's own is not changed unasked.
        if not self.embedded or "noise" not in self.methods:
            return first
        return replace(first, methods=("halving", "static"), every=1)  # as it was measured

    def checked(self, settings: Settings) -> Settings:
        """Raises ValueError where `settings` cannot be used, in words for the visitor."""
        return check(settings, self.settings, tuple(self.samplers), self.methods)

    @contextmanager
    def sampler(self, name: str) -> Iterator[None]:
        """The pipeline with another scheduler, until the end of the block."""
        own = self.pipe.scheduler
        if name:
            self.pipe.scheduler = self.samplers[name].from_config(own.config)
        try:
            yield
        finally:
            self.pipe.scheduler = own
