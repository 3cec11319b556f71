"""What a vision-language class must pass to be called supported. Each check raises where it fails."""

from typing import Any

import prune_hosts
import pytest
import torch
import vlm_hosts as hosts
from prune_runs import CACHE
from transformers import StaticCache

from evaluators.token.attention import InstructionAttention, LastTokenAttention
from guidance.tokens.pruning import TokenPruning
from pipelines.prune.hosts import find_host
from pipelines.prune.pruner import prune

ROWS = [hosts.row(1, 0), hosts.row(2, 1), hosts.row(1, 3)]
KEEP = {
    "transprune": {2: 0.75, 4: 0.25},
    "fastv": {2: 0.5},
    "divprune": {0: 0.5, 3: 0.25},
    "cdpruner": {0: 0.5},
    "dart": {2: 0.5},
}
NEW = 4


def close(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)


def generate(model: Any, rows: list[dict[str, Any]], **kwargs: Any) -> Any:
    given = {"max_new_tokens": NEW, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    return model.generate(**hosts.collate(model, rows), **given | kwargs)


def keeping_all_is_the_plain_model(model: Any) -> None:
    plain, written = model(**hosts.collate(model, ROWS)).logits, generate(model, ROWS).sequences
    with prune(model, "transprune", keep={2: 1.0, 4: 1.0}):
        assert torch.equal(model(**hosts.collate(model, ROWS)).logits, plain)
        assert torch.equal(generate(model, ROWS).sequences, written)
    with prune(model, "fastv"):
        assert not torch.equal(model(**hosts.collate(model, ROWS)).logits, plain)
    assert torch.equal(model(**hosts.collate(model, ROWS)).logits, plain)


def attention_is_that_of_the_model(model: Any) -> None:
    """What evaluators are told of attention, of layers of several kinds, against the weights of the eager model."""
    panel = [LastTokenAttention(previous=False), InstructionAttention()]
    before = LastTokenAttention(previous=True)
    before.name = "before"
    own = find_host(model, "")[1].config._attn_implementation
    model.set_attn_implementation("eager")
    attentions = model(**hosts.collate(model, ROWS), output_attentions=True).attentions
    if own != "eager":  # the only one that PaliGemma 2 has
        model.set_attn_implementation(own)
    for layer in (2, 3):
        with prune(model, TokenPruning([*panel, before], {layer: 0.5})) as pruner:
            model(**hosts.collate(model, ROWS))
        for i, visual in enumerate(pruner.last.visual):
            places = visual.nonzero().flatten()
            text = attentions[layer].mean(1)[i, int(places[-1]) + 1 :, places]
            scores = pruner.last.decisions[layer].scores
            close(scores["last_token"][i, : len(places)], text[-1])
            close(scores["instruction"][i, : len(places)], text.mean(0))
            close(scores["before"][i, : len(places)], attentions[layer - 1].mean(1)[i, -1, places])


def pruning_is_masking(model: Any, method: str) -> None:
    """The dropped tokens might as well be there and attended to by nobody."""
    decoder = find_host(model, "")[1]
    with prune(model, method, keep=KEEP[method]) as pruner:
        out = generate(model, ROWS)
    batch = hosts.collate(model, ROWS)
    kept = list(pruner.last.kept.values())[-1].sum(1).tolist()
    last = list(KEEP[method].values())[-1]
    assert kept == [n * hosts.TOKENS * last for n in (1, 2, 1)]
    whole = prune_hosts.extend(prune_hosts.only(batch), out.sequences)
    whole |= {"mm_encoder_outputs": batch["mm_encoder_outputs"]}
    gone = prune_hosts.gone(pruner.last, out.sequences.shape[1])
    prompt = batch["input_ids"].shape[1]
    close(
        torch.stack(out.logits, 1), prune_hosts.masked(model, whole, gone, decoder=decoder).logits[:, prompt - 1 : -1]
    )


def a_batch_is_its_samples(model: Any, method: str) -> None:
    with prune(model, method, keep=KEEP[method]):
        together = generate(model, ROWS)
        for i, alone in enumerate(ROWS):
            single = generate(model, [alone])
            close(torch.stack(together.logits, 1)[i], torch.stack(single.logits, 1)[0])


def videos_by_frames(model: Any, method: str) -> None:
    """The dropped tokens of videos might as well be attended to by nobody; a batch is its samples."""
    decoder = find_host(model, "")[1]
    if model.config.model_type.startswith(("glm", "molmo2")):
        batch = hosts.collate(model, ROWS) | {
            "mm_encoder_outputs": hosts.collate(model, ROWS, "video")["mm_encoder_outputs"]
        }
        with prune(model, method), pytest.raises(ValueError, match="the id of images"):
            model(**batch)
        return
    with prune(model, method, keep={0: 0.5}) as pruner:
        out = model(**hosts.collate(model, ROWS, "video")).logits
        trace = pruner.last
        alone = [model(**hosts.collate(model, [row], "video")).logits[0] for row in ROWS]
    assert trace.kept[0].sum(1).tolist() == [n * hosts.TOKENS // 2 for n in (1, 2, 1)]
    whole = hosts.collate(model, ROWS, "video")
    real = whole["attention_mask"].bool() & (trace.kept[0] | ~trace.visual)
    expected = prune_hosts.masked(model, whole, prune_hosts.gone(trace, out.shape[1]), decoder=decoder).logits
    close(out[real], expected[real])
    for row, own, length in zip(out, alone, (len(r["ids"]) for r in ROWS), strict=True):
        close(row[-length:], own)


def every_way_to_write(model: Any) -> None:
    """With cache and without, beams, sampling, drafts; and static caches are refused."""
    # Ernie 4.5 with images needs its cache: its experts are told the kinds of the prompt's tokens alone.
    caches = (True, model.config.model_type == "ernie4_5_vl_moe")

    def beams() -> list[torch.Tensor]:
        more: dict[str, Any] = {"num_beams": 2, "output_logits": False}
        return [generate(model, ROWS[:2], **more, use_cache=cache).sequences for cache in caches]

    repeats = model.config.model_type not in ("llama4", "glm_image")  # of which transformers does not repeat images
    alike = repeats and torch.equal(*beams())  # GLM-4V's own beams need its cache
    with prune(model, "transprune", keep=KEEP["transprune"]):
        cached, uncached = (generate(model, ROWS, use_cache=cache) for cache in caches)
        close(torch.stack(cached.logits), torch.stack(uncached.logits))
        assert not repeats or torch.equal(*beams()) or not alike
        draws = []
        for cache in caches:
            torch.manual_seed(0)
            many = {"do_sample": True, "num_return_sequences": 2 if repeats else 1}
            draws.append(generate(model, ROWS, **many, use_cache=cache).sequences)
        assert torch.equal(*draws)
        greedy = generate(model, ROWS[:1], max_new_tokens=8).sequences
        drafted = generate(model, ROWS[:1], max_new_tokens=8, prompt_lookup_num_tokens=3).sequences
        assert torch.equal(drafted, greedy)
        static = StaticCache(model.config.get_text_config(), max_cache_len=64)
        with pytest.raises(ValueError, match="must be a DynamicCache"):
            model(**hosts.collate(model, ROWS), **{CACHE: static})


def is_supported(name: str) -> None:
    """Every check of a host."""
    model = hosts.build(name)
    with torch.inference_mode():
        keeping_all_is_the_plain_model(model)
        attention_is_that_of_the_model(model)
        for method in KEEP:
            pruning_is_masking(model, method)
        for method in ("transprune", "fastv"):
            a_batch_is_its_samples(model, method)
        every_way_to_write(model)
        if hasattr(find_host(model, "")[0], "get_video_features"):
            for method in ("evs", "vidcom2"):
                videos_by_frames(model, method)


def is_refused(name: str) -> str:
    """The message of a host that cannot be pruned."""
    with pytest.raises(ValueError, match=hosts.HOSTS[name].refused) as error:
        prune(hosts.build(name), "fastv")
    return str(error.value)
