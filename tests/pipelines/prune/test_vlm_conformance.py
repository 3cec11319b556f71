"""Each class of `vlm_hosts` that is supported passes every check; each that is refused says why."""

import pytest
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
