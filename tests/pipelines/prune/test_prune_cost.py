"""Dropped tokens cost nothing: floating-point operations and cache, counted."""

import prune_hosts as hosts
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from evaluators.token import rows
from pipelines.prune import attention as prune_attention
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


class Squares(TorchDispatchMode):
    """The floating-point tensors made under it that have two dimensions of at least `length`."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length, self.found = length, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for part in out if isinstance(out, tuple) else (out,):
            real = isinstance(part, torch.Tensor) and part.is_floating_point()
            if real and sum(n >= self.length for n in part.shape) > 1:
                self.found.append((str(func), tuple(part.shape)))
        return out


@pytest.mark.parametrize("method", ["transprune", "fastv", "pyramiddrop", "sparsevlm", "sparsevlm-v2", "dart", "evs"])
def test_attention_is_never_made_whole(method, monkeypatch):
    """With SDPA: weights are computed for the queries that are asked about alone, a few at a time."""
    monkeypatch.setattr(prune_attention, "CHUNK", 8)
    model, tokens = hosts.build("qwen2_vl"), 2 * 64
    ids = torch.tensor([[1, 5, *[hosts.VIDEO] * tokens, *range(6, 40)]])
    pixels = torch.randn(4 * tokens, 96, generator=torch.Generator().manual_seed(0))
    features = model.get_video_features(pixels, torch.tensor([[2, 16, 16]]))
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == hosts.VIDEO).int() * 2,
        "video_grid_thw": torch.tensor([[2, 16, 16]]),
    }
    features.frames = [2]
    with torch.inference_mode(), prune(model, method, keep=0.5) as pruner, Squares(65) as seen:
        model(**batch, mm_encoder_outputs={"video": features})
    assert pruner.last.kept and not seen.found
    model.set_attn_implementation("eager")
    with torch.inference_mode(), Squares(65) as seen:
        model(**batch, mm_encoder_outputs={"video": features})
    assert seen.found  # it would have been noticed


class Questions(TorchDispatchMode):
    """How often a number is read from a tensor, for which a GPU has to be done with all that it was told before."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", ["divprune", "cdpruner", "fastv", "random", "visionzip"])
def test_a_gpu_is_not_asked_at_every_layer(method, monkeypatch):
    """Nor for every token that is taken."""
    monkeypatch.setattr(rows, "whole_pays", lambda device, numbers: True)

    def asked(depth: int, keep: float) -> int:
        monkeypatch.setitem(hosts.TEXT, "num_hidden_layers", depth)
        model, batch = hosts.build("llava"), hosts.inputs("llava", (1,))
        stages = {1 if method == "fastv" else 0: keep}
        with torch.no_grad(), prune(model, method, keep=stages), Questions() as questions:
            model(**batch, use_cache=True)
        return questions.count

    assert asked(4, 0.25) == asked(12, 0.25) == asked(4, 0.75) > 0
