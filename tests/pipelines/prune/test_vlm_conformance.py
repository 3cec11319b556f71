"""Each class of `vlm_hosts` that is supported passes every check; each that is refused says why."""

import prune_hosts
import pytest
import torch
import transformers
import vlm_checks as checks
import vlm_hosts as hosts
from vlm_hosts import HOSTS

from pipelines.prune.hosts import find_host
from pipelines.prune.pruner import prune

# Norms, rows added between layers, experts, experts for images, windows.
QUICK = ("LlavaOnevision", "Qwen3VL", "GlmOcr", "Ernie4_5_VLMoe", "Gemma3")
SUPPORTED = [name for name, host in HOSTS.items() if not host.refused]


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in SUPPORTED])
def test_supported(name):
    checks.is_supported(name)


@pytest.mark.parametrize("name", [name for name, host in HOSTS.items() if host.refused])
def test_refused(name):
    if not hasattr(transformers, HOSTS[name].name):
        pytest.skip("is in newer versions of transformers")
    checks.is_refused(name)


@pytest.mark.parametrize("name", ["Llava, GPT-OSS", "Llava, AFMoE", "Llava, EXAONE MoE", "Llava, StableLM"])
def test_attention(name, inference):
    """Sinks take part of it, some layers have no positions, others rotate part of each head."""
    checks.attention_is_that_of_the_model(hosts.build(name))


def test_grids_that_the_configuration_does_not_name_are_not_renumbered():
    """Qwen3-VL's sections are a default of its rotary embeddings."""
    model = hosts.build("Qwen3VL")
    assert "mrope_section" not in model.config.text_config.rope_parameters
    with pytest.raises(ValueError, match="`positions` must be 'original' for a model with multimodal rotary"):
        prune(model, "fastv", positions="renumbered")


def test_codes_of_an_image_and_the_picture_to_be_written(inference):
    """GLM-Image reads an image as codes; positions of what it writes are those of a grid, counted from the prompt."""
    model, grid = hosts.build("GlmImage"), torch.tensor([[1, 4, 4], [1, 2, 3]])
    ids = torch.tensor([[1, 5, 6, 57, *[hosts.IMAGE] * 16, 56, 7, 8, 9, 57]])
    pixels = torch.randn(16, 48, generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels, "image_grid_thw": grid}
    batch["images_per_sample"] = torch.tensor([2])
    with prune(model, "transprune", keep={1: 0.75, 2: 0.5}) as pruner:
        given = {"return_dict_in_generate": True, "output_logits": True}
        out = model.generate(**batch, max_new_tokens=5, do_sample=False, **given)
    assert pruner.last.kept[2].sum() == 8
    positions, _ = model.model.get_rope_index(ids, grid, attention_mask=batch["attention_mask"])
    written = model.model._cached_decode_position_ids.permute(1, 0, 2)[..., :5]
    whole, gone = prune_hosts.extend(batch, out.sequences), prune_hosts.gone(pruner.last, out.sequences.shape[1])
    expected = prune_hosts.masked(model, whole, gone, position_ids=torch.cat([positions, written], -1)).logits
    checks.close(torch.stack(out.logits, 1), expected[:, ids.shape[1] - 1 : -1])


def test_layers_that_read_positions(inference):
    """Ministral 3's are told those of the tokens left, and beyond so many scale attention by them."""
    model = hosts.build("Mistral3, Ministral 3")
    checks.pruning_is_masking(model, "fastv")
    text = find_host(model, "")[1].config
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(text.rope_parameters, "original_max_position_embeddings", 16)
        with prune(model, "divprune"), pytest.raises(ValueError, match="by position from 16 tokens on: it is too long"):
            model(**hosts.collate(model, checks.ROWS))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(text, "_attn_implementation_internal", "flash_attention_2")
        with prune(model, "divprune"), pytest.raises(ValueError, match="must be 'sdpa' or 'eager' for `model`"):
            model(**hosts.collate(model, checks.ROWS))
