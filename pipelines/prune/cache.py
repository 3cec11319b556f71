"""The KV cache of a layer that holds fewer tokens than the sequence has."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer


class PrunedLayer(DynamicLayer):
    """Keys and values of the tokens that reached this layer.

    To the outside its length is that of the unpruned sequence, for that is what `generate` counts positions by.

    Attributes:
        kept: ``(batch, slots)``, the index in the unpruned sequence of what each slot holds, -1 for an empty slot.
        seen: length of the unpruned sequence.
        full: whether no slot is empty.
    """

    def __init__(self, layer: DynamicLayer, kept: torch.Tensor, seen: int) -> None:
        super().__init__()
        self.__dict__.update(layer.__dict__)
        self.kept, self.seen = kept, seen
        self.full = not bool((kept < 0).any())

    def get_seq_length(self) -> int:
        return self.seen if self.is_initialized else 0

    def crop(self, tokens_to_remove: int) -> None:
        if tokens_to_remove < 0 and self.is_initialized:
            left = self.seen + tokens_to_remove
            if (self.kept[:, tokens_to_remove:] < left).any():
                raise ValueError(f"`cache` cannot be cropped to {left} tokens: only text after the last image can go.")
            self.kept, self.seen = self.kept[:, :tokens_to_remove], left
        super().crop(tokens_to_remove)

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


def file_kept(cache: Cache, index: int, kept: torch.Tensor, seen: int) -> None:
    """Notes what layer `index` of `cache` holds, see `PrunedLayer`; what a later token adds is no empty slot."""
    layer = cache.layers[index]
    assert isinstance(layer, DynamicLayer)  # `check_cache`
    if isinstance(layer, PrunedLayer) and seen == layer.seen + 1:
        layer.kept, layer.seen = kept, seen
    else:
        cache.layers[index] = PrunedLayer(layer, kept, seen)


def cache_of(named: Mapping[str, Any]) -> Cache | None:
    """The cache among the arguments or in the output of a model; before transformers 5.24 it has another name there."""
    return named.get("cache", named.get("past_key_values"))


def check_cache(cache: Cache | None) -> None:
    """Raises ValueError unless every layer of `cache` simply grows."""
    for layer in getattr(cache, "layers", ()):
        if type(layer) not in (DynamicLayer, PrunedLayer):
            raise ValueError(f"`cache` must be a DynamicCache of full attention layers, got {type(layer).__name__}.")


def kept_in(cache: Cache | None, index: int) -> torch.Tensor | None:
    """`PrunedLayer.kept` of layer `index`, `None` where it holds the whole sequence.

    Raises:
        ValueError: the layer grew while nobody was pruning.
    """
    if cache is None or index >= len(cache.layers) or not isinstance(layer := cache.layers[index], PrunedLayer):
        return None
    slots = layer.keys.shape[-2] if layer.keys is not None else 0
    if slots != layer.kept.shape[1]:
        raise ValueError("`cache` was made while pruning and then continued without: start again from an empty cache.")
    return layer.kept
