"""Patches leave a stock vision encoder between two layers, or are merged in one: CLIP, SigLIP and ViT."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from evaluators.token.base import TokenContext, observes
from guidance.tokens.pruning import TokenPruning, join, merge_dropped

from .attention import compact, take
from .hooks import Hooks
from .run import PruningTrace, Traces

# class of the encoder -> how many tokens come before the patches (the class token), and the names in a layer
ENCODERS = {
    "CLIPVisionModel": (1, "layer_norm1", "self_attn", "layer_norm2"),
    "SiglipVisionModel": (0, "layer_norm1", "self_attn", "layer_norm2"),
    "ViTModel": (1, "layernorm_before", "attention", "layernorm_after"),
}


class Inside:
    """Of a layer in which patches are merged, between attention and MLP. The layer would add what its MLP makes of the
    patches left to the states of all; so it is given nothing to add, and its output is put together outside.

    Attributes:
        keys: of its attention, ``(batch, n, heads · head dim)``.
        states: what its MLP is to be added to, ``(batch, fewer, dim)``; `None` where nothing was merged.
        update: what its MLP made of them.
    """

    keys: torch.Tensor
    states: torch.Tensor | None = None
    update: torch.Tensor


class Left(threading.local):
    """What is left in the forward that this thread is in.

    Attributes:
        patches: ``(batch, patches now)``, which patch each is; `None` until pruned.
        previous: states that the previous layer was given, kept where it is asked for.
        sizes: ``(batch, patches now)`` float32, of how many each is the mean; `None` until any were merged.
        inside: of the layer that runs, see `Inside`.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.patches: torch.Tensor | None = None
        self.previous: torch.Tensor | None = None
        self.sizes: torch.Tensor | None = None
        self.inside = Inside()


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
        self.first, self.norm, self.block, self.second_norm = ENCODERS[type(encoder).__name__]
        stack: Any = encoder if hasattr(encoder, "layers") else encoder.encoder
        self.layers: Sequence[nn.Module] = stack.layers
        depth = len(self.layers)
        if (deepest := max(pruning.keep)) >= depth:
            raise ValueError(f"`keep` names layer {deepest}, and the model has {depth}: allowed are 0 to {depth - 1}.")
        if names := [e.name for e in pruning.evaluators.values() if observes(e)]:
            raise ValueError(f"evaluator {names[0]!r} follows tokens through a language model, not a vision encoder.")
        self.merges = getattr(pruning.select, "sized", False)
        self.hooks = Hooks()
        self.left, self.traces = Left(), Traces()

    def attach(self) -> None:
        for index, layer in enumerate(self.layers):
            self.hooks.before(layer, self.before_layer(index))
            if self.merges and index in self.pruning.keep:
                self.attach_inside(index, layer)
        self.hooks.before(self.encoder, lambda module, args, kwargs: self.left.clear())
        self.hooks.after(self.encoder, lambda module, args, kwargs, output: self.left.clear())

    def attach_inside(self, index: int, layer: Any) -> None:
        """The hooks for merging in a layer, see `Inside`."""
        left = self.left

        def after_keys(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: torch.Tensor) -> None:
            left.inside.keys = output

        def before_second_norm(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict]:
            states = self.prune(index, args[0])
            left.inside.states = states if states is not args[0] else None
            return (states, *args[1:]), kwargs

        def after_mlp(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: torch.Tensor) -> Any:
            if left.inside.states is None:
                return None
            left.inside.update = output
            return output.new_zeros(1)

        def after_layer(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
            states = left.inside.states
            return None if states is None else states + left.inside.update

        self.hooks.after(getattr(layer, self.block).k_proj, after_keys)
        self.hooks.before(getattr(layer, self.second_norm), before_second_norm)
        self.hooks.after(layer.mlp, after_mlp)
        self.hooks.after(layer, after_layer)

    def detach(self) -> None:
        self.hooks.remove()
        self.left.clear()

    def before_layer(self, index: int) -> Callable:
        def hook(layer: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
            states, *rest = args
            if any(value is not None for value in (*rest, kwargs.get("attention_mask"))):
                raise ValueError("`attention_mask` must be None: a pruned vision encoder takes whole images.")
            self.left.inside = Inside()
            if self.left.sizes is not None:
                kwargs = kwargs | {"attention_mask": self.proportional(self.left.sizes, states)}
                rest = rest[1:]  # the mask, where it has no name
            if index in self.pruning.keep and not self.merges:
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
        keep = self.pruning.count(index, total, torch.full_like(total, present))
        if int(keep[0, 0]) == present:
            return states
        valid = torch.ones(batch, present, dtype=torch.bool, device=states.device)
        read: dict[str, Any] = {
            "attention_matrix": lambda: self.attention(index)[:, :, first:, first:],
            "keys": lambda: self.project(index, states, "k_proj").transpose(1, 2).flatten(2)[:, first:],
            "encoder_attention": (lambda: self.attention(index)[:, :, 0, first:].sum(1)) if first else None,
        }
        if self.merges:
            heads = self.left.inside.keys.unflatten(-1, (-1, getattr(self.layers[index], self.block).head_dim))
            read = {"encoder_keys": lambda: heads.mean(2)[:, first:]}
        context = TokenContext(layer=index, valid=valid, keep=keep, ordinal=self.left.patches, states=states, **read)
        with torch.no_grad():
            decision = self.pruning.decide(tokens, context)
        if decision.target is not None:
            sizes = self.left.sizes
            if self.merges:
                sizes = torch.ones_like(decision.target, dtype=torch.float32) if sizes is None else sizes
                self.left.sizes = torch.zeros_like(sizes).scatter_add(1, decision.target, sizes)
            tokens = join(tokens, decision.target, sizes)
        elif decision.into is not None:
            tokens = merge_dropped(tokens, valid & ~decision.stays, decision.into)
        order, _ = compact(decision.stays)
        self.left.patches = self.left.patches.gather(1, order)
        self.left.sizes = None if self.left.sizes is None else self.left.sizes.gather(1, order)
        last.kept[index] = torch.zeros_like(last.visual).scatter(1, self.left.patches, True)
        last.decisions[index] = decision
        return torch.cat([states[:, :first], take(tokens, order)], 1)

    def proportional(self, sizes: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """What is added to attention's logits so that a key counts as the patches that it stands for, ``log size``,
        ``(batch, 1, 1, n)``.

        Raises:
            ValueError: of `attn_implementation`, which takes none.
        """
        config: Any = self.encoder.config
        if (attention := config._attn_implementation) not in ("sdpa", "eager"):
            raise ValueError(f"`attn_implementation` must be 'sdpa' or 'eager' to merge patches, got {attention!r}.")
        return nn.functional.pad(sizes.log(), (self.first, 0))[:, None, None].to(states.dtype)

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
