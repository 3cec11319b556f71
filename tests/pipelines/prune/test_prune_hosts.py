"""Pruning on every host: against a model in which dropped tokens are masked instead, and against single samples."""

import prune_hosts as hosts
import pytest
import torch
from prune_runs import EVERY, HOST, METHODS, NEW, build, close, generate
from transformers import LlamaModel

from evaluators.token.baselines import RandomTokens
from guidance.tokens.pruning import TokenPruning
from pipelines.prune.cache import cache_of
from pipelines.prune.pruner import prune

pytestmark = pytest.mark.usefixtures("inference")
# Before transformers 5.23 a checkpointed layer that runs again runs its hooks again; this name came with 5.24.
ONCE = pytest.mark.skipif(
    not hasattr(LlamaModel, "activation_checkpointing_enable"), reason="hooks run once from transformers 5.23 on"
)


@EVERY
@HOST
def test_keeping_all_is_the_plain_model(name, attention):
    model, batch = build(name, attention), hosts.inputs(name)
    plain, plain_out = model(**batch).logits, generate(model, batch)
    with prune(model, "transprune", keep={1: 1.0, 3: 1.0}):
        pruned, pruned_out = model(**batch).logits, generate(model, batch)
    assert torch.equal(plain, pruned)
    assert torch.equal(plain_out.sequences, pruned_out.sequences)
    assert all(torch.equal(a, b) for a, b in zip(plain_out.logits, pruned_out.logits, strict=True))
    assert torch.equal(plain, model(**batch).logits)


@EVERY
@HOST
@pytest.mark.parametrize("method", ["transprune", "fastv", "sparsevlm", "first"])
def test_a_batch_is_its_samples(name, attention, method):
    model = build(name, attention)
    method, keep = METHODS[method]
    samples = [hosts.row(name, count, i) for i, count in enumerate((1, 2, 1))]
    with prune(model, method, keep=keep):
        together = generate(model, hosts.collate(name, samples))
        alone = [generate(model, hosts.collate(name, [s])) for s in samples]
    for i, single in enumerate(alone):
        close(torch.stack(together.logits, 1)[i], torch.stack(single.logits, 1)[0])
        assert torch.equal(together.sequences[i, -NEW:], single.sequences[0, -NEW:])


@EVERY
@HOST
def test_right_padding_is_left_padding(name, attention):
    model = build(name, attention)
    left, right = (hosts.inputs(name, side=side) for side in ("left", "right"))
    with prune(model, "transprune", keep={1: 0.75, 3: 0.25}):
        logits = [model(**batch).logits for batch in (left, right)]
    assert logits[0].shape[:2] == left["input_ids"].shape  # dropped tokens leave a gap, not a shift
    for i in range(len(hosts.IMAGES)):
        of_left, of_right = (
            states[i][batch["attention_mask"][i].bool()] for states, batch in zip(logits, (left, right), strict=True)
        )
        close(of_left, of_right)


@pytest.mark.parametrize("name", ["llava", "llava_next", "idefics3", "smolvlm"])
def test_renumbered_positions(name):
    model, batch = build(name, "sdpa"), hosts.inputs(name)
    with prune(model, "transprune", keep={1: 0.75, 3: 0.25}, positions="renumbered") as pruner:
        out = generate(model, batch)
    length = out.sequences.shape[1]
    expected = hosts.masked_logits(
        model, hosts.extend(batch, out.sequences), hosts.gone(pruner.last, length), renumber=True
    )
    close(torch.stack(out.logits, 1), expected[:, batch["input_ids"].shape[1] - 1 : -1])


@pytest.mark.parametrize("text", ["mistral", "qwen2"])
def test_other_decoders_of_llava(text):
    model, batch = hosts.build("llava", "sdpa", text), hosts.inputs("llava")
    with prune(model, "transprune") as pruner:
        out = generate(model, batch)
    expected = hosts.masked_logits(
        model, hosts.extend(batch, out.sequences), hosts.gone(pruner.last, out.sequences.shape[1])
    )
    close(torch.stack(out.logits, 1), expected[:, batch["input_ids"].shape[1] - 1 : -1])


@pytest.mark.parametrize(
    ("method", "keep"),
    [
        ("visionzip", 6),
        (TokenPruning([RandomTokens()], {1: 0.5, 3: 0.25}, merge=True), None),
        (TokenPruning([RandomTokens()], {1: 0.5, 3: 0.25}, similar=0.5), None),
    ],
)
def test_merging_and_similarity_in_a_batch(method, keep):
    model, samples = build("llava", "sdpa"), [hosts.row("llava", count, i) for i, count in enumerate((1, 2, 1))]
    with prune(model, method, keep=keep) as pruner:
        together = generate(model, hosts.collate("llava", samples))
        alone = [generate(model, hosts.collate("llava", [s])) for s in samples]
    assert pruner.last.kept
    for i, single in enumerate(alone):
        close(torch.stack(together.logits, 1)[i], torch.stack(single.logits, 1)[0])


