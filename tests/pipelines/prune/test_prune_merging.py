"""ToMe in vision encoders, against the rules of its paper (arXiv 2210.09461) written out, one image and one token at a
time."""

import pytest
import torch
from test_prune_encoders import PATCHES, SIZES, build, close, encoder_of, outputs, pixels

from evaluators.token.matching import UnmatchedTokens
from guidance.tokens.matching import BipartiteMerging
from guidance.tokens.pruning import TokenPruning
from pipelines.prune.encoder import ENCODERS
from pipelines.prune.pruner import prune

pytestmark = pytest.mark.usefixtures("inference")
HEADS, DEPTH = SIZES["num_attention_heads"], SIZES["num_hidden_layers"]
GONE = 6  # in each layer


def merging(gone=GONE, layers=range(DEPTH)):
    keep = {layer: PATCHES - gone * (n + 1) for n, layer in enumerate(layers)}
    return TokenPruning([UnmatchedTokens()], keep, select=BipartiteMerging())


def tome(layer, names, x, sizes, first, gone):
    """A layer on the tokens `x` ``(tokens, dim)`` of one image, of which each stands for `sizes` patches."""
    _, norm, block, second_norm = names
    attention = getattr(layer, block)
    normed = getattr(layer, norm)(x)
    q, k, v = (getattr(attention, f"{n}_proj")(normed).view(len(x), HEADS, -1).transpose(0, 1) for n in ("q", "k", "v"))
    logits = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5 + torch.tensor(sizes).log()  # proportional attention
    mixed = (logits.softmax(-1) @ v).transpose(0, 1).reshape(len(x), -1)
    out = attention.o_proj if hasattr(attention, "o_proj") else attention.out_proj
    x = x + out(mixed)
    keys = k.mean(0)
    patches = range(first, len(x))
    one, other = list(patches)[0::2], list(patches)[1::2]
    edges = []
    for token in other:
        cosines = [torch.cosine_similarity(keys[token], keys[to], dim=0).item() for to in one]
        edges.append((max(cosines), token, one[cosines.index(max(cosines))]))
    edges = sorted(edges, reverse=True)[:gone]
    joins = {token: to for _, token, to in edges}
    merged, left = [], []
    for token in range(len(x)):
        if token not in joins:
            parts = [token, *(t for t, to in joins.items() if to == token)]
            total = sum(sizes[t] for t in parts)
            merged.append(sum(x[t] * sizes[t] for t in parts) / total)
            left.append(total)
    x = torch.stack(merged)
    return x + layer.mlp(getattr(layer, second_norm)(x)), left


def reference(model, images, gone, layers=range(DEPTH)):
    """The states that come out of the layers, of each image."""
    encoder = encoder_of(model)
    stack = encoder.layers if hasattr(encoder, "layers") else encoder.encoder.layers
    names = ENCODERS[type(encoder).__name__]
    caught = []
    handle = stack[0].register_forward_pre_hook(lambda module, args: caught.append(args[0]))
    encoder(images)
    handle.remove()
    all_states, all_sizes = [], []
    for x in caught[0]:
        sizes = [1.0] * len(x)
        for index, layer in enumerate(stack):
            x, sizes = tome(layer, names, x, sizes, names[0], gone if index in layers else 0)
        all_states.append(x)
        all_sizes.append(sizes)
    return torch.stack(all_states), all_sizes


@pytest.mark.parametrize("name", ["clip vision", "siglip vision", "vit"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("layers", [range(DEPTH), (1, 3)])
def test_states_are_those_of_the_paper(name, attention, layers):
    model, seen = build(name, attention), []
    encoder = encoder_of(model)
    stack = encoder.layers if hasattr(encoder, "layers") else encoder.encoder.layers
    expected, sizes = reference(model, pixels(), GONE, layers)
    with prune(model, merging(layers=layers)):
        handle = stack[-1].register_forward_hook(lambda module, args, output: seen.append(output))  # after ours
        outputs(name, model, pixels())
    handle.remove()
    first = ENCODERS[type(encoder).__name__][0]
    assert seen[0].shape[1] == first + PATCHES - GONE * len(layers)
    assert max(sizes[0]) > 2 and sum(sizes[0]) == PATCHES + first
    close(seen[0], expected)


def test_a_preset_and_its_trace():
    model = build("vit")
    plain = outputs("vit", model, pixels())[0]
    with prune(model, "tome") as pruner:
        together = outputs("vit", model, pixels())
        alone = [outputs("vit", model, image[None])[0] for image in pixels()]
    close(together[0], torch.cat(alone))
    assert together[1].shape[1] == 1 + PATCHES - 29  # 156 of 196
    assert [int(kept[0].sum()) for kept in pruner.last.kept.values()] == [30, 25, 19, 13, 7]
    assert torch.equal(outputs("vit", model, pixels())[0], plain)
    with prune(model, merging(gone=0)):
        assert torch.equal(outputs("vit", model, pixels())[0], plain)


def test_no_more_than_half_joins_at_once():
    model = build("clip vision")
    with prune(model, TokenPruning([UnmatchedTokens()], {2: 3}, select=BipartiteMerging())) as pruner:
        model(pixels())
    assert int(pruner.last.kept[2][0].sum()) == PATCHES // 2


def test_errors(monkeypatch):
    import prune_hosts

    with pytest.raises(ValueError, match="`method` merges inside the layers of a vision encoder, and `model` llava"):
        prune(prune_hosts.build("llava"), "tome")
    model = build("vit")
    states = torch.zeros(1, PATCHES + 1, 32)
    pruner = prune(model, "tome").hooks
    monkeypatch.setattr(model.config, "_attn_implementation", "flash_attention_2")
    with pytest.raises(ValueError, match="must be 'sdpa' or 'eager' to merge patches"):
        pruner.proportional(torch.ones(1, PATCHES), states)
