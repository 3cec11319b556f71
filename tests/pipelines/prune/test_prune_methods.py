"""What the newer evaluators are given by the hosts, against the stock model."""

import prune_hosts as hosts
import pytest
from prune_runs import HOST, build, close

from guidance.tokens.pruning import TokenPruning
from pipelines.prune.cache import cache_of
from pipelines.prune.pruner import prune

pytestmark = pytest.mark.usefixtures("inference")


@HOST
@pytest.mark.parametrize("cached", [True, False])
def test_rotated_keys_and_what_is_read_out(name, cached):
    """The keys are those in the cache of the layer before; states are read out by the decoder's last norm."""
    model, batch, read = build(name), hosts.inputs(name), {}

    def reader(tokens, context):
        read.update(keys=context.rotated_keys(), out=context.read_out(), place=context.place, states=context.states)
        return tokens.mean(-1)

    with prune(model, TokenPruning([reader], {2: 0.5})):
        model(**batch, use_cache=cached)
    plain = model(**batch, use_cache=True, output_hidden_states=True)
    real = batch["attention_mask"].bool()
    keys = cache_of(plain).layers[1].keys.transpose(1, 2).flatten(2)
    close(read["keys"][real], keys[real])
    close(read["out"][real], hosts.language_model(model).norm(plain.hidden_states[2])[real])
    visual = batch["input_ids"] == hosts.IMAGE
    for place, here in zip(read["place"], visual, strict=True):
        assert place[: int(here.sum())].tolist() == here.nonzero().flatten().tolist()


def test_keys_of_a_layer_that_was_not_run():
    with prune(build("llava"), "dart", keep={0: 0.5}), pytest.raises(ValueError, match="before the first layer"):
        build("llava")(**hosts.inputs("llava"))
