"""What is refused, with which words; and that pruning leaves nothing behind."""

import functools

import prune_hosts as hosts
import pytest
import torch
from prune_runs import CACHE
from transformers import LlamaConfig, LlamaForCausalLM, StaticCache

from evaluators.token.baselines import RandomTokens, UniformTokens
from evaluators.token.diversity import Diversity
from evaluators.token.similarity import InstructionSimilarity
from evaluators.token.transition import TokenTransition
from guidance.tokens.pruning import TokenPruning
from pipelines.prune.cache import cache_of
from pipelines.prune.pruner import prune

build = functools.cache(hosts.build)


def hooks(model) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"method": "nonsense"}, "`method` must be one of"),
        ({"keep": 0.0}, "`keep` must be a share"),
        ({"keep": 1.5}, "`keep` must be a share"),
        ({"keep": {1: 0}}, "`keep` must be a share"),
        ({"keep": {-1: 0.5}}, "`keep` must have layers"),
        ({"keep": {5: 0.5}}, "`keep` names layer 5"),
        ({"keep": {1: 0.5, 2: 0.75}}, "`keep` must not grow"),
        ({"keep": {}}, "`keep` must map"),
        ({"positions": "sideways"}, "`positions` must be one of"),
        ({"method": TokenPruning([TokenTransition((1, 6))], {3: 0.5})}, "`layers` of evaluator 'transition' end at 6"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        prune(build("llava"), **kwargs)


def test_bad_method_type():
    with pytest.raises(TypeError, match="`method` must be a name or a TokenPruning, got int"):
        prune(build("llava"), 3)


def test_a_model_without_visual_tokens():
    model = LlamaForCausalLM(LlamaConfig(**hosts.TEXT))
    with pytest.raises(ValueError, match="no visual tokens"):
        prune(model)


def test_an_unsupported_architecture():
    other = type("Other", (torch.nn.Module,), {})()
    other.config = type("C", (), {"model_type": "paligemma", "image_token_id": 3})()
    with pytest.raises(ValueError, match="`model` paligemma has no `get_image_features`"):
        prune(other)


def test_layers_of_another_kind_are_refused():
    model = hosts.build("llava")
    model.model.language_model.config.layer_types = ["full_attention", "linear_attention"] * 2 + ["full_attention"]
    with pytest.raises(ValueError, match="has layers of linear_attention"):
        prune(model)


def test_a_decoder_that_is_no_decoder_is_refused():
    model = hosts.build("llava")
    model.model.language_model.config.is_causal = False
    with pytest.raises(ValueError, match="reads everything in both directions"):
        prune(model)


def test_cross_attention_is_named():
    other = type("Other", (torch.nn.Module,), {})()
    other.cross_attn = torch.nn.Linear(1, 1)
    other.config = type("C", (), {"model_type": "mine", "vision_config": None})()
    with pytest.raises(ValueError, match="`model` mine reads images by cross-attention"):
        prune(other)


def test_several_devices_are_refused():
    model = hosts.build("llava")
    model.model.language_model.layers[2].to("meta")
    with pytest.raises(ValueError, match="`model` has its decoder layers on several devices"):
        prune(model)


def test_multimodal_rotary_cannot_be_renumbered():
    with pytest.raises(ValueError, match="`positions` must be 'original'"):
        prune(build("qwen2_vl"), positions="renumbered")


def test_already_pruned():
    model = build("llava")
    own = hooks(model)
    with prune(model), pytest.raises(ValueError, match="already pruned"):
        prune(model)
    assert hooks(model) == own


def test_nothing_is_left_behind():
    model, batch = build("llava"), hosts.inputs("llava")
    with torch.no_grad():
        plain = model(**batch).logits
        own = hooks(model)  # transformers keeps some of its own
        with pytest.raises(RuntimeError, match="mine"), prune(model):
            model(**batch)
            raise RuntimeError("mine")
        assert hooks(model) == own
        pruner = prune(model)  # no context: in force at once
        assert pruner.enable() is pruner and hooks(model) > own
        assert not torch.equal(model(**batch).logits, plain)
        pruner.disable()
        pruner.disable()
        assert torch.equal(model(**batch).logits, plain)
    assert hooks(model) == own


def test_an_evaluator_that_comes_too_early():
    model = build("llava")
    with prune(model, TokenPruning([TokenTransition((3, 4))], {2: 0.5})), pytest.raises(ValueError, match="begins at"):
        model(**hosts.inputs("llava"))
    with prune(model, "fastv", keep={0: 0.5}), pytest.raises(ValueError, match="before the first layer"):
        model(**hosts.inputs("llava"))


def test_other_caches_and_masks():
    model, batch = build("llava"), hosts.inputs("llava")
    with torch.no_grad(), prune(model, "random"):
        with pytest.raises(ValueError, match="`cache` must be a DynamicCache"):
            model(**batch, **{CACHE: StaticCache(model.config, max_cache_len=64)})
        with pytest.raises(ValueError, match="`attention_mask` of the decoder must be"):
            model(**batch | {"attention_mask": batch["attention_mask"][:, :-1]})


def test_packed_samples():
    """The last token of the row asks nothing of the first image, which it does not see."""
    model, samples = build("llava"), [hosts.row("llava", 1, seed) for seed in (0, 1)]
    ids = torch.tensor([[token for sample in samples for token in sample["ids"]]])
    positions = torch.cat([torch.arange(len(sample["ids"])) for sample in samples])[None]
    pixels = torch.cat([s["pixels"]["pixel_values"] for s in samples])
    with prune(model, "fastv"):
        with pytest.raises(ValueError, match="`position_ids` begin anew within a row"):
            model(input_ids=ids, pixel_values=pixels, position_ids=positions, use_cache=False)
        model(input_ids=ids, pixel_values=pixels, position_ids=torch.arange(ids.shape[1])[None])


def test_a_cache_continued_without_pruning():
    model, batch = build("llava"), hosts.inputs("llava", (1,))
    step = {"input_ids": torch.tensor([[5]])}
    with torch.no_grad():
        with prune(model, "random", keep={2: 0.5}) as pruner:
            cache = cache_of(model(**batch, use_cache=True))
        model(**step, **{CACHE: cache})
        with pruner, pytest.raises(ValueError, match="continued without"):
            model(**step, **{CACHE: cache})


def test_a_cache_is_cropped_only_after_the_image():
    model, batch = build("llava"), hosts.inputs("llava", (1,))
    with torch.no_grad(), prune(model, "random", keep={2: 0.5}):
        cache = cache_of(model(**batch, use_cache=True))
    cache.crop(-2)
    with pytest.raises(ValueError, match="only text after the last image"):
        cache.crop(-15)


def test_text_only_and_embeddings():
    model, batch = build("llava"), hosts.inputs("llava")
    text = hosts.inputs("llava", (0, 0))
    embeds = model.get_input_embeddings()(batch["input_ids"])
    with torch.no_grad():
        plain = model(**text).logits
        with prune(model, "random", keep={2: 0.5}) as pruner:
            assert torch.equal(model(**text).logits, plain)
            assert pruner.last is None
            by_ids = model(**batch).logits
            given = {k: v for k, v in batch.items() if k != "input_ids"}
            assert torch.equal(model(**given, inputs_embeds=embeds).logits, by_ids)
            assert pruner.last.kept[2].sum(1).tolist() == [8, 16, 0]


def test_one_number_replaces_the_last_stage():
    def schedule(method, keep):
        with prune(build("llava"), method, keep=keep) as pruner:
            return pruner.pruning.keep

    assert schedule("transprune", 0.7) == {1: 0.7, 2: 0.7}
    assert schedule("transprune", 0.25) == {1: 0.625, 2: 0.25}
    assert schedule("transprune", 3) == {1: 0.625, 2: 3}
    assert schedule("fastv", 0.25) == {2: 0.25}


def test_earlier_stages_keep_at_least_that_number():
    """Of 16, 32 and no visual tokens, 62.5 % after the first pruning would be 10 and 20."""
    model, batch = build("llava"), hosts.inputs("llava", (1, 2, 0))
    with torch.no_grad(), prune(model, "transprune", keep=11) as pruner:
        model(**batch)
    assert {n: kept.sum(1).tolist() for n, kept in pruner.last.kept.items()} == {1: [11, 20, 0], 2: [11, 11, 0]}
    with prune(model, "transprune") as pruner:
        assert pruner.pruning.least == 0


def test_a_call_that_failed_leaves_nothing_to_the_next():
    """Its visual tokens are not those of what the decoder is given afterwards."""
    model, batch = build("llava"), hosts.inputs("llava", (1,))
    decoder, states = model.model.language_model, torch.randn(1, batch["input_ids"].shape[1], 32)
    text = torch.zeros(states.shape[:2], dtype=torch.long)
    with torch.no_grad():
        plain = decoder(inputs_embeds=states).last_hidden_state
        with prune(model, "fastv"):
            with pytest.raises(RuntimeError):
                model(**batch | {"pixel_values": batch["pixel_values"][:, :2]})
            assert torch.equal(decoder(inputs_embeds=states, mm_token_type_ids=text).last_hidden_state, plain)


def test_a_function_is_an_evaluator():
    def brightness(tokens, context):
        return tokens.float().mean(-1)

    model, batch = build("llava"), hosts.inputs("llava")
    panel = [brightness, RandomTokens(), UniformTokens(), InstructionSimilarity(), Diversity()]
    with torch.no_grad(), prune(model, TokenPruning(panel, {1: 4})) as pruner:
        model(**batch)
    assert pruner.last.kept[1].sum(1).tolist() == [4, 4, 0]
    scores = pruner.last.decisions[1].scores
    assert list(scores) == ["brightness", "random", "uniform", "similarity", "diversity"]
    assert all(values.isfinite().all() and values[:2].any() for values in scores.values())
