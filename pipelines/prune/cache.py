"""The KV cache of a layer that holds fewer tokens than the sequence has."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer


class PrunedLayer(DynamicLayer):
    """Keys and values of the tokens that reached this layer.

    To the outside its length is that of the unpruned sequence, for that is what `generate` counts positions by, and
    what masks are made for.

    Attributes:
        kept: ``(batch, slots)``, the index in the unpruned sequence of what each slot holds, -1 for an empty slot.
        seen: length of the unpruned sequence.
        full: whether no slot is empty.
        sliding_window: of a layer that has one. It needs one slot less: no more than that of the sequence can be in
            the next token's window, and empty slots stand for tokens that are gone.
        record_past: whether tokens are about to be drafted and cropped, so that all slots stay until then.
    """

    sliding_window: int | None = None
    record_past = False

    def __init__(self, layer: DynamicLayer, kept: torch.Tensor, seen: int, full: bool) -> None:
        super().__init__()
        self.__dict__.update(layer.__dict__)
        self.kept, self.seen, self.full = kept, seen, full

    def activate_past_recording(self) -> None:
        self.record_past = True

    def trim(self) -> None:
        """Lets go of keys that no window reaches; `kept` is the caller's."""
        if self.sliding_window is not None and self.keys is not None and self.values is not None:
            self.keys = self.keys[..., -self.sliding_window + 1 :, :]
            self.values = self.values[..., -self.sliding_window + 1 :, :]

    def get_seq_length(self) -> int:
        return self.seen if self.is_initialized else 0

    def crop(self, tokens_to_remove: int) -> None:
        if tokens_to_remove < 0 and self.is_initialized:
            if self.sliding_window is not None and not self.record_past and self.seen >= self.sliding_window:
                raise ValueError("`cache` with sliding windows can be cropped only after `activate_past_recording`.")
            left = self.seen + tokens_to_remove
            if (self.kept[:, tokens_to_remove:] < left).any():
                raise ValueError(f"`cache` cannot be cropped to {left} tokens: only text after the last image can go.")
            self.kept, self.seen = self.kept[:, :tokens_to_remove], left
        super().crop(tokens_to_remove)
        self.trim()
        self.kept = self.kept[:, self.kept.shape[1] - self.slots() :]

    def slots(self) -> int:
        return self.keys.shape[-2] if self.keys is not None else 0

    def reset(self) -> None:
        super().reset()
        self.kept, self.seen = self.kept[:, :0], 0

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        super().reorder_cache(beam_idx)
        self.kept = self.kept.index_select(0, beam_idx.to(self.kept.device))

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self.kept = self.kept.repeat_interleave(repeats, dim=0)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        super().batch_select_indices(indices)
        self.kept = self.kept[indices]


def adopt(cache: Cache | None, pruned: bool) -> None:
    """Makes layers of `cache` that hold the last tokens only, a window of them, such as can be pruned.

    So every layer says the length of the whole sequence, and masks are made for it. They are left as they are where
    nothing is to be `pruned` and nothing was.
    """
    layers = cache.layers if cache is not None else []
    if not pruned and not any(isinstance(layer, PrunedLayer) for layer in layers):
        return
    for index, layer in enumerate(layers):
        if type(layer) is DynamicSlidingWindowLayer and layer.keys is not None:
            seen, (batch, _, held, _) = layer.get_seq_length(), layer.keys.shape
            kept = torch.arange(seen - held, seen, device=layer.keys.device).expand(batch, -1)
            layers[index] = PrunedLayer(layer, kept, seen, full=True)


def file_kept(cache: Cache, kept: Mapping[int, torch.Tensor], seen: int) -> None:
    """Notes what layers of `cache` hold by their index, see `PrunedLayer`; what a later token adds is no empty slot."""
    shared: dict[tuple[int, int], torch.Tensor] = {}  # layers of a stage go on to share what they hold
    full: dict[int, bool] = {}  # a GPU waits for each question
    for index, held in kept.items():
        layer = cache.layers[index]
        assert isinstance(layer, DynamicLayer)  # `check_cache`
        if not isinstance(layer, PrunedLayer) or seen != layer.seen + 1:
            if id(held) not in full:
                full[id(held)] = not bool((held < 0).any())
            layer = cache.layers[index] = PrunedLayer(layer, held, seen, full[id(held)])
        if not layer.record_past:
            layer.trim()
        slots = layer.slots()
        layer.kept, layer.seen = shared.setdefault((id(held), slots), held[:, held.shape[1] - slots :]), seen


def cache_of(named: Mapping[str, Any]) -> Cache | None:
    """The cache among the arguments or in the output of a model; before transformers 5.24 it has another name there."""
    return named.get("cache", named.get("past_key_values"))


def check_cache(cache: Cache | None) -> None:
    """Raises ValueError unless every layer of `cache` simply grows."""
    for layer in getattr(cache, "layers", ()):
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer, PrunedLayer):
            raise ValueError(f"`cache` must be a DynamicCache of attention layers, got {type(layer).__name__}.")


def kept_in(cache: Cache | None, index: int) -> torch.Tensor | None:
    """`PrunedLayer.kept` of layer `index`, `None` where it holds the whole sequence.

    Raises:
        ValueError: the layer grew while nobody was pruning.
    """
    if cache is None or index >= len(cache.layers) or not isinstance(layer := cache.layers[index], PrunedLayer):
        return None
    if layer.slots() != layer.kept.shape[1]:
        raise ValueError("`cache` was made while pruning and then continued without: start again from an empty cache.")
    return layer.kept
