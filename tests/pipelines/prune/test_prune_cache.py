"""Pruning and the cache: it is as short as what is kept, and serves later turns, beams, guesses and copies."""

import copy

import prune_hosts as hosts
import pytest
import torch
from prune_runs import CACHE, EVERY, HOST, METHODS, NEW, build, close, generate

from pipelines.prune.cache import cache_of
from pipelines.prune.pruner import prune

pytestmark = pytest.mark.usefixtures("inference")


@EVERY
@HOST
@pytest.mark.parametrize("method", METHODS)
def test_decoding_with_cache_is_masking_without(name, attention, method):
    model, batch = build(name, attention), hosts.inputs(name)
    method, keep = METHODS[method]
    with prune(model, method, keep=keep) as pruner:
        out = generate(model, batch)
    expected = hosts.masked_logits(
        model, hosts.extend(batch, out.sequences), hosts.gone(pruner.last, out.sequences.shape[1])
    )
    prompt = batch["input_ids"].shape[1]
    got = torch.stack(out.logits, 1)
    close(got, expected[:, prompt - 1 : -1])
    # the sequence did get shorter, in each layer by what that row which keeps most has lost
    real, left = batch["attention_mask"].bool(), None
    for index, layer in enumerate(cache_of(out).layers):
        if index in pruner.last.kept:
            left = (real & (~pruner.last.visual | pruner.last.kept[index])).sum(1).max().item()
        assert layer.keys.shape[2] == (prompt if left is None else left) + NEW - 1
        assert layer.get_seq_length() == prompt + NEW - 1
    assert left < prompt


@HOST
def test_without_cache_is_with_cache(name):
    """Where what is dropped does not depend on what follows the image."""
    model, batch = build(name, "sdpa"), hosts.inputs(name)
    with prune(model, "divprune", keep={1: 0.75, 3: 0.25}):
        cached, uncached = generate(model, batch), generate(model, batch, use_cache=False)
    assert torch.equal(cached.sequences, uncached.sequences)
    close(torch.stack(cached.logits), torch.stack(uncached.logits))


@HOST
@pytest.mark.parametrize("method", ["transprune", "fastv", "first", "renumbered"])
def test_a_second_turn_reuses_the_cache(name, method):
    model = build(name, "sdpa")
    batch = hosts.inputs(name, (1, 2))
    renumber = method == "renumbered"
    if renumber and name.startswith("qwen"):
        pytest.skip("has multimodal positions")
    method, keep = METHODS["transprune" if renumber else method]
    with prune(model, method, keep=keep, positions="renumbered" if renumber else "original") as pruner:
        first = generate(model, batch)
        more = torch.cat([first.sequences, torch.randint(2, 50, (2, 6), generator=torch.Generator().manual_seed(1))], 1)
        text = {k: v for k, v in hosts.only(hosts.extend(batch, more)).items() if k != "mm_token_type_ids"}
        second = generate(model, text, **{CACHE: cache_of(first)})
    expected = hosts.masked_logits(
        model,
        hosts.extend(batch, second.sequences),
        hosts.gone(pruner.last, second.sequences.shape[1]),
        renumber=renumber,
    )
    close(torch.stack(second.logits, 1), expected[:, more.shape[1] - 1 : -1])


@pytest.mark.parametrize("name", ["llava", "llava_next", "idefics3", "smolvlm"])
@pytest.mark.parametrize("method", ["transprune", "fastv", "first"])
def test_a_second_turn_may_bring_an_image(name, method):
    model = build(name, "sdpa")
    first_row, second_row = hosts.row(name, 1, 3), hosts.row(name, 1, 4)
    batch = hosts.collate(name, [first_row])
    method, keep = METHODS[method]
    with prune(model, method, keep=keep) as pruner:
        first = generate(model, batch)
        one = pruner.last
        turn = hosts.collate(name, [second_row])
        more = torch.cat([first.sequences, turn["input_ids"]], 1)
        mask = torch.ones_like(more)
        second = generate(model, turn | {"input_ids": more, "attention_mask": mask}, **{CACHE: cache_of(first)})
        two = pruner.last
    length = second.sequences.shape[1]
    seen = length - NEW - turn["input_ids"].shape[1] - 1  # the last generated token was not cached in the first turn
    assert two.visual.shape[1] == length - NEW - seen
    gone = hosts.gone(one, length)
    for n, absent in hosts.gone(two, length - seen).items():
        gone[n] = gone[n] | torch.nn.functional.pad(absent, (seen, 0))
    pixels = {
        k: torch.cat([batch[k], turn[k]], int(name in ("idefics3", "smolvlm") and k == "pixel_values"))
        for k in batch
        if k not in hosts.only(batch)
    }
    whole = {"input_ids": second.sequences, "attention_mask": torch.ones_like(second.sequences)} | pixels
    expected = hosts.masked_logits(model, whole, gone)
    close(torch.stack(second.logits, 1), expected[:, -NEW - 1 : -1])


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "idefics3"])
def test_beam_search(name):
    model, batch = build(name, "sdpa"), hosts.inputs(name)
    with prune(model, "divprune", keep={1: 0.75, 3: 0.25}):
        cached = generate(model, batch, num_beams=3, output_logits=False)
        uncached = generate(model, batch, num_beams=3, output_logits=False, use_cache=False)
    assert torch.equal(cached.sequences, uncached.sequences)


def test_prompt_lookup_decoding_crops_the_cache():
    model, batch = build("llava", "sdpa"), hosts.inputs("llava", (1,))
    with prune(model, "transprune", keep={1: 0.75, 3: 0.25}):
        greedy = generate(model, batch, max_new_tokens=8, output_logits=False)
        guessed = generate(model, batch, max_new_tokens=8, output_logits=False, prompt_lookup_num_tokens=2)
    assert torch.equal(greedy.sequences, guessed.sequences)


def test_a_cache_can_be_copied_and_repeated():
    model, batch = build("llava"), hosts.inputs("llava", (1,))
    step = {"input_ids": torch.tensor([[5, 6]]), "attention_mask": torch.ones(1, batch["input_ids"].shape[1] + 2)}
    with prune(model, "transprune", keep={1: 0.75, 3: 0.25}):
        cache = cache_of(model(**batch, use_cache=True))
        copied, repeated = copy.deepcopy(cache), copy.deepcopy(cache)
        repeated.batch_repeat_interleave(3)
        one = model(**step, **{CACHE: cache}).logits
        assert torch.equal(model(**step, **{CACHE: copied}).logits, one)
        many = model(**{k: v.repeat(3, 1) for k, v in step.items()}, **{CACHE: repeated}).logits
    close(many, one.expand(3, -1, -1))


def test_right_padding_with_cache():
    model, batch = build("llava"), hosts.inputs("llava", side="right")
    ids = torch.cat([batch["input_ids"], torch.randint(2, 50, (3, 5))], 1)
    grown = hosts.extend(batch, ids)
    with prune(model, "transprune", keep={1: 0.75, 3: 0.25}) as pruner:
        cache = cache_of(model(**batch, use_cache=True))
        logits = model(input_ids=ids[:, -5:], attention_mask=grown["attention_mask"], **{CACHE: cache}).logits
    close(logits, hosts.masked_logits(model, grown, hosts.gone(pruner.last, ids.shape[1]))[:, -5:])


def test_sampling_many_per_prompt():
    model, batch = build("llava", "sdpa"), hosts.inputs("llava")
    with prune(model, "transprune"):
        out = generate(model, batch, do_sample=True, num_return_sequences=2, output_logits=False)
    assert out.sequences.shape == (6, batch["input_ids"].shape[1] + NEW)
