"""The one mechanism: how visual tokens leave the sequence between two layers of a stock decoder.

A decoder's loop is ``for layer in layers: states = layer(states, mask, rotary, cache)``. While pruning is on, a hook in
front of each layer at which tokens are dropped hands on fewer states, and in front of each layer after it replaces the
mask and the rotary cosines by those of the tokens that are left. The layers' caches then hold what reached them
(`PrunedLayer`), which is all that decoding needs to build its masks. No modelling code is copied.
"""

import functools
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from evaluators.token.base import LayerObserver, observes
from guidance.tokens.pruning import TokenPruning

from .attention import take
from .cache import adopt, cache_of, check_cache, file_kept, kept_in
from .context import token_context
from .hooks import Hooks
from .hosts import check_decoder
from .images import VisualTokens
from .masks import Staging
from .merging import merged
from .modules import LanguageModel, VisionLanguageModel
from .prompt import KINDS, PromptReader
from .reader import EncoderReader
from .run import PruningTrace, Run, Stage, Traces


class Running(threading.local):
    """The forward that this thread is in, and the arguments of the host that it is for."""

    def __init__(self) -> None:
        self.run: Run | None = None
        self.call: dict[str, Any] | None = None


class DecoderPruner:
    """The hooks on one language model.

    Args:
        host: the vision-language model without its head, whose config names the ids of visual tokens.
        language_model: its decoder, see `find_host`.
        prompts: tells where the prompt ends.
        pruning: what to drop.
        renumber: whether the tokens left are given contiguous positions, as TransPrune does; by default each keeps its
            own.
        reader: gives what the vision encoder knows, where an evaluator reads it.

    Raises:
        ValueError: see `check_decoder`.
    """

    def __init__(
        self,
        host: VisionLanguageModel,
        language_model: LanguageModel,
        prompts: PromptReader,
        pruning: TokenPruning,
        renumber: bool = False,
        reader: EncoderReader | None = None,
    ) -> None:
        check_decoder(host, language_model, pruning, renumber)
        self.model, self.pruning, self.renumber = language_model, pruning, renumber
        self.host, self.prompts, self.reader = host, prompts, reader
        self.visual = VisualTokens(host)
        self.staging = Staging(host, language_model, renumber)
        self.running = Running()
        self.traces = Traces()
        self.hooks = Hooks()

    # -------------------------------------------------------------------------------------------------- hooks

    def attach(self) -> None:
        hooks = self.hooks
        self.prompts.attach(hooks)
        self.visual.attach()
        hooks.before(self.host, self.before_host)
        hooks.after(self.host, self.after_host, always=True)
        hooks.before(self.model, self.before_model)
        hooks.after(self.model, self.after_model)
        for index, layer in enumerate(self.model.layers):
            hooks.before(layer, self.before_layer(index))
            watching = [
                e for e in self.pruning.evaluators.values() if observes(e) and e.layers[0] <= index + 1 <= e.layers[1]
            ]
            if watching:
                for block in (layer.self_attn, getattr(layer, "mlp", None) or layer.feed_forward):
                    hooks.after(block, self.after_block(watching))
        if self.reader is not None:
            self.reader.attach(hooks)
        if stock := getattr(self.model, "_deepstack_process", None):
            self.model.__dict__["_deepstack_process"] = functools.partial(self.add_deepstack, stock)

    def detach(self) -> None:
        self.hooks.remove()
        self.model.__dict__.pop("_deepstack_process", None)
        self.prompts.detach()
        self.visual.detach()
        if self.reader is not None:
            self.reader.detach()

    def before_host(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        self.running.call = call = self.visual.arguments(args, kwargs)
        self.begin(call)
        adopt(cache_of(call), self.visual.seen.kind is not None)  # before the host makes masks by the cache
        if self.reader is not None:
            self.reader.begin(call)

    def begin(self, call: dict[str, Any]) -> None:
        """Finds the visual tokens of a call with these arguments."""
        embeds, cache, kinds = call.get("inputs_embeds"), cache_of(call), None
        if embeds is not None and call.get("input_ids") is None:
            kinds = self.prompts.told(KINDS, cache.get_seq_length() if cache is not None else 0, *embeds.shape[:2])
        self.visual.begin(call, kinds)

    def after_host(self, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        """A call that failed before its decoder ran leaves nothing to the next."""
        self.visual.seen.kind = self.running.call = None

    def before_model(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        embeds, cache, mask = kwargs.get("inputs_embeds"), cache_of(kwargs), kwargs.get("attention_mask")
        call, self.running.call, self.running.run = self.running.call, None, None
        if embeds is None:
            return
        if call is None:  # not by the host
            self.begin(kwargs)
        kind, self.visual.seen.kind = self.visual.seen.kind, None
        check_cache(cache)
        adopt(cache, kind is not None)
        seen, (batch, length) = cache.get_seq_length() if cache is not None else 0, embeds.shape[:2]
        if call is not None and (isinstance(mask, dict) or getattr(mask, "ndim", 2) == 4):  # made by the host
            mask = call.get("attention_mask")
        if mask is None:
            if kind is not None and packed(kwargs.get("position_ids")):
                raise ValueError(
                    "`position_ids` begin anew within a row: give each of the packed samples a row of its own."
                )
            mask = torch.ones(batch, seen + length, device=embeds.device)
        if not isinstance(mask, torch.Tensor) or mask.shape != (batch, seen + length):
            got = tuple(mask.shape) if isinstance(mask, torch.Tensor) else type(mask).__name__
            raise ValueError(
                f"`attention_mask` of the decoder must be (batch, all tokens) = {(batch, seen + length)}, got {got}."
            )
        real = mask.to(embeds.device).bool()
        prompt = None
        image, images, frames = None, 1, None
        if kind is not None:
            kind = kind.to(embeds.device)
            prompt = self.prompts.read(seen, (kind > 0) & real[:, seen:], real[:, seen:])
            if prompt.visual.any():
                image, images = self.visual.images(kind, prompt.visual)
                frames = functools.partial(self.visual.frames, kind, prompt.visual, image)
            else:
                prompt = None
        self.running.run = Run(seen, length, real, embeds, prompt, image, images, frames)
        if prompt is not None:
            self.traces.add(PruningTrace(prompt.visual))

    def after_model(self, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        """Files what the caches hold, and puts the states back where they came from: zero where dropped."""
        run, self.running.run = self.running.run, None
        if run is None:
            return None
        if run.cache is not None:
            file_kept(run.cache, run.kept, run.seen + run.length)
        if run.slots is None:
            return None
        states = output[0]
        full = states.new_zeros(states.shape[0], run.length + 1, states.shape[2])
        slots = run.slots.to(states.device)
        full.scatter_(1, slots.where(slots >= 0, run.length)[..., None].expand_as(states), states)
        full = full[:, : run.length]
        if isinstance(output, tuple):
            return (full, *output[1:])
        output.last_hidden_state = full
        return output

    def after_block(self, watching: list[LayerObserver]) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
            run = self.running.run
            if run is None or run.prompt is None:
                return
            x = args[0] if args else kwargs["hidden_states"]
            y = (output[0] if isinstance(output, tuple) else output).view(x.shape)  # Llama 4's experts make it flat
            for evaluator in watching:
                with torch.no_grad():  # checkpointed layers run again, and then nobody looks
                    values = evaluator.observe(x, y, run.deciding().to(x.device)).to(run.real.device)
                before = run.accumulated.get(evaluator.name)
                run.accumulated[evaluator.name] = values if before is None else before + values

        return hook

    def before_layer(self, index: int) -> Callable:
        def hook(layer: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
            run = self.running.run
            if run is None:
                return None
            states = args[0] if args else kwargs["hidden_states"]
            run.cache = cache_of(kwargs)
            if not index:
                run.embeds = states  # some decoders multiply what they are given
            if run.prompt is not None:
                if index in self.pruning.keep:
                    states = self.prune(run, index, states, kwargs)
                run.previous = (states, kwargs) if index + 1 in self.pruning.keep else None
            past = kept_in(run.cache, index)
            if run.slots is None and past is None:
                return None
            self.staging.check(run, index, kwargs.get("attention_mask"))
            stage = self.staging.next_token(run, index, kwargs)
            stage = stage or self.staging.stage(run, index, past, states, kwargs)
            run.kept[index] = stage.kept
            # `position_ids` is read by FlashAttention alone, which would take a gap for the start of another sequence.
            changed = {"attention_mask": stage.mask, "position_embeddings": stage.rotary, "position_ids": None}
            changed |= self.of_each_token(run, kwargs)
            if args:  # Gemma 4 has an input of every layer behind the states
                left = [run.states_of(a) if isinstance(a, torch.Tensor) else a for a in args[1:]]
                return (states, *left), {**kwargs, **changed}
            return args, {**kwargs, **changed, "hidden_states": states}

        return hook

    def of_each_token(self, run: Run, kwargs: dict[str, Any]) -> dict[str, torch.Tensor]:
        """What else a layer is told of each token, of those left: Ernie 4.5 has experts for text and for images."""
        shape, own = run.embeds.shape[:2], ("attention_mask", "position_ids")
        named = {n: v for n, v in kwargs.items() if isinstance(v, torch.Tensor) and v.shape == shape and n not in own}
        if self.staging.scaled:
            named["position_ids"] = kwargs["position_ids"].expand(shape)
        return {name: run.at_slots(values) for name, values in named.items()}

    def add_deepstack(self, stock: Callable, states: torch.Tensor, visual: torch.Tensor, added: torch.Tensor) -> Any:
        """Qwen3-VL adds rows to its visual tokens between layers: `added` ``(visual tokens, dim)`` to those left."""
        run = self.running.run
        if run is None or run.slots is None:
            return stock(states, visual, added)
        everywhere = added.new_zeros(*visual.shape, added.shape[-1]).masked_scatter(visual[..., None], added)
        left = run.at_slots(visual)
        return stock(states, left, run.states_of(everywhere)[left])

    # ------------------------------------------------------------------------------------- what the hooks need

    def prune(self, run: Run, index: int, states: torch.Tensor, kwargs: dict[str, Any]) -> torch.Tensor:
        """Drops visual states before layer `index`; returns the states left ``(batch, n, dim)``."""
        last = self.traces.last
        assert run.prompt is not None and last is not None
        visual = run.prompt.visual
        place, valid = run.candidates()
        present = run.per_image(valid, run.image_at(place))
        keep = self.pruning.count(index, run.total, present)
        if bool((keep == present).all()):
            return states
        tokens = take(states, place)

        def stage_of(at: int) -> Stage:
            given = kwargs if at == index or run.previous is None else run.previous[1]
            layers = run.cache.layers if run.cache is not None else ()
            past = getattr(layers[at], "kept", None) if at < len(layers) else None
            return self.staging.stage(run, at, past, states, given)

        context = token_context(run, index, states, keep, self.staging, stage_of, self.reader)
        with torch.no_grad():
            decision = self.pruning.decide(tokens, context)
        stays = decision.stays
        if decision.into is not None or decision.target is not None:
            taken_up = merged(tokens, context, decision, self.reader)
            taken_up = torch.where(valid.to(taken_up.device)[..., None], taken_up, tokens)
            states = states.scatter(1, place.to(states.device)[..., None].expand_as(taken_up), taken_up)

        dropped = valid.new_zeros(states.shape[:2]).scatter_(1, place, valid & ~stays)
        alive = run.present() & ~dropped
        length = int(alive.sum(1).max())
        order = alive.to(torch.uint8).argsort(dim=1, stable=True)[:, -length:]  # empty slots first: left padding
        slots = run.origin(order).where(alive.gather(1, order), -1)
        run.leave(slots)
        run.accumulated = {name: values.gather(1, order) for name, values in run.accumulated.items()}

        marks = torch.zeros(visual.shape[0], run.length + 1, dtype=torch.bool, device=slots.device)
        marks.scatter_(1, slots.masked_fill(slots < 0, run.length), True)
        last.kept[index] = visual & marks[:, :-1]
        last.decisions[index] = decision
        return take(states, order)


def packed(positions: torch.Tensor | None) -> bool:
    """Whether rows of `positions` ``(batch, length)``, or of the first of four such (Qwen-VL's, of text), are several
    samples."""
    if positions is None or (positions.ndim == 3 and len(positions) != 4):
        return False
    rows = positions[0] if positions.ndim == 3 else positions
    return bool((rows.diff(dim=-1) < 0).any())
