"""Pruning of vision encoders on their own."""

import functools

import prune_hosts as hosts
import pytest
import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from evaluators.token.attention import ClassTokenAttention
from evaluators.token.graph import WeightedPageRank, weighted_page_rank
from evaluators.token.similarity import InstructionSimilarity
from guidance.tokens.pruning import TokenPruning
from pipelines.prune.pruner import prune

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 5, "num_attention_heads": 4}
SIZES |= {"image_size": 24, "patch_size": 4, "initializer_range": 0.3}
PATCHES = 36
BUILDERS = {
    "clip": lambda: CLIPModel(
        CLIPConfig(
            vision_config=SIZES,
            text_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 32},
            projection_dim=16,
        )
    ),
    "clip vision": lambda: CLIPVisionModelWithProjection(CLIPVisionConfig(**SIZES, projection_dim=16)),
    "siglip vision": lambda: SiglipVisionModel(SiglipVisionConfig(**SIZES)),
    "vit": lambda: ViTModel(ViTConfig(**SIZES)),
    "vit classifier": lambda: ViTForImageClassification(ViTConfig(**SIZES, num_labels=5)),
}
EVERY = pytest.mark.parametrize("name", BUILDERS)
pytestmark = pytest.mark.usefixtures("inference")
close = functools.partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)


@functools.cache
def build(name: str, attention: str = "sdpa"):
    torch.manual_seed(0)
    model = BUILDERS[name]().eval()
    for module in model.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation = attention
    return model


@functools.cache
def pixels() -> torch.Tensor:
    return torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(0))


