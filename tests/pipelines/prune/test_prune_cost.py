"""Dropped tokens cost nothing: floating-point operations and cache, counted."""

import prune_hosts as hosts
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipelines.prune.pruner import prune


def flops(model, batch) -> int:
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(**batch)
    return counter.get_total_flops()


def layer_flops(n: int) -> int:
    """One decoder layer over n tokens: projections, gated MLP, and attention of all with all, twice per product."""
    width, mlp, keys = hosts.TEXT["hidden_size"], hosts.TEXT["intermediate_size"], hosts.TEXT["hidden_size"] // 2
    return 2 * n * (2 * width * width + 2 * width * keys + 3 * width * mlp) + 2 * 2 * n * n * width


def test_flops_fall_by_what_the_layers_no_longer_see():
    model, batch = hosts.build("llava", "eager"), hosts.inputs("llava", (1,))
    length, tokens = batch["input_ids"].shape[1], 16
    plain = flops(model, batch)
    with prune(model, "random", keep={1: 0.5, 3: 0.25}):
        pruned = flops(model, batch)
    left = [length] + 2 * [length - tokens // 2] + 2 * [length - 3 * tokens // 4]
    assert plain - pruned == hosts.DEPTH * layer_flops(length) - sum(layer_flops(n) for n in left)


def test_scoring_costs_little():
    """TransPrune's own work is far below what it saves."""
    model, batch = hosts.build("llava_next", "eager"), hosts.inputs("llava_next", (2,))
    plain = flops(model, batch)
    with prune(model, "transprune") as pruner:
        pruned = flops(model, batch)
    with prune(model, "random", keep=pruner.pruning.keep):
        assert plain - pruned > 0.9 * (plain - flops(model, batch))
