"""Methods of pruning, and a short generation to try them by."""

import functools
import inspect

import prune_hosts as hosts
import pytest
import torch
from transformers import LlamaModel

from evaluators.token.attention import LastTokenAttention
from evaluators.token.baselines import RandomTokens
from guidance.tokens.pruning import TokenPruning

NEW = 4
# What a model calls its cache, see `cache_of`.
CACHE = "cache" if "cache" in inspect.signature(LlamaModel.forward).parameters else "past_key_values"
EVERY = pytest.mark.parametrize("attention", ["eager", "sdpa"])
HOST = pytest.mark.parametrize("name", hosts.HOSTS)
METHODS = {
    "transprune": ("transprune", {1: 0.75, 2: 0.5, 4: 0.25}),
    "fastv": ("fastv", None),
    "first": (TokenPruning([RandomTokens()], {0: 0.5, 3: 3}), None),
    "divprune": ("divprune", 5),
    "pyramiddrop": ("pyramiddrop", None),
    "sparsevlm": ("sparsevlm", {1: 0.75, 2: 0.5, 4: 0.25}),
    "mixed": (TokenPruning([LastTokenAttention(previous=False), RandomTokens()], {2: 7}), None),
}
build = functools.cache(hosts.build)
close = functools.partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)


def generate(model, batch, **kwargs):
    kwargs = {
        "max_new_tokens": NEW,
        "do_sample": False,
        "return_dict_in_generate": True,
        "output_logits": True,
    } | kwargs
    return model.generate(**batch, **kwargs)
