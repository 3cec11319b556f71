"""VisionZip without a class token: attention from all patches, against the weights of the eager encoder."""

import sys

import prune_hosts as hosts
import pytest
import torch
from prune_runs import build, close, generate
from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, SiglipVisionConfig

from evaluators.token.attention import ClassTokenAttention, PatchAttention
from guidance.tokens.pruning import TokenPruning
from pipelines.prune import reader
from pipelines.prune.pruner import prune

pytestmark = pytest.mark.usefixtures("inference")
QWEN = pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl"])


def siglip():
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=SiglipVisionConfig(**hosts.VISION),
        text_config=LlamaConfig(**hosts.TEXT),
        image_token_id=hosts.IMAGE,
        vision_feature_layer=-2,
        vision_feature_select_strategy="full",
    )
    model = LlavaForConditionalGeneration(config).eval()
    model.generation_config.suppress_tokens = [hosts.IMAGE, hosts.EOS]
    return model


def seen_by_qwen(name, batch, monkeypatch):
    """Of every visual token in order: attention of its 4 patches in the last block, received from all of its image,
    mean over heads; and their keys. What the attention of the eager encoder was given and gave, in the order that the
    merged patches have in the output."""
    model, calls, merged = build(name, "eager"), [], []
    module = sys.modules[type(model.model.visual).__module__]
    stock = module.eager_attention_forward

    def attend(attention, query, key, value, attention_mask, **kwargs):
        out, weights = stock(attention, query, key, value, attention_mask, **kwargs)
        if attention is model.model.visual.blocks[-1].attn:
            calls.append((weights[0].mean(0).sum(0), key[0].mean(0)))
        return out, weights

    monkeypatch.setattr(module, "eager_attention_forward", attend)
    handle = model.model.visual.merger.register_forward_hook(lambda m, a, out: merged.append(out))
    output = model.model.get_image_features(batch["pixel_values"], batch["image_grid_thw"])
    handle.remove()
    columns, keys = (torch.cat(parts) for parts in zip(*calls, strict=True))
    tokens = torch.cat(list(output.pooler_output))
    order = torch.cdist(tokens, merged[0]).argmin(1)
    assert order.sort().values.tolist() == list(range(len(order)))
    return columns.view(-1, 4).mean(1)[order], keys.view(len(order), 4, -1).mean(1)[order], tokens


@QWEN
def test_attention_of_all_patches(name, monkeypatch):
    monkeypatch.setattr(reader, "CHUNK", 7)
    batch = hosts.inputs(name)
    with prune(build(name), TokenPruning([PatchAttention()], {0: 0.5})) as pruner:
        build(name)(**batch)
    columns, _, _ = seen_by_qwen(name, batch, monkeypatch)
    trace = pruner.last
    scores = torch.cat([trace.decisions[0].scores["patches"][i, : int(trace.visual[i].sum())] for i in range(3)])
    close(scores, columns)
    assert columns.argsort().tolist() != list(range(len(columns)))


def test_attention_of_all_patches_in_siglip():
    model, batch = siglip(), hosts.inputs("llava")
    with prune(model, TokenPruning([PatchAttention()], {0: 0.5})) as pruner:
        model(**batch)
    trace = pruner.last
    scores = torch.cat([trace.decisions[0].scores["patches"][i, : int(trace.visual[i].sum())] for i in range(3)])
    model.set_attn_implementation("eager")
    weights = model.model.vision_tower(batch["pixel_values"], output_attentions=True).attentions[-2]
    close(scores, weights.mean(1).sum(1).flatten())


def visionzip(columns, keys, tokens, dominant, contextual):
    """The rule that VisionZip's authors have for Qwen2.5-VL, for one image: which tokens stay, and what they become."""
    best = columns.topk(dominant).indices.tolist()
    rest = [n for n in range(len(columns)) if n not in best]
    targets = rest[:: max(1, len(rest) // contextual)][:contextual]
    become = {n: tokens[n] for n in best}
    groups = {t: [] for t in targets}
    for n in rest:
        if n not in targets:
            groups[max(targets, key=lambda t, n=n: torch.cosine_similarity(keys[n], keys[t], dim=0).item())].append(n)
    return become | {t: tokens[t] + (tokens[g].mean(0) if g else 0) for t, g in groups.items()}


@QWEN
def test_visionzip_columns(name, monkeypatch):
    """Of two images, each for itself: what reaches the first layer."""
    model, batch, given = build(name), hosts.inputs(name, (2,)), []
    with prune(model, "visionzip-columns", keep=0.5) as pruner:
        layer = hosts.language_model(model).layers[0]
        handle = layer.register_forward_pre_hook(
            lambda m, a, k: given.append(a[0] if a else k["hidden_states"]), with_kwargs=True
        )
        model(**batch)
        handle.remove()
    columns, keys, tokens = seen_by_qwen(name, batch, monkeypatch)
    trace, states = pruner.last, iter(given[0][0])
    visual, kept = trace.visual[0].tolist(), trace.kept[0][0].tolist()
    become = {}
    for image in range(2):
        part = slice(16 * image, 16 * image + 16)
        become |= {16 * image + n: v for n, v in visionzip(columns[part], keys[part], tokens[part], 7, 1).items()}
    number = 0
    for is_visual, stays in zip(visual, kept, strict=True):
        if is_visual:
            assert stays == (number in become)
            if stays:
                close(next(states), become[number])
            number += 1
        else:
            next(states)
    assert next(states, None) is None


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_batches_beams_and_caches(name):
    model, rows = build(name), [hosts.row(name, 1, 0), hosts.row(name, 2, 1)]
    with prune(model, "visionzip-columns"):
        together = generate(model, hosts.collate(name, rows))
        for i, row in enumerate(rows):
            alone = generate(model, hosts.collate(name, [row]))
            close(torch.stack(together.logits, 1)[i], torch.stack(alone.logits, 1)[0])
        beams = [
            generate(model, hosts.collate(name, rows), num_beams=2, use_cache=cache).sequences
            for cache in (True, False)
        ]
    assert torch.equal(*beams)


def test_hosts_that_do_not_show_it():
    with pytest.raises(ValueError, match="attention of the vision encoder, which `model` idefics3 does not show"):
        prune(build("idefics3"), "visionzip-columns")
    with pytest.raises(ValueError, match="`visionzip-columns` is for others"):
        prune(siglip(), "visionzip")
    with pytest.raises(ValueError, match="reads the class token and one that reads all patches"):
        prune(build("llava"), TokenPruning([ClassTokenAttention(), PatchAttention()], {0: 0.5}))
