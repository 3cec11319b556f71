"""A model that was compiled and run before is pruned all the same, and compiled again afterwards."""

import prune_hosts as hosts
import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from pipelines.prune.pruner import prune

pytestmark = pytest.mark.usefixtures("inference")


@pytest.fixture
def graphs():
    """How many graphs the backend was given, and the backend."""
    seen = []

    def backend(graph, examples):
        seen.append(graph)
        return graph.forward

    torch._dynamo.reset()
    yield seen, backend
    torch._dynamo.reset()


def compiled(model, how, backend):
    """The callable that is compiled, and what is given to `prune`."""
    language_model = model.model.language_model
    if how == "model.compile":
        model.compile(backend=backend)
    elif how == "language_model.compile":
        language_model.compile(backend=backend)
    elif how == "forward":
        model.forward = torch.compile(model.forward, backend=backend)
    elif how == "layers":
        for layer in language_model.layers:
            layer.compile(backend=backend)
    elif how == "wrapped":
        return torch.compile(model, backend=backend)
    return model


# dynamo takes seconds to look through a whole model
SLOW = [pytest.param(how, marks=pytest.mark.slow) for how in ("model.compile", "language_model.compile", "forward")]


@pytest.mark.parametrize("how", ["layers", *SLOW, pytest.param("wrapped", marks=pytest.mark.slow)])
def test_a_compiled_model_is_pruned(how, graphs):
    seen, backend = graphs
    model = hosts.build("llava")
    model.model.language_model.layers = model.model.language_model.layers[:2]  # nothing here is about depth
    batch = hosts.inputs("llava", (1,))
    image = BaseModelOutputWithPooling(
        pooler_output=list(model.get_image_features(batch.pop("pixel_values")).pooler_output)
    )
    call = {"mm_encoder_outputs": {"image": image}}
    plain = model(**batch, **call).logits
    with prune(model, "fastv", keep={1: 0.25}) as pruner:
        expected, kept = model(**batch, **call).logits, pruner.last.kept[1]
    run = compiled(model, how, backend)
    torch.testing.assert_close(run(**batch, **call).logits, plain)
    before = len(seen)
    assert before
    for given in {id(m): m for m in (model, run)}.values():
        with prune(given, "fastv", keep={1: 0.25}) as pruner:
            torch.testing.assert_close(run(**batch, **call).logits, expected)
            assert torch.equal(pruner.last.kept[1], kept)
    assert len(seen) == before
    torch.testing.assert_close(run(**batch, **call).logits, plain)
    assert len(seen) == before  # the code compiled before serves again


def test_compiled_while_it_is_pruned(graphs):
    """Nothing is compiled then, what is pruned stays so, and afterwards there is a graph."""
    seen, backend = graphs
    model = hosts.build("llava")
    model.model.language_model.layers = model.model.language_model.layers[:2]
    batch = hosts.inputs("llava", (1,))
    with prune(model, "fastv", keep={1: 0.25}) as pruner:
        expected, kept = model(**batch).logits, pruner.last.kept[1]
        for layer in model.model.language_model.layers:
            layer.compile(backend=backend)
        torch.testing.assert_close(model(**batch).logits, expected)
        assert torch.equal(pruner.last.kept[1], kept)
        assert not seen
    model(**batch)
    assert seen


def test_a_compiled_encoder_is_pruned(graphs):
    seen, backend = graphs
    encoder = CLIPVisionModel(CLIPVisionConfig(**hosts.VISION | {"num_hidden_layers": 1})).eval()
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    encoder.compile(backend=backend)
    assert encoder(pixels).last_hidden_state.shape[1] == 17 and seen
    with prune(encoder, "divprune", keep={0: 4}):
        assert encoder(pixels).last_hidden_state.shape[1] == 5
    assert encoder(pixels).last_hidden_state.shape[1] == 17


def test_own_forwards_are_given_back():
    model, calls = hosts.build("llava"), []
    stock = model.model.language_model.forward

    def own(*args, **kwargs):
        calls.append(1)
        return stock(*args, **kwargs)

    model.model.language_model.forward = own
    batch = hosts.inputs("llava", (1,))
    with prune(model, "random", keep={1: 0.5}) as pruner:
        model(**batch)
    assert calls and pruner.last.kept
    assert model.model.language_model.forward is own
    assert "forward" not in model.__dict__ and "get_image_features" not in model.model.__dict__
