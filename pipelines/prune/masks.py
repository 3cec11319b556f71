"""What each of the tokens left sees: those that are left of what it would see if all were there.

Order is kept, so that a causal mask stays one. Any other (a sliding window, a chunk, an image that is read in both
directions) is looked up in the mask that transformers made for the whole sequence: windows count every token.
"""

import inspect
from typing import Any, TypeGuard, cast

import torch
import torch.nn.functional as F
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, causal_mask_function

from .attention import parts_of, take
from .cache import PrunedLayer
from .modules import LanguageModel, VisionLanguageModel
from .run import Run, Stage

# kind of attention -> what its reach is called in a config
REACH = {"full_attention": None, "sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}


def layer_kinds(config: Any, depth: int) -> list[str]:
    """What attention each of `depth` layers has, as transformers calls it."""
    kinds = getattr(config, "layer_types", None)
    if kinds:
        return list(kinds)
    return ["sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"] * depth


def reads_both_ways(host: VisionLanguageModel, config: Any) -> bool:
    """Whether images, or more, are read in both directions."""
    typed = "token_type_ids" in inspect.signature(host.forward).parameters or host.config.model_type == "molmo2"
    return typed or getattr(config, "use_bidirectional_attention", None) == "vision"


def is_causal(run: Run, mask: torch.Tensor) -> bool:
    """Whether by `mask` ``(batch, 1, length, seen + length)`` every token sees those before it."""
    allowed = as_allowed(mask).to(run.real.device)
    causal = torch.ones(allowed.shape[1:], dtype=torch.bool, device=allowed.device).tril(run.seen)
    return not bool(((allowed != (run.real[:, None] & causal)) & run.real[:, run.seen :, None]).any())


def as_allowed(mask: torch.Tensor) -> torch.Tensor:
    """``(batch, 1, length, keys)`` of bool or of what is added to logits, to ``(batch, length, keys)`` bool."""
    return (mask if mask.dtype == torch.bool else mask == 0)[:, 0]


def whole_mask(mask: Any) -> TypeGuard[torch.Tensor]:
    """Whether `mask` says of every token what it sees; others say what is padding, or nothing."""
    return isinstance(mask, torch.Tensor) and mask.ndim == 4


class Staging:
    """Masks and rotary embeddings for the states that are left.

    Args:
        host, model, renumber: see `DecoderPruner`, whose `language_model` is `model`.
    """

    def __init__(self, host: VisionLanguageModel, model: LanguageModel, renumber: bool) -> None:
        self.model, self.renumber = model, renumber
        self.two_way = reads_both_ways(host, model.config)
        rope = getattr(model.config, "rope_parameters", None) or {}
        self.scaled = rope.get("llama_4_scaling_beta") is not None  # Ministral 3's layers read `position_ids`
        self.unscaled = rope.get("original_max_position_embeddings")
        kinds = layer_kinds(model.config, len(model.layers))
        self.reach = [getattr(model.config, name) if (name := REACH[kind]) else None for kind in kinds]

    def check(self, run: Run, index: int, mask: Any) -> None:
        """Raises ValueError where `mask`, given to layer `index`, does not say what the tokens left see."""
        reach, attention = self.reach[index], self.model.config._attn_implementation
        if reach and run.seen + run.length > reach and not whole_mask(mask):
            raise ValueError(
                f"`attn_implementation` must be 'sdpa' or 'eager' beyond the {reach} tokens of a window of `model`: "
                f"{attention!r} would count it in the tokens left."
            )
        layer = self.model.layers[index].self_attn
        scaled = getattr(layer, "attn_temperature_tuning", False) and not layer.use_rope
        most = layer.floor_scale if scaled else self.unscaled if self.scaled else None
        if most and run.slots is not None and run.seen + run.length >= most:
            raise ValueError(f"`model` scales attention by position from {most} tokens on: it is too long.")
        if self.scaled and attention not in ("sdpa", "eager"):
            raise ValueError(f"`attn_implementation` must be 'sdpa' or 'eager' for `model`, got {attention!r}.")
        if self.two_way and mask is not None and not isinstance(mask, torch.Tensor):
            raise ValueError(
                f"`attn_implementation` must be 'sdpa' or 'eager' where `model` reads images in both directions, got "
                f"{attention!r}."
            )

    def next_token(self, run: Run, index: int, kwargs: dict[str, Any]) -> Stage | None:
        """The stage where one token follows a cache without an empty slot or padding, and masks hide nothing; else
        `None`. Writing costs what it does without pruning, or less."""
        layer = run.cache.layers[index] if run.cache is not None else None
        if run.length > 1 or self.renumber or run.slots is not None or not getattr(layer, "full", False):
            return None
        if self.reach[index] and kwargs.get("attention_mask") is not None:
            return None
        past = cast(PrunedLayer, layer).kept
        source = (past, kwargs.get("attention_mask"), kwargs["position_embeddings"])
        if stage := run.stage_from(source):
            return stage
        if run.unpadded is None:
            run.unpadded = bool(run.real.all())
        if not run.unpadded:
            return None
        kept = F.pad(past, (0, 1), value=run.seen)
        return run.add_stage(Stage(source, kept, kept >= 0, None, source[2]))

    def stage(
        self, run: Run, index: int, past: torch.Tensor | None, states: torch.Tensor, kwargs: dict[str, Any]
    ) -> Stage:
        """For the present states ``(batch, n, dim)`` in layer `index`, after its cached tokens `past`.

        Args:
            kwargs: what the layer was called with, as if nothing were pruned.

        Raises:
            ValueError: its mask is of another length than the sequence.
        """
        given, whole = kwargs.get("attention_mask"), kwargs["position_embeddings"]
        source = (past, given, whole)
        if stage := run.stage_from(source):
            return stage
        slots = run.chunk()
        batch, length = slots.shape
        kept, valid = slots, run.present()
        if run.seen:
            before = torch.arange(run.seen, device=slots.device).expand(batch, -1) if past is None else past
            kept = torch.cat([before.to(slots.device), torch.where(slots < 0, -1, slots + run.seen)], 1)
            valid = run.real.gather(1, kept.clamp(min=0)) & (kept >= 0)
        config, offset = self.model.config, kept.shape[1] - length
        sees, causal = causal_mask_function, True
        if whole_mask(given):
            if given.shape[-1] != run.real.shape[1]:
                raise ValueError(f"`attention_mask` of layer {index} has {given.shape[-1]} keys, not all tokens.")
            causal = not self.reach[index] and (run.length == 1 or is_causal(run, given))
            if not causal:
                sees = looked_up(as_allowed(given), slots.clamp(min=0), kept.clamp(min=0), offset)
        mask = ALL_MASK_ATTENTION_FUNCTIONS[config._attn_implementation](
            batch_size=batch,
            q_length=length,
            kv_length=kept.shape[1],
            q_offset=offset,
            kv_offset=0,
            mask_function=sees,
            attention_mask=valid,
            allow_is_causal_skip=causal,
            dtype=states.dtype,
            config=config,
            device=states.device,
        )
        rotary = whole
        if self.renumber:
            gone = run.real.cumsum(1).gather(1, kept.clamp(min=0)) - valid.cumsum(1)
            positions = kwargs["position_ids"].expand(batch, -1).gather(1, slots.clamp(min=0)) - gone[:, -length:]
            rotary = self.model.rotary_emb(states, positions.clamp(min=0))
        elif run.slots is not None:
            left = [run.states_of(part.expand(batch, -1, -1)) for part in parts_of(whole)]
            rotary = tuple(left) if isinstance(whole, tuple) else left[0]
        return run.add_stage(Stage(source, kept, valid, mask, rotary, None if causal else as_allowed(mask)))

    def rotary_of_rows(self, run: Run, stage: Stage, positions: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        """`parts_of` the embeddings of a `stage`, as of rows by themselves: where a model is called without `positions`
        ``(batch or 1, length)`` it counts padding on the left, too, which what looks at single keys would see."""
        if positions is None or positions.ndim != 2 or run.seen:
            return parts_of(stage.rotary)
        if not bool((~run.real[:, 0] & (positions[:, -1] == run.length - 1)).any()):
            return parts_of(stage.rotary)
        counted = stage.valid.cumsum(1) if self.renumber else run.real.cumsum(1).gather(1, stage.kept.clamp(min=0))
        whole = parts_of(stage.source[2])
        return tuple(take(part.expand(len(counted), -1, -1), (counted - 1).clamp(min=0)) for part in whole)


def looked_up(allowed: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, offset: int) -> Any:
    """A mask function of transformers that reads `allowed` ``(batch, length, keys)`` at what is left: the n-th query,
    which transformers counts from `offset`, is ``rows[:, n]``, and the n-th key ``columns[:, n]``."""
    allowed = allowed.to(rows.device)

    def sees(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return allowed[batch, rows[batch, query - offset], columns[batch, key]]

    return sees
