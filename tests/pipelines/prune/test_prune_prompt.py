"""What decides is the prompt: not what is drafted, read in chunks or answered; and what is read out from stays."""

import prune_hosts as hosts
import pytest
import torch
from prune_runs import CACHE, METHODS, build, close, generate

from guidance.tokens.pruning import TokenPruning
from pipelines.prune.cache import cache_of
from pipelines.prune.pruner import prune

pytestmark = pytest.mark.usefixtures("inference")
READING = ["transprune", "fastv", "pyramiddrop", "sparsevlm"]  # methods that read the text
IMG = [hosts.IMAGE] * 16


def batch_of(*rows, seed=0):
    """A LLaVA batch of rows of ids, with a picture for every 16 visual tokens."""
    count = sum(row.count(hosts.IMAGE) for row in rows) // 16
    pixels = torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    samples = [{"ids": list(row), "count": 0} for row in rows]
    return hosts.collate("llava", samples) | {"pixel_values": pixels}


@pytest.fixture
def drafts():
    """A prompt of whose end prompt lookup finds a continuation before it has read anything."""
    return batch_of([1, 7, 8, 9, 10, 11, 12, *IMG, 3, 4, 7, 8])


@pytest.mark.parametrize("method", READING)
def test_drafted_tokens_decide_nothing(drafts, method):
    model = build("llava", "sdpa")
    method, keep = METHODS[method]
    with prune(model, method, keep=keep) as pruner:
        greedy = generate(model, drafts, max_new_tokens=8)
        kept = pruner.last.kept
        lengths = []
        handle = model.model.language_model.register_forward_pre_hook(
            lambda m, a, k: lengths.append(k["inputs_embeds"].shape[1]), with_kwargs=True
        )
        looked = generate(model, drafts, max_new_tokens=8, prompt_lookup_num_tokens=3)
        assisted = generate(model, drafts, max_new_tokens=8, assistant_model=hosts.build("llava"))
        handle.remove()
    assert lengths[0] > drafts["input_ids"].shape[1]  # there was a draft in the first forward
    for drafted in (looked, assisted):
        assert torch.equal(drafted.sequences, greedy.sequences)
        close(torch.stack(drafted.logits), torch.stack(greedy.logits))
    for n, where in pruner.last.kept.items():
        assert torch.equal(where[:, : kept[n].shape[1]], kept[n])


@pytest.mark.parametrize("method", READING)
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "idefics3"])
def test_without_cache_written_tokens_decide_nothing(name, method):
    model, batch = build(name, "sdpa"), hosts.inputs(name)
    method, keep = METHODS[method]
    with prune(model, method, keep=keep):
        cached, uncached = generate(model, batch), generate(model, batch, use_cache=False)
    assert torch.equal(cached.sequences, uncached.sequences)
    close(torch.stack(cached.logits), torch.stack(uncached.logits))


def test_a_prompt_of_embeddings_ends_where_they_end(drafts):
    model = build("llava", "sdpa")
    with prune(model, "transprune"):
        by_ids = generate(model, drafts, max_new_tokens=6, use_cache=False)
        given = {k: v for k, v in drafts.items() if k != "input_ids"}
        embeds = model.get_input_embeddings()(drafts["input_ids"])
        by_embeds = generate(model, given, inputs_embeds=embeds, max_new_tokens=6)
    assert torch.equal(by_ids.sequences[:, -6:], by_embeds.sequences[:, -6:])


def test_chunks_of_a_prompt_are_refused(drafts):
    model = build("llava", "sdpa")
    with prune(model, "random", keep={0: 4}), pytest.raises(ValueError, match="`prefill_chunk_size` must be None"):
        generate(model, drafts, prefill_chunk_size=8)
    config = model.generation_config
    with prune(model, "random"), pytest.raises(ValueError, match="`prefill_chunk_size` must be None"):
        model.generate(**drafts, generation_config=type(config)(**config.to_diff_dict() | {"prefill_chunk_size": 8}))
    assert "generate" not in model.__dict__


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("method", ["last is worst", "random", "visionzip", "similar"])
def test_the_last_token_stays_though_it_is_visual(method, side):
    """Its state is what the answer is read from."""

    def worst(tokens, context):
        return -context.ordinal.float()

    model = build("llava", "sdpa")
    rows = [[1, 5, 6, 7, *IMG], [1, 5, *IMG, 9, 8, 7, 6, 5]]
    given = batch_of(*rows)
    text = hosts.collate("llava", [{"ids": r, "count": 0} for r in rows], side)
    batch = text | {"pixel_values": given["pixel_values"]}
    method = {
        "last is worst": TokenPruning([worst], {0: 4, 2: 1}),
        "similar": TokenPruning([worst], {0: 4}, similar=1.0),
    }.get(method, method)
    with prune(model, method, keep=None if isinstance(method, TokenPruning) else 4) as pruner:
        logits = model(**batch).logits
    for n, kept in pruner.last.kept.items():
        last = pruner.last.visual[0].nonzero().max()
        assert kept[0, last]
        assert kept.sum(1).tolist() == [min(4, v) if n == 0 else 1 for v in (16, 16)]
    assert logits[0, last].any()
    if isinstance(method, TokenPruning) and 2 in method.keep:
        expected = hosts.masked_logits(model, batch, hosts.gone(pruner.last, logits.shape[1]))
        close(logits[0, last], expected[0, last])


