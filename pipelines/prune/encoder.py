"""Patches leave a stock vision encoder between two layers: CLIP, SigLIP and ViT."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from evaluators.token.base import TokenContext, observes
from guidance.tokens.pruning import TokenPruning, join, keep_count, merge_dropped

from .attention import compact, take
from .hooks import Hooks
from .run import PruningTrace, Traces

# class of the encoder -> how many tokens come before the patches (the class token), and the names in a layer
ENCODERS = {
    "CLIPVisionModel": (1, "layer_norm1", "self_attn"),
    "SiglipVisionModel": (0, "layer_norm1", "self_attn"),
    "ViTModel": (1, "layernorm_before", "attention"),
}


class Left(threading.local):
    """What is left in the forward that this thread is in.

    Attributes:
        patches: ``(batch, patches now)``, which patch each is; `None` until pruned.
        previous: states that the previous layer was given, kept where it is asked for.
    """

    def __init__(self) -> None:
        self.patches: torch.Tensor | None = None
        self.previous: torch.Tensor | None = None


class EncoderPruner:
    """The hooks on one vision encoder. Every row keeps as many patches, so nothing is padded; the class token stays.

    ``last_hidden_state`` becomes shorter; poolers see the patches left.

    Args:
        encoder: of one of `ENCODERS`.
        pruning: what to drop. Its evaluators can read attention among patches, the class token's, keys and states.

    Raises:
        ValueError: fewer layers than `pruning` names, or an evaluator that follows tokens through a decoder.
    """

    def __init__(self, encoder: nn.Module, pruning: TokenPruning) -> None:
        self.encoder, self.pruning = encoder, pruning
        self.first, self.norm, self.block = ENCODERS[type(encoder).__name__]
        stack: Any = encoder if hasattr(encoder, "layers") else encoder.encoder
        self.layers: Sequence[nn.Module] = stack.layers
        depth = len(self.layers)
        if (deepest := max(pruning.keep)) >= depth:
            raise ValueError(f"`keep` names layer {deepest}, and the model has {depth}: allowed are 0 to {depth - 1}.")
        if names := [e.name for e in pruning.evaluators.values() if observes(e)]:
            raise ValueError(f"evaluator {names[0]!r} follows tokens through a language model, not a vision encoder.")
        self.hooks = Hooks()
        self.left, self.traces = Left(), Traces()

    def attach(self) -> None:
        for index, layer in enumerate(self.layers):
            self.hooks.before(layer, self.before_layer(index))
        self.hooks.before(self.encoder, lambda module, args, kwargs: self.clear())
        self.hooks.after(self.encoder, lambda module, args, kwargs, output: self.clear())

    def detach(self) -> None:
        self.hooks.remove()
        self.clear()

    def clear(self) -> None:
        self.left.patches = self.left.previous = None

    def before_layer(self, index: int) -> Callable:
        def hook(layer: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
            states, *rest = args
            if any(value is not None for value in (*rest, kwargs.get("attention_mask"))):
                raise ValueError("`attention_mask` must be None: a pruned vision encoder takes whole images.")
            if index in self.pruning.keep:
                states = self.prune(index, states)
            self.left.previous = states if index + 1 in self.pruning.keep else None
            return (states, *rest), kwargs

        return hook

    def prune(self, index: int, states: torch.Tensor) -> torch.Tensor:
        """Drops patches before layer `index`: ``(batch, n, dim)`` to ``(batch, fewer, dim)``."""
        first, tokens = self.first, states[:, self.first :]
        batch, present, _ = tokens.shape
        if self.left.patches is None:
            self.left.patches = torch.arange(present, device=states.device).expand(batch, -1)
            self.traces.add(PruningTrace(torch.ones(batch, present, dtype=torch.bool, device=states.device)))
        last = self.traces.last
        assert last is not None
        total = torch.full((batch, 1), last.visual.shape[1], device=states.device)
        keep = keep_count(self.pruning.keep[index], total, torch.full_like(total, present))
        if int(keep[0, 0]) == present:
            return states
        valid = torch.ones(batch, present, dtype=torch.bool, device=states.device)
        context = TokenContext(
            layer=index,
            valid=valid,
            keep=keep,
            ordinal=self.left.patches,
            states=states,
            attention_matrix=lambda: self.attention(index)[:, :, first:, first:],
            keys=lambda: self.project(index, states, "k_proj").transpose(1, 2).flatten(2)[:, first:],
            encoder_attention=(lambda: self.attention(index)[:, :, 0, first:].sum(1)) if first else None,
        )
        with torch.no_grad():
            decision = self.pruning.decide(tokens, context)
        if decision.target is not None:
            tokens = join(tokens, decision.target)
        elif decision.into is not None:
            tokens = merge_dropped(tokens, valid & ~decision.stays, decision.into)
        order, _ = compact(decision.stays)
        self.left.patches = self.left.patches.gather(1, order)
        last.kept[index] = torch.zeros_like(last.visual).scatter(1, self.left.patches, True)
        last.decisions[index] = decision
        return torch.cat([states[:, :first], take(tokens, order)], 1)

    def project(self, index: int, states: torch.Tensor, name: str) -> torch.Tensor:
        """Queries or keys of a layer, ``(batch, heads, n, head dim)``."""
        layer = self.layers[index]
        block = getattr(layer, self.block)
        projected = getattr(block, name)(getattr(layer, self.norm)(states))
        return projected.unflatten(-1, (-1, block.head_dim)).transpose(1, 2)

    def attention(self, index: int) -> torch.Tensor:
        """Of the layer before `index`, which has just run, ``(batch, heads, n, n)`` float32.

        Raises:
            ValueError: there is none.
        """
        if self.left.previous is None:
            raise ValueError("attention of the previous layer cannot be read before the first layer: prune later.")
        queries, keys = (self.project(index - 1, self.left.previous, name) for name in ("q_proj", "k_proj"))
        return (queries @ keys.transpose(-1, -2)).float().mul(queries.shape[-1] ** -0.5).softmax(-1)