@pytest.mark.parametrize("name", ["llava", "llava_next"])
def test_visionzip_with_repeated_rows(name):
    model, batch = build(name, "sdpa"), hosts.inputs(name, (1, 2))
    with prune(model, "visionzip", keep=6) as pruner:
        model(**batch)
        once = pruner.last.kept[0]
        generate(model, batch, do_sample=True, num_return_sequences=2, output_logits=False)
        assert torch.equal(pruner.last.kept[0], once.repeat_interleave(2, 0))
        features = model.get_image_features(**{k: v for k, v in batch.items() if k not in hosts.only(batch)})
    with prune(model, "visionzip", keep=6) as pruner, pytest.raises(ValueError, match="reads the vision encoder"):
        del features.read
        model(**hosts.only(batch), mm_encoder_outputs={"image": features})


@pytest.mark.parametrize("name", ["llava_next", "qwen2_vl", "qwen2_5_vl"])
@pytest.mark.parametrize("method", ["transprune", "sparsevlm", "visionzip"])
def test_images_of_different_sizes(name, method):
    """In one row and in one batch, whose rows then begin with and keep different numbers of tokens."""
    if method == "visionzip" and name != "llava_next":
        pytest.skip("has no class token")
    model, samples = build(name, "sdpa"), [hosts.row_of_sizes(name, sizes, i) for i, sizes in enumerate(hosts.SIZES)]
    batch = hosts.collate(name, samples)
    method, keep = METHODS.get(method, (method, 0.25))
    with prune(model, method, keep=keep) as pruner:
        together, trace = generate(model, batch), pruner.last
        alone = [generate(model, hosts.collate(name, [s])) for s in samples]
    for i, sample in enumerate(samples):
        close(torch.stack(together.logits, 1)[i], torch.stack(alone[i].logits, 1)[0])
        assert trace.visual[i].sum() == sample["ids"].count(hosts.IMAGE)
        assert list(trace.kept.values())[-1][i].sum() == int(trace.visual[i].sum() * 0.25 + 0.5)
    assert len(set(trace.visual.sum(1).tolist())) == 3
    if method == "visionzip":  # which changes the tokens that it keeps
        return
    expected = hosts.masked_logits(
        model, hosts.extend(batch, together.sequences), hosts.gone(trace, together.sequences.shape[1])
    )
    close(torch.stack(together.logits, 1), expected[:, batch["input_ids"].shape[1] - 1 : -1])


def test_video_tokens():
    model, generator = build("qwen2_vl", "sdpa"), torch.Generator().manual_seed(0)
    ids = torch.tensor([[1, 5, 6] + [hosts.VIDEO] * 32 + [7, 8, 9, 10]])
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == hosts.VIDEO).int() * 2,
        "pixel_values_videos": torch.randn(128, 96, generator=generator),
        "video_grid_thw": torch.tensor([[2, 8, 8]]),
    }
    with prune(model, "transprune") as pruner:
        out = generate(model, batch)
    assert pruner.last.kept[2].sum() == 4
    expected = hosts.masked_logits(
        model, hosts.extend(batch, out.sequences), hosts.gone(pruner.last, out.sequences.shape[1])
    )
    close(torch.stack(out.logits, 1), expected[:, ids.shape[1] - 1 : -1])


def test_half_precision():
    model, batch = hosts.build("llava").bfloat16(), hosts.inputs("llava")
    batch["pixel_values"] = batch["pixel_values"].bfloat16()
    for method, keep in (("transprune", None), ("fastv", None), ("visionzip", 6)):
        with prune(model, method, keep=keep) as pruner:
            out = generate(model, batch)
        assert pruner.last.kept and all(logits.isfinite().all() for logits in out.logits)
        assert cache_of(out).layers[-1].keys.dtype == torch.bfloat16


@pytest.mark.parametrize("checkpointing", [False, pytest.param(True, marks=ONCE)])
def test_training_through_pruning(checkpointing):
    with torch.inference_mode(False):
        model, batch = hosts.build("llava"), hosts.inputs("llava")
    if checkpointing:
        model.activation_checkpointing_enable()
    with torch.inference_mode(False), torch.enable_grad(), prune(model.train(), "transprune") as pruner:
        ids = batch["input_ids"]
        labels = ids.masked_fill((ids == hosts.IMAGE) | (batch["attention_mask"] == 0), -100)
        out = model(**batch, labels=labels)
        out.loss.backward()
    assert pruner.last.kept[2].sum() < pruner.last.visual.sum()
    expected = torch.nn.functional.cross_entropy(out.logits.detach()[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    close(out.loss.detach(), expected)
    assert all(p.grad.isfinite().all() for p in model.model.language_model.layers.parameters())


def test_hidden_states_and_attentions_can_be_asked_for():
    model, batch = build("llava", "eager"), hosts.inputs("llava", (1,))
    with prune(model, "random", keep={2: 0.5}):
        out = model(**batch, output_hidden_states=True, output_attentions=True)
    length = batch["input_ids"].shape[1]
    assert [a.shape[-1] for a in out.attentions] == [length] * 2 + [length - 8] * 3
