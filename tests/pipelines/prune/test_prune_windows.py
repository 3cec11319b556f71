"""What is left of tokens sees what is left of its window, of its chunk, and of its image in both directions, while
caches hold no more than a window."""

import prune_hosts
import pytest
import torch
import vlm_hosts as hosts
from prune_runs import CACHE
from transformers import Gemma3Config, Gemma3ForConditionalGeneration
from vlm_checks import close, generate
from vlm_hosts import TOKENS, WINDOW

from pipelines.prune.cache import cache_of
from pipelines.prune.hosts import find_host
from pipelines.prune.pruner import prune

pytestmark = pytest.mark.usefixtures("inference")
REACH = WINDOW["text_config.sliding_window"]
ROWS = [hosts.row(1, 0), hosts.row(2, 1)]
NAMES = pytest.mark.parametrize("name", ["Gemma3", "Cohere2Vision"])


def expected(model, sequences, rows, gone):
    batch = hosts.collate(model, rows)
    whole = prune_hosts.extend(prune_hosts.only(batch), sequences) | {"mm_encoder_outputs": batch["mm_encoder_outputs"]}
    return prune_hosts.masked(model, whole, gone, decoder=find_host(model, "")[1]).logits


@NAMES
def test_writing_beyond_a_window(name):
    model, new = hosts.build(name), 2 * REACH
    with prune(model, "fastv", keep={2: 0.5}) as pruner:
        out = generate(model, ROWS, max_new_tokens=new)
    batch = hosts.collate(model, ROWS)
    prompt, length = batch["input_ids"].shape[1], out.sequences.shape[1]
    logits = expected(model, out.sequences, ROWS, prune_hosts.gone(pruner.last, length))
    close(torch.stack(out.logits, 1), logits[:, prompt - 1 : -1])
    kinds = model.config.get_text_config().layer_types
    assert {"sliding_attention", "full_attention"} <= set(kinds)
    for kind, layer in zip(kinds, cache_of(out).layers, strict=True):
        assert layer.get_seq_length() == length - 1
        assert layer.keys.shape[-2] == REACH - 1 if kind == "sliding_attention" else layer.keys.shape[-2] > 2 * REACH


@NAMES
def test_an_image_after_text_that_was_read_without_pruning(name):
    """Whose cache holds a window of each sliding layer."""
    model = hosts.build(name)
    text, row = {"ids": [1, *range(2, 2 + 2 * REACH)], "features": []}, hosts.row(1, 2)
    mask = torch.ones(1, len(text["ids"]), dtype=torch.long)
    with prune(model, "divprune", keep={0: 0.75, 3: 0.5}) as pruner:
        cache = cache_of(model(input_ids=torch.tensor([text["ids"]]), attention_mask=mask, use_cache=True))
        for turn in (row, {"ids": [7, 8, 9], "features": []}):
            seen = cache.get_seq_length()
            batch = hosts.collate(model, [turn]) if turn["features"] else {"input_ids": torch.tensor([turn["ids"]])}
            batch["attention_mask"] = torch.ones(1, seen + len(turn["ids"]), dtype=torch.long)
            if name == "Gemma3":  # types are of all tokens there are
                types = batch.pop("token_type_ids", torch.zeros_like(batch["input_ids"]))
                batch["token_type_ids"] = torch.nn.functional.pad(types, (seen, 0))
            logits = model(**batch, **{CACHE: cache}).logits
    whole = {"ids": text["ids"] + row["ids"] + turn["ids"], "features": row["features"]}
    length, before = len(whole["ids"]), len(text["ids"])
    gone = {
        n: torch.nn.functional.pad(absent, (before, 0))
        for n, absent in prune_hosts.gone(pruner.last, length - before).items()
    }
    assert gone[3].sum() == TOKENS // 2
    close(logits, expected(model, torch.tensor([whole["ids"]]), [whole], gone)[:, -3:])


def test_a_window_is_not_counted_in_the_tokens_left(monkeypatch):
    """FlashAttention takes no mask of the whole sequence."""
    from transformers.masking_utils import AttentionMaskInterface, flash_attention_mask

    model = hosts.build("Cohere2Vision")
    AttentionMaskInterface.register("flat", flash_attention_mask)
    monkeypatch.setattr(find_host(model, "")[1].config, "_attn_implementation", "flat")
    with prune(model, "divprune"), pytest.raises(ValueError, match="beyond the 9 tokens of a window"):
        model(**hosts.collate(model, ROWS))


@NAMES
def test_positions_stay_where_windows_are_counted_in_them(name):
    with pytest.raises(ValueError, match="must be 'original' for a model with windows"):
        prune(hosts.build(name), "transprune", positions="renumbered")


def test_queries_that_are_scaled_by_position(monkeypatch):
    """Llama 4 does it by the place in the chunk, which tokens left do not keep."""
    model = hosts.build("Llama4")
    layer = find_host(model, "")[1].layers[3].self_attn
    assert layer.attn_temperature_tuning and not layer.use_rope
    monkeypatch.setattr(layer, "floor_scale", 16)
    with prune(model, "divprune"), pytest.raises(ValueError, match="by position from 16 tokens on: it is too long"):
        model(**hosts.collate(model, ROWS))


def test_pixels_of_an_image_that_is_read_in_both_directions():
    """From the vision tower on, in a batch of two rows with two images and one."""
    torch.manual_seed(0)
    text = {**prune_hosts.TEXT, "head_dim": 8, "sliding_window": REACH, "layer_types": hosts.KINDS + hosts.KINDS[1:]}
    config = Gemma3Config(
        text_config=text, vision_config=prune_hosts.VISION, image_token_id=prune_hosts.IMAGE, mm_tokens_per_image=4
    )
    model = Gemma3ForConditionalGeneration(config).eval()
    model.generation_config.suppress_tokens = [prune_hosts.IMAGE, prune_hosts.EOS]
    model.model.multi_modal_projector.mm_input_projection_weight.data.normal_()
    image = [prune_hosts.IMAGE] * 4
    rows = [[1, 5, *image, 7, *image, 8, 9], [1, 6, 7, 8, *image, 9, 10]]
    ids = torch.tensor([[prune_hosts.PAD] * (len(rows[0]) - len(r)) + r for r in rows])
    batch = {"input_ids": ids, "attention_mask": (ids != prune_hosts.PAD).long()}
    batch |= {"token_type_ids": (ids == prune_hosts.IMAGE).int(), "pixel_values": torch.randn(3, 3, 16, 16)}
    with prune(model, "fastv", keep={2: 0.5}) as pruner:
        out = model.generate(
            **batch, max_new_tokens=REACH, do_sample=False, return_dict_in_generate=True, output_logits=True
        )
    assert pruner.last.kept[2].sum(1).tolist() == [4, 2]
    gone = prune_hosts.gone(pruner.last, out.sequences.shape[1])
    logits = prune_hosts.masked(model, prune_hosts.extend(batch, out.sequences), gone).logits
    close(torch.stack(out.logits, 1), logits[:, ids.shape[1] - 1 : -1])
