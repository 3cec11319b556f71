"""What the hooks of one pruned forward share, and what is kept of it."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from transformers.cache_utils import Cache

from evaluators.token.base import Frames
from guidance.tokens.pruning import Decision

from .attention import compact


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
    """

    tokens: torch.Tensor
    visual: torch.Tensor
    instruction: torch.Tensor
    needed: torch.Tensor


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
        unpadded: whether all of `real` is True; `None` until asked.
        places: what `candidates` found; `None` until asked.
        asked: what `deciding` found; `None` until asked.
        accumulated: see `TokenContext`.
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

    def chunk(self) -> torch.Tensor:
        """`slots`, also where nothing was pruned."""
        if self.slots is not None:
            return self.slots
        return torch.arange(self.length, device=self.real.device).expand(self.real.shape[0], -1)

    def at_slots(self, values: torch.Tensor) -> torch.Tensor:
        """Chunk values ``(batch, length)`` at the present states ``(batch, n)``; zero or False at empty ones."""
        slots = self.chunk()
        return values.gather(1, slots.clamp(min=0)).masked_fill(slots < 0, 0)

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

    def image_at(self, place: torch.Tensor) -> torch.Tensor:
        """`image` of the states at `place` ``(batch, tokens)``, likewise."""
        assert self.image is not None
        return self.image.gather(1, self.chunk().gather(1, place).clamp(min=0))

    def per_image(self, tokens: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """How many of `tokens` ``(batch, any)`` bool each image has, ``(batch, images)``."""
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
