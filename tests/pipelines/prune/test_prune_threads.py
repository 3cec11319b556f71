"""Threads share a pruned model, and each gets what it would get alone."""

import threading

import prune_hosts as hosts
import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from pipelines.prune.pruner import prune


def together(*calls):
    """Runs each of `calls` in a thread of its own, all at once; returns what they returned."""
    barrier, results, errors = threading.Barrier(len(calls)), [None] * len(calls), []

    def work(index):
        try:
            barrier.wait()
            with torch.inference_mode():
                results[index] = calls[index]()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
    return results


@pytest.mark.parametrize(("name", "method"), [("llava", "transprune"), ("llava", "visionzip"), ("idefics3", "fastv")])
def test_threads_get_what_they_get_alone(name, method):
    model = hosts.build(name)
    batches = [hosts.inputs(name, rows, seed=i) for i, rows in enumerate([(1,), (2, 1), (1, 0, 1)])]

    def answer(batch):
        ids = model.generate(**batch, max_new_tokens=3, do_sample=False, prefill_chunk_size=None)
        return ids, pruner.last

    def often(batch):
        return lambda: [answer(batch) for _ in range(8)]

    with torch.inference_mode(), prune(model, method) as pruner:
        alone = [answer(batch) for batch in batches]
        for (ids, trace), runs in zip(alone, together(*map(often, batches)), strict=True):
            for got, own in runs:
                assert torch.equal(got, ids)
                assert all(torch.equal(own.kept[n], kept) for n, kept in trace.kept.items())


def test_the_trace_of_a_worker_is_seen_where_nothing_ran():
    """As with a streamer, for which `generate` runs in a thread."""
    model, batch = hosts.build("llava"), hosts.inputs("llava")
    with prune(model, "random") as pruner:
        (trace,) = together(lambda: (model(**batch), pruner.last)[1])
        assert pruner.last is trace and trace.kept


def test_threads_share_an_encoder():
    torch.manual_seed(0)
    encoder = CLIPVisionModel(CLIPVisionConfig(**hosts.VISION | {"num_hidden_layers": 4})).eval()
    pixels = [torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(n)) for n in (1, 2, 3)]

    def often(x):
        return lambda: [encoder(x).last_hidden_state for _ in range(20)]

    with torch.inference_mode(), prune(encoder, "zero-tprune"):
        alone = [encoder(x).last_hidden_state for x in pixels]
        for expected, runs in zip(alone, together(*map(often, pixels)), strict=True):
            assert all(torch.equal(got, expected) for got in runs)
