"""What the hooks of one pruned forward share, and what is kept of it."""

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from transformers.cache_utils import Cache

from evaluators.token.base import Embeddings, Frames
from guidance.tokens.pruning import Decision

from .attention import compact, take


@dataclass
class Stage:
    """Layers of a kind between two prunings see the same sequence: what their hooks hand them.

    Attributes:
        source: what it was made of: the cached tokens, and mask and rotary embeddings of the whole sequence.
        kept: ``(batch, keys)``, the index in the unpruned sequence of each key, -1 for an empty one.
        valid: ``(batch, keys)``, which keys are tokens, neither padding nor empty.
        mask, rotary: what layers are given.
        allowed: ``(batch, n, keys)``, what each state sees, `None` where that is what is before it.
    """

    source: tuple[Any, Any, Any]
    kept: torch.Tensor
    valid: torch.Tensor
    mask: Any
    rotary: Any
    allowed: torch.Tensor | None = None


class Prompt(NamedTuple):
    """What a chunk asks, all ``(batch, length)`` bool.

    Attributes:
        tokens: what decides: neither padding nor drafted nor answered.
        visual: its visual tokens.
        instruction: what is asked about them.
        needed: visual tokens that the model reads out from, which must stay.
        last: the last of `tokens`.
    """

    tokens: torch.Tensor
    visual: torch.Tensor
    instruction: torch.Tensor
    needed: torch.Tensor
    last: torch.Tensor


