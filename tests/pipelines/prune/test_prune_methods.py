"""What the newer evaluators are given by the hosts, against the stock model."""

import prune_hosts as hosts
import pytest
import torch
from prune_runs import HOST, build, close, generate

from evaluators.token.base import Embeddings
from evaluators.token.raters import RaterAttention, text_raters
from guidance.tokens.pruning import TokenPruning
from guidance.tokens.recycling import Recycling
from pipelines.prune.cache import cache_of
from pipelines.prune.pruner import prune

pytestmark = pytest.mark.usefixtures("inference")


@HOST
@pytest.mark.parametrize("cached", [True, False])
def test_rotated_keys_and_what_is_read_out(name, cached):
    """The keys are those in the cache of the layer before; states are read out by the decoder's last norm."""
    model, batch, read = build(name), hosts.inputs(name), {}
    if not name.startswith("qwen"):  # which makes them so by itself
        batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)

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


@pytest.mark.parametrize("positions", ["original", "renumbered"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["llava", "idefics3"])
def test_pivots_of_a_padded_row_are_its_own(name, side, positions):
    """Also where the model is called by hand, so that it counts padding on the left; after an earlier pruning, too."""
    model, samples = build(name), [hosts.row(name, count, i) for i, count in enumerate((1, 2, 1, 0))]
    with prune(model, "dart", keep={2: 0.5, 4: 0.25}, positions=positions) as pruner:
        for rows in (samples, samples[2:3]):
            batch = hosts.collate(name, rows, side)
            if len(rows) == 1:
                pad = (3, 0) if side == "left" else (0, 3)
                batch |= {key: torch.nn.functional.pad(value, pad) for key, value in hosts.only(batch).items()}
            model(**batch)
            together, real = pruner.last, batch["attention_mask"].bool()
            for i, row in enumerate(rows):
                if not row["count"]:
                    continue
                model(**hosts.collate(name, [row]))
                for n in (2, 4):
                    assert torch.equal(together.kept[n][i, real[i]], pruner.last.kept[n][0])


def test_keys_of_a_layer_that_was_not_run():
    with prune(build("llava"), "dart", keep={0: 0.5}), pytest.raises(ValueError, match="before the first layer"):
        build("llava")(**hosts.inputs("llava"))


def videos(rows: list[list[int]], frames: dict[int, int]) -> dict[str, torch.Tensor]:
    """A batch for Qwen2-VL of rows of the lengths of videos; `frames` of a video of so many tokens."""
    ids = [[1, 5, *[t for n in row for t in [hosts.VIDEO] * n + [6]], 7, 8, 9] for row in rows]
    longest = max(map(len, ids))
    ids = torch.tensor([[hosts.PAD] * (longest - len(r)) + r for r in ids])
    grids = [[frames[n], 4, 4 * n // frames[n] // 4] for row in rows for n in row]
    pixels = torch.randn(sum(4 * n for row in rows for n in row), 96, generator=torch.Generator().manual_seed(0))
    return {
        "input_ids": ids,
        "attention_mask": (ids != hosts.PAD).long(),
        "mm_token_type_ids": (ids == hosts.VIDEO).int() * 2,
        "pixel_values_videos": pixels,
        "video_grid_thw": torch.tensor(grids),
    }


@pytest.mark.parametrize("beams", [1, 2])
def test_frames_of_videos(beams):
    """Of several videos in a row, in a batch, and where `generate` repeats rows for beams."""
    model, read = build("qwen2_vl"), []

    def reader(tokens, context):
        read.append((context.frames(), context.ordinal, context.valid))
        return tokens.mean(-1)

    rows, frames = [[24, 16], [], [32]], {24: 3, 16: 2, 32: 4}
    batch = videos(rows, frames)
    with prune(model, TokenPruning([reader], {1: 0.5})):
        model.generate(**batch, num_beams=beams, max_new_tokens=2, do_sample=False)
    (given, _, _) = read[0]
    assert len(given.frame) == 3 * beams
    for n, row in enumerate(r for r in rows for _ in range(beams)):
        expected = [(v, t // 8, frames[s], 8) for v, s in enumerate(row) for t in range(s)]
        assert torch.stack(given, -1)[n, : len(expected)].tolist() == [list(e) for e in expected]


@pytest.mark.parametrize("method", ["evs", "vidcom2"])
def test_videos_are_pruned(method):
    """A batch is its samples; the first frame stays by EVS; what is dropped might as well be masked."""
    model = build("qwen2_vl")
    batch = videos([[24, 16], [32]], {24: 3, 16: 2, 32: 4})
    with prune(model, method, keep=0.5) as pruner:
        together = generate(model, batch)
        trace = pruner.last
        alone = generate(
            model, videos([[24, 16]], {24: 3, 16: 2}) | {"pixel_values_videos": batch["pixel_values_videos"][:160]}
        )
    assert trace.kept[0].sum(1).tolist() == [20, 16]
    kept = trace.kept[0][0][trace.visual[0]]
    if method == "evs":
        assert kept[:8].all() and kept[24:32].all() and kept[8:24].sum() == 4
    close(torch.stack(together.logits, 1)[0], torch.stack(alone.logits, 1)[0])
    grown = hosts.extend(batch, together.sequences)
    expected = hosts.masked_logits(model, grown, hosts.gone(trace, together.sequences.shape[1]))
    close(torch.stack(together.logits, 1), expected[:, batch["input_ids"].shape[1] - 1 : -1])


def test_frames_that_nobody_told():
    """Features that came from elsewhere; a prompt of images alone has one frame each."""
    model, batch = build("qwen2_vl"), videos([[32]], {32: 4})
    features = model.get_video_features(batch.pop("pixel_values_videos"), batch["video_grid_thw"])
    with prune(model, "evs", keep=0.5), pytest.raises(ValueError, match="does not say how many"):
        model(**batch, mm_encoder_outputs={"video": features})
    with prune(model, "evs", keep=0.5) as pruner:
        model(**hosts.inputs("qwen2_vl", (1,)))
    assert (pruner.last.decisions[0].stays[0].nonzero().flatten() // 2).tolist() == list(range(8))  # evenly spaced


@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_the_heads_and_distances_of_sparsevlm_v2(name):
    """Weights of the eager model, divided by what the rotation makes of ones, by the heads that look most."""
    batch, eager = hosts.inputs(name, (1, 2)), build(name, "eager")
    with prune(build(name), TokenPruning([RaterAttention(heads=0.5, unrotated=True)], {2: 0.5})) as pruner:
        build(name)(**batch)
    visual, given = pruner.last.visual, []
    layer = hosts.language_model(eager).layers[1]
    handle = layer.register_forward_pre_hook(lambda m, a, k: given.append(k["position_embeddings"]), with_kwargs=True)
    out = eager(**batch, output_attentions=True, output_hidden_states=True)
    handle.remove()
    cos, sin = (part.expand(2, -1, -1) for part in given[0])
    half = cos.shape[-1] // 2
    for i in range(2):
        places, real = visual[i].nonzero().flatten(), batch["attention_mask"][i].nonzero().flatten()
        words = real[real > places[-1]]
        ones = [torch.ones(1, len(x), dtype=torch.bool) for x in (places, words)]
        first = out.hidden_states[0][i]
        raters = words[text_raters(Embeddings(first[places][None], ones[0], first[words][None], ones[1]))[0]]
        angle = torch.atan2(sin[i], cos[i])[:, :half]
        alone = 2 * torch.cos(angle[raters][:, None] - angle[places][None]).sum(-1) / (2 * half) ** 0.5
        weights = out.attentions[1][i][:, raters][:, :, places] / alone
        best = weights.sum((1, 2)).topk(2).indices
        scores = pruner.last.decisions[2].scores["raters"][i, : len(places)]
        torch.testing.assert_close(scores, weights[best].mean((0, 1)), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", ["sparsevlm-recycled", "sparsevlm-v2"])
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_sparsevlm_in_a_batch(name, method):
    model, rows = build(name), [hosts.row(name, 1, 0), hosts.row(name, 2, 1)]
    with prune(model, method, keep={1: 0.75, 3: 0.5}) as pruner:
        together = generate(model, hosts.collate(name, rows))
        kept = [k.sum(1).tolist() for k in pruner.last.kept.values()]
        for i, row in enumerate(rows):
            alone = generate(model, hosts.collate(name, [row]))
            close(torch.stack(together.logits, 1)[i], torch.stack(alone.logits, 1)[0])
        uncached = generate(model, hosts.collate(name, rows), use_cache=False)
        close(torch.stack(together.logits), torch.stack(uncached.logits))
    assert kept == [[12, 24], [8, 16]]


def test_recycled_tokens_reach_the_next_layer():
    """As the means of what was dropped, where the centres stood."""
    model, batch, seen = build("llava"), hosts.inputs("llava", (1,)), {}
    layers = hosts.language_model(model).layers
    with prune(model, TokenPruning([RaterAttention()], {2: 0.5}, select=Recycling())) as pruner:
        handles = [
            layer.register_forward_pre_hook(lambda m, a, k, n=n: seen.update({n: a[0]}), with_kwargs=True)
            for n, layer in enumerate(layers)
        ]
        out = model(**batch, output_hidden_states=True)
        for handle in handles:
            handle.remove()
    decision, visual = pruner.last.decisions[2], pruner.last.visual[0].nonzero().flatten()
    plain = model(**batch, output_hidden_states=True).hidden_states[2][0]
    expected = plain.clone()
    for place in range(16):
        members = visual[decision.target[0] == place]
        if len(members) > 1:
            expected[visual[place]] = plain[members].mean(0)
    left = torch.ones(len(plain), dtype=torch.bool)
    left[visual[~decision.stays[0]]] = False
    assert (decision.target[0] != torch.arange(16)).any() and left.sum() == len(plain) - 8
    close(seen[2][0], expected[left])
    assert out.logits.isfinite().all()
