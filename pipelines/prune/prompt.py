"""Where the prompt ends: what is dropped is decided by what was asked, never by what is drafted or answered. And what a
call says of its tokens."""

import functools
import inspect
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .hooks import Hooks
from .run import Prompt

IGNORED = -100  # the label that transformers' losses leave out
KINDS = "mm_token_type_ids"  # 1 at images, 2 at videos, as processors call it
TOLD = ("instruction_mask", KINDS)  # of each token, by whoever calls


@dataclass
class Generation:
    """A call of `generate`.

    Attributes:
        end: length of its prompt; what is behind it was written or drafted.
        told: by names in `TOLD`, ``(rows, tokens)``, where given: of the last tokens of the prompt.
    """

    end: int
    told: dict[str, torch.Tensor]


class Calls(threading.local):
    """What is known of the calls that this thread is in: of `generate`, innermost last, and of the model."""

    def __init__(self) -> None:
        self.generations: list[Generation] = []
        self.counted: torch.Tensor | None = None  # (batch, length), the label next to a token counts
        self.told: dict[str, torch.Tensor] = {}


def last_true(mask: torch.Tensor) -> torch.Tensor:
    """The last True entry of each row of `mask` ``(batch, length)``, likewise; none in a row without any."""
    count = mask.cumsum(1)
    return mask & (count == count[:, -1:])


def after_last(visual: torch.Tensor) -> torch.Tensor:
    """What comes after the last visual token of a row, ``(batch, length)`` bool; nothing where it has none."""
    return visual.any(1, keepdim=True) & ~visual.flip(1).cummax(1).values.flip(1)


class PromptReader:
    """Reads where the prompt ends off the calls of a model: the length of what `generate` was given, `labels` of a
    training step, and what both may be told while pruning, see `TOLD`.

    Args:
        model: what was given to `prune`.
        host: the module in it that takes images.
        decoder: the module in that which may be called by itself.
    """

    def __init__(self, model: nn.Module, host: nn.Module, decoder: nn.Module) -> None:
        self.modules: list[Any] = [m for m in model.modules() if any(part is host for part in m.modules())] + [decoder]
        takes = {name for module in self.modules for name in inspect.signature(module.forward).parameters}
        self.foreign = [name for name in TOLD if name not in takes]  # what the model would not know what to do with
        self.calls = Calls()

    def attach(self, hooks: Hooks) -> None:
        for module in self.modules:
            hooks.before(module, self.before(inspect.signature(module.forward)))
            hooks.after(module, self.after, always=True)
            if stock := getattr(module, "generate", None):
                module.__dict__["generate"] = functools.wraps(stock)(functools.partial(self.generate, module, stock))

    def detach(self) -> None:
        for module in self.modules:
            module.__dict__.pop("generate", None)

    def generate(self, module: Any, stock: Any, *args: Any, **kwargs: Any) -> Any:
        """`generate`, which also takes what is in `TOLD`, like `input_ids`.

        Raises:
            ValueError: the prompt would be read in chunks, each of which would be pruned as if it were all.
        """
        config = kwargs.get("generation_config") or (args[1] if len(args) > 1 else None) or module.generation_config
        if kwargs.get("prefill_chunk_size", getattr(config, "prefill_chunk_size", None)) is not None:
            raise ValueError("`prefill_chunk_size` must be None while pruning, which decides on the whole prompt.")
        told = dict(self.calls.generations[-1].told) if self.calls.generations else {}  # by a module around this one
        told |= {name: kwargs[name] for name in TOLD if kwargs.get(name) is not None}
        self.calls.generations.append(Generation(prompt_length(args, kwargs), told))
        try:
            return stock(*args, **self.known(kwargs))
        finally:
            self.calls.generations.pop()

    def before(self, signature: inspect.Signature) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
            call = signature.bind_partial(*args, **kwargs).arguments if args else kwargs
            labels = call.get("labels", kwargs.get("labels"))
            if (shifted := kwargs.get("shift_labels")) is not None:
                self.calls.counted = shifted != IGNORED
            elif labels is not None and labels.ndim == 2:
                self.calls.counted = F.pad(labels[:, 1:] != IGNORED, (0, 1))
            given = {**kwargs, **call}
            self.calls.told |= {name: given[name] for name in TOLD if given.get(name) is not None}
            return args, self.known(kwargs)

        return hook

    def known(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """What the model itself takes of `kwargs`."""
        return {name: value for name, value in kwargs.items() if name not in self.foreign}

    def after(self, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        self.calls.counted, self.calls.told = None, {}

    def told(self, name: str, seen: int, batch: int, length: int) -> torch.Tensor | None:
        """What the caller says by a name in `TOLD` of a chunk of the sequence, ``(batch, length)``.

        Args:
            seen: tokens before the chunk.

        Raises:
            ValueError: it is of another shape.
        """
        values = self.calls.told.get(name)
        if values is None and self.calls.generations:
            generation = self.calls.generations[-1]
            values = generation.told.get(name)
            if values is not None and values.shape[1] <= generation.end:
                before = generation.end - values.shape[1]  # in the cache, where the new tokens alone are given
                values = values.repeat_interleave(max(1, batch // len(values)), 0)  # repeated rows follow one another
                values = F.pad(values, (before, seen + length))[:, seen : seen + length]
        if values is not None and values.shape != (batch, length):
            raise ValueError(f"`{name}` must be (batch, tokens) = {(batch, length)}, got {tuple(values.shape)}.")
        return values

    def read(self, seen: int, visual: torch.Tensor, real: torch.Tensor) -> Prompt:
        """The prompt in a chunk of the sequence.

        Args:
            seen: tokens before the chunk.
            visual: ``(batch, length)``, tokens of the chunk.
            real: ``(batch, length)``, those that are no padding.

        Raises:
            ValueError: `instruction_mask` of another shape.
        """
        batch, length = visual.shape
        calls, generation = self.calls, self.calls.generations[-1] if self.calls.generations else None
        prompt = real
        if generation is not None:
            prompt = prompt & (seen + torch.arange(length, device=real.device) < generation.end)
        if calls.counted is not None and calls.counted.shape == visual.shape:
            counted = calls.counted.to(real.device) & real
            answer = F.pad(counted, (1, 0))[:, :-1] & after_last(visual & prompt)
            prompt = prompt & ~answer.cummax(1).values
        else:
            counted = torch.zeros_like(visual)
        asked = self.told("instruction_mask", seen, batch, length)
        visual = visual & prompt
        if asked is None:
            instruction = prompt & after_last(visual)
        else:
            instruction = asked.to(real.device).bool() & prompt & ~visual
            prompt = prompt & (visual | instruction).flip(1).cummax(1).values.flip(1)
        last = last_true(prompt)
        needed = visual & (last_true(real) | last | counted)
        return Prompt(prompt, visual, instruction, needed, last)


def prompt_length(args: tuple, kwargs: Mapping[str, Any]) -> int:
    """How many tokens `generate` with these arguments is given; those in its cache, too, are in the mask if not among
    the tokens."""
    named = (kwargs.get(name) for name in ("inputs", "input_ids", "inputs_embeds", "attention_mask"))
    return max((part.shape[1] for part in (*args[:1], *named) if part is not None), default=0)