@pytest.mark.parametrize("method", READING)
def test_answers_decide_nothing_in_training(method):
    model, kept, totals = build("llava", "sdpa"), [], []
    method, keep = METHODS[method]
    answers = [[20, 21, 22, 23], [30, 31, 32, 33]]
    for answer in answers:
        batch = batch_of([1, 5, *IMG, 7, 8, 9, *answer], [1, *IMG, 11, 12, *answer])
        labels = batch["input_ids"].clone()
        labels[:, :-4] = -100
        with prune(model, method, keep=keep) as pruner:
            loss = model(**batch, labels=labels).loss
        assert loss.isfinite()
        kept.append(pruner.last.kept)
        totals.append({n: d.total for n, d in pruner.last.decisions.items()})
    prompts = batch_of([1, 5, *IMG, 7, 8, 9], [1, *IMG, 11, 12])
    with prune(model, method, keep=keep) as pruner:
        model(**prompts)
    for n, where in pruner.last.kept.items():
        assert torch.equal(kept[0][n], kept[1][n])
        assert torch.equal(kept[0][n][:, :-4], where)
        close(totals[0][n], totals[1][n])
        close(totals[0][n], pruner.last.decisions[n].total)


def test_a_visual_token_whose_next_label_counts_stays():
    def worst(tokens, context):
        return -context.ordinal.float()

    model, batch = build("llava", "sdpa"), batch_of([1, 5, *IMG, 20, 21], [1, *IMG, 8, 20])
    labels = torch.full_like(batch["input_ids"], -100)
    labels[:, -2] = batch["input_ids"][:, -2]  # the first row's answer begins right after the image
    labels[:, -1] = batch["input_ids"][:, -1]
    for given in ({"labels": labels}, {"labels": labels, "shift_labels": labels.roll(-1, 1)}):
        with prune(model, TokenPruning([worst], {1: 4})) as pruner:
            out = model(**batch, **given)
        kept = pruner.last.kept[1]
        assert kept[0].nonzero().flatten().tolist()[-1] == 17 and kept.sum(1).tolist() == [4, 4]
        assert out.logits[0, 17].any()
    with prune(model, TokenPruning([worst], {1: 4})) as pruner:
        model(**batch)
    assert not pruner.last.kept[1][0, 17]  # nobody asks for it


def test_an_instruction_mask_says_what_is_asked():
    """Where an answer is scored by its logits there are no labels to see its begin by."""
    model, kept = build("llava", "sdpa"), []
    for answer in ([20, 21, 22], [30, 31, 32]):
        batch = batch_of([1, 5, *IMG, 7, 8, 9, *answer])
        asked = torch.zeros_like(batch["input_ids"])
        asked[:, 18:21] = 1
        with prune(model, "transprune") as pruner:
            model(**batch, instruction_mask=asked)
        kept.append(pruner.last.decisions[2].total)
    with prune(model, "transprune") as pruner:
        model(**batch_of([1, 5, *IMG, 7, 8, 9]))
        alone = pruner.last.decisions[2].total
        model(**batch_of([1, 5, *IMG, 7, 8, 9, 30, 31, 32]))  # is not carried over
        assert not torch.allclose(pruner.last.decisions[2].total, alone)
    close(kept[0], alone)
    close(kept[1], alone)
    # also text before the image, and by `generate`, whose rows are repeated
    batch = batch_of([1, 7, 8, *IMG, 9, 10], [3, *IMG, 4, 4, 5, 6])
    asked = torch.zeros_like(batch["input_ids"])
    asked[:, 1:3] = asked[:, -1] = 1
    with prune(model, "transprune", keep={2: 0.5}) as pruner:
        model(**batch, instruction_mask=asked)
        once = pruner.last.decisions[2].scores["instruction"]
        generate(model, batch, instruction_mask=asked, num_return_sequences=2, do_sample=True)
        close(pruner.last.decisions[2].scores["instruction"], once.repeat_interleave(2, 0))
        with pytest.raises(ValueError, match=r"`instruction_mask` must be \(batch, tokens\) = \(2, 21\)"):
            model(**batch, instruction_mask=asked[:, 1:])


def test_a_cache_is_continued_with_new_tokens_alone(drafts):
    model = build("llava", "sdpa")
    new = {"input_ids": torch.tensor([[5, *IMG, 6, 7, 8]]), "pixel_values": drafts["pixel_values"]}
    outs = []
    with prune(model, "transprune"):
        for whole in (False, True):
            cache = cache_of(model(**drafts, use_cache=True))
            ids = torch.cat([drafts["input_ids"], new["input_ids"]], 1)
            batch = new | {"attention_mask": torch.ones_like(ids)} | ({"input_ids": ids} if whole else {})
            outs.append(generate(model, batch, **{CACHE: cache}))
    assert torch.equal(torch.stack(outs[0].logits), torch.stack(outs[1].logits))