@dataclass
class Run:
    """One forward of the language model over a chunk of the sequence (the prompt, a new turn, or one new token).

    Attributes:
        seen, length: tokens before the chunk and in it, as the unpruned model counts.
        real: ``(batch, seen + length)``, False at padding.
        embeds: what the first layer was given, ``(batch, length, dim)``.
        prompt: `None` where the chunk has no visual token.
        image, images: ``(batch, length)``, of which image of its row a visual token is, and how many a row has at most.
        frames: finds `TokenContext.frames`.
        slots: ``(batch, n)``, the index in the chunk of what each state is, -1 for an empty one; `None` until pruned.
        index, empty: `slots` where an empty one has index 0, and which are empty.
        unpadded: whether all of `real` is True; `None` until asked.
        places: what `candidates` found; `None` until asked.
        asked: what `deciding` found; `None` until asked.
        accumulated: by evaluator name, see `TokenContext`, of the present states ``(batch, n)``.
        stages: of the layers since the last pruning.
        kept: by layer index, `PrunedLayer.kept` after this forward.
        previous: states and named arguments that the previous layer was given, kept where they are asked for.
    """

    seen: int
    length: int
    real: torch.Tensor
    embeds: torch.Tensor
    prompt: Prompt | None
    image: torch.Tensor | None = None
    images: int = 1
    frames: Callable[[], Frames] | None = None
    slots: torch.Tensor | None = None
    index: torch.Tensor | None = None
    empty: torch.Tensor | None = None
    unpadded: bool | None = None
    places: tuple[torch.Tensor, torch.Tensor] | None = None
    asked: torch.Tensor | None = None
    accumulated: dict[str, torch.Tensor] = field(default_factory=dict)
    stages: list[Stage] = field(default_factory=list)
    kept: dict[int, torch.Tensor] = field(default_factory=dict)
    cache: Cache | None = None
    previous: tuple[torch.Tensor, dict[str, Any]] | None = None

    def stage_from(self, source: tuple[Any, Any, Any]) -> Stage | None:
        """The stage that was made of the very same, if any."""
        return next((s for s in self.stages if all(a is b for a, b in zip(s.source, source, strict=True))), None)

    def add_stage(self, stage: Stage) -> Stage:
        self.stages.append(stage)
        return stage

    @functools.cached_property
    def total(self) -> torch.Tensor:
        """How many visual tokens each image has, ``(batch, images)``."""
        assert self.prompt is not None
        return self.per_image(self.prompt.visual, self.image)

    @functools.cached_property
    def embeddings(self) -> Embeddings:
        """See `TokenContext.embeddings`."""
        assert self.prompt is not None
        tokens, real = compact(self.prompt.visual)
        words, spoken = compact(self.prompt.instruction)
        return Embeddings(take(self.embeds, tokens), real, take(self.embeds, words), spoken)

    @functools.cached_property
    def whole(self) -> torch.Tensor:
        """`slots` where nothing was pruned."""
        return torch.arange(self.length, device=self.real.device).expand(self.real.shape[0], -1)

    def chunk(self) -> torch.Tensor:
        """`slots`, also where nothing was pruned."""
        return self.whole if self.slots is None else self.slots

    def leave(self, slots: torch.Tensor) -> None:
        """From now on these are `slots`, and nothing is known of them."""
        self.slots, self.index, self.empty = slots, slots.clamp(min=0), slots < 0
        self.places, self.asked, self.stages = None, None, []

    def at_slots(self, values: torch.Tensor) -> torch.Tensor:
        """Chunk values ``(batch, length)`` at the present states ``(batch, n)``; zero or False at empty ones."""
        if self.index is None or self.empty is None:
            return values
        return values.gather(1, self.index).masked_fill(self.empty, 0)

    def states_of(self, values: torch.Tensor) -> torch.Tensor:
        """Chunk values ``(batch, length, any)`` at the present states; any at empty ones."""
        return values if self.index is None else take(values, self.index)

    def origin(self, place: torch.Tensor) -> torch.Tensor:
        """Where in the chunk the states at `place` ``(batch, any)`` were, likewise."""
        return place if self.index is None else self.index.gather(1, place)

    def candidates(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Indices of the visual states among the present ones and which are real, both ``(batch, tokens)``."""
        if self.places is None:
            assert self.prompt is not None
            self.places = compact(self.at_slots(self.prompt.visual))
        return self.places

    def deciding(self) -> torch.Tensor:
        """Which of the present states are `Prompt.tokens`, ``(batch, n)`` bool."""
        if self.asked is None:
            assert self.prompt is not None
            self.asked = self.at_slots(self.prompt.tokens)
        return self.asked

    def image_at(self, place: torch.Tensor) -> torch.Tensor | None:
        """`image` of the states at `place` ``(batch, tokens)``, likewise; `None` where no row has several."""
        return self.image.gather(1, self.origin(place)) if self.image is not None and self.images > 1 else None

    def per_image(self, tokens: torch.Tensor, image: torch.Tensor | None) -> torch.Tensor:
        """How many of `tokens` ``(batch, any)`` bool each image has, ``(batch, images)``."""
        if image is None or self.images == 1:
            return tokens.sum(1, keepdim=True)
        counts = torch.zeros(len(tokens), self.images, dtype=torch.long, device=tokens.device)
        return counts.scatter_add(1, image, tokens.long())

    def present(self) -> torch.Tensor:
        """Which of the present states are tokens, neither padding nor empty, ``(batch, n)`` bool."""
        return self.at_slots(self.real[:, self.seen :])


@dataclass(frozen=True)
class PruningTrace:
    """What one forward dropped.

    Attributes:
        visual: ``(batch, length)``, where the visual tokens were in the input.
        kept: by layers run, where anything was dropped, ``(batch, length)``: where those that stayed were.
        decisions: by layers run, what `TokenPruning.decide` said of the visual tokens present then, in order.
    """

    visual: torch.Tensor
    kept: dict[int, torch.Tensor] = field(default_factory=dict)
    decisions: dict[int, Decision] = field(default_factory=dict)


class Traces:
    """The last trace, of the thread that asks if it made one."""

    def __init__(self) -> None:
        self.own = threading.local()
        self.latest: PruningTrace | None = None

    def add(self, trace: PruningTrace) -> None:
        self.own.last = self.latest = trace

    @property
    def last(self) -> PruningTrace | None:
        return getattr(self.own, "last", self.latest)