def outputs(name: str, model, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The image's summary, and its tokens."""
    if name == "clip":
        out = model.vision_model(images)
        return model.get_image_features(images).pooler_output, out.last_hidden_state
    out = model(images)
    if name == "clip vision":
        return out.image_embeds, out.last_hidden_state
    return (out.logits, None) if name == "vit classifier" else (out.pooler_output, out.last_hidden_state)


def encoder_of(model):
    return next(m for m in model.modules() if type(m).__name__ in ("CLIPVisionModel", "SiglipVisionModel", "ViTModel"))


@EVERY
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_keeping_all_is_the_plain_model(name, attention):
    model = build(name, attention)
    plain = outputs(name, model, pixels())[0]
    with prune(model, "zero-tprune", keep={1: 1.0}):
        assert torch.equal(outputs(name, model, pixels())[0], plain)
    with prune(model, "zero-tprune"):
        assert not torch.allclose(outputs(name, model, pixels())[0], plain, atol=1e-4)
    assert torch.equal(outputs(name, model, pixels())[0], plain)


@EVERY
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("method", ["zero-tprune", "random", "divprune"])
def test_dropping_is_masking(name, attention, method):
    """Against the stock layers on all tokens, with dropped patches masked as keys."""
    model, encoder = build(name, attention), encoder_of(build(name, attention))
    first = 0 if name.startswith("siglip") else 1
    with prune(model, method, keep={0: 0.5, 3: 5} if method == "random" else None) as pruner:
        summary, states = outputs(name, model, pixels())
    kept, hooks = pruner.last.kept, []
    present = torch.ones(3, PATCHES, dtype=torch.bool)
    layers = encoder.layers if hasattr(encoder, "layers") else encoder.encoder.layers
    for index, layer in enumerate(layers):
        present = kept.get(index, present)
        allowed = torch.cat([torch.ones(3, first, dtype=torch.bool), present], 1)[:, None, None]
        mask = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
        mask = mask.expand(-1, -1, PATCHES + first, -1)
        hooks.append(layer.register_forward_pre_hook(lambda m, a, mask=mask: (a[0], mask, *a[2:])))
    expected, all_states = outputs(name, model, pixels())
    for hook in hooks:
        hook.remove()
    if states is not None:
        left = torch.cat([torch.ones(3, first, dtype=torch.bool), present], 1)
        assert states.shape[1] == left.sum(1).max() < PATCHES
        close(states, all_states[left].view(3, -1, 32))
    if first:  # SigLIP's own pooler attends to all patches, so it has no masked counterpart
        close(summary, expected)


@EVERY
def test_a_batch_is_its_samples(name):
    model = build(name)
    with prune(model, "zero-tprune"):
        together = outputs(name, model, pixels())[0]
        alone = [outputs(name, model, image[None])[0] for image in pixels()]
    close(together, torch.cat(alone))


def test_page_rank_is_that_of_the_models_attention():
    model, eager = build("vit"), build("vit", "eager")
    pruning = TokenPruning([WeightedPageRank(3), ClassTokenAttention()], {2: 0.5})
    with prune(model, pruning) as pruner:
        model(pixels())
    attention = eager(pixels(), output_attentions=True).attentions[1]
    scores = pruner.last.decisions[2].scores
    close(scores["class_token"], attention[:, :, 0, 1:].sum(1))
    for image in range(3):
        heads = []
        for head in attention[image, :, 1:, 1:]:
            s = [1 / PATCHES] * PATCHES
            for _ in range(3):
                s = [sum(head[i, j].item() * s[i] for i in range(PATCHES)) for j in range(PATCHES)]
                s = [v / sum(s) for v in s]
            heads.append(torch.tensor(s) * PATCHES)
        informative = [h for h in heads if 0.01 <= h.var(correction=0) <= 0.7] or heads
        close(scores["page_rank"][image], torch.stack(informative).square().mean(0).sqrt())


def test_keys_are_those_of_the_layer_that_runs_next():
    model, read, caught = build("clip vision"), [], []

    def reader(patches, context):
        read.append(context.keys())
        return patches.mean(-1)

    with prune(model, TokenPruning([reader], {2: 0.5})):
        model(pixels())
    project = model.vision_model.encoder.layers[2].self_attn.k_proj
    handle = project.register_forward_hook(lambda module, inputs, output: caught.append(output))
    model(pixels())
    handle.remove()
    close(read[0], caught[0][:, 1:])


def test_page_rank_converges_to_the_leading_eigenvector():
    attention = torch.rand(6, 6, generator=torch.Generator().manual_seed(0)).softmax(-1)
    values, vectors = torch.linalg.eig(attention.T.double())
    leading = vectors[:, values.abs().argmax()].real
    close(weighted_page_rank(attention, 50), (leading / leading.mean()).float())


def test_inside_a_vision_language_model_features_are_too_few():
    model, batch = hosts.build("llava"), hosts.inputs("llava", (1,))
    with prune(model.model.vision_tower, "random", keep={0: 0.5}), pytest.raises(ValueError, match="do not match"):
        model(**batch)


def test_the_similarity_of_clip():
    """In the space that CLIP compares in, of the patches as they are after two layers."""
    model, seen = build("clip"), []
    text, vision = torch.randn(3, 16, generator=torch.Generator().manual_seed(5)), model.vision_model
    handle = vision.encoder.layers[2].register_forward_pre_hook(lambda m, a: seen.append(a[0][:, 1:]))
    model.get_image_features(pixels())
    handle.remove()
    evaluator = InstructionSimilarity(text, lambda patches: model.visual_projection(vision.post_layernorm(patches)))
    with prune(model, TokenPruning([evaluator], {2: 9})) as pruner:
        model.get_image_features(pixels())
    projected = model.visual_projection(vision.post_layernorm(seen[0]))
    expected = torch.cosine_similarity(projected, text[:, None], dim=-1)
    close(pruner.last.decisions[2].scores["similarity"], expected)
    for image in range(3):
        best = expected[image].topk(9).indices.sort().values
        assert pruner.last.kept[2][image].nonzero().flatten().tolist() == best.tolist()


def test_errors():
    model = build("vit")
    with pytest.raises(ValueError, match="`keep` names layer 9"):
        prune(model, "random", keep={9: 0.5})
    with pytest.raises(ValueError, match="follows tokens through a language model"):
        prune(model, "transprune")
    with pytest.raises(ValueError, match="`positions` must be 'original' for a vision encoder"):
        prune(model, "random", positions="renumbered")
    with prune(model, "fastv"), pytest.raises(ValueError, match="'last_token' reads `attention`"):
        model(pixels())
    with prune(model, "zero-tprune", keep={0: 0.5}), pytest.raises(ValueError, match="before the first layer"):
        model(pixels())
    siglip, pruning = build("siglip vision"), TokenPruning([ClassTokenAttention()], {1: 0.5})
    with prune(siglip, pruning), pytest.raises(ValueError, match="'class_token' reads `encoder_attention`"):
        siglip(pixels())
    with prune(model, "random"), pytest.raises(ValueError, match="already pruned"):
        prune(model, "random")
