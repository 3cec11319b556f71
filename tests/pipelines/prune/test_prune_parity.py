"""TransPrune against its authors' code: `fixtures/transprune.json` is what that made of this model and prompt."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import prune_hosts as hosts
import pytest
import torch
from prune_runs import CACHE
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from guidance.tokens.presets import TOKEN_PRESETS
from pipelines.prune.cache import cache_of
from pipelines.prune.pruner import prune

OFFICIAL = json.loads((Path(__file__).parents[2] / "fixtures" / "transprune.json").read_text())
BEFORE, VISUAL, AFTER = 5, 64, 9  # tokens of text, of the image, of the instruction; and one that is decoded
TEXT = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 14}
TEXT |= {"num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 256, "rms_norm_eps": 1e-5}


@pytest.fixture(scope="module")
def sequence() -> torch.Tensor:
    """``(tokens, 32)``, from a generator whose numbers NumPy promises not to change."""
    states = np.random.RandomState(1).randn(BEFORE + VISUAL + AFTER + 1, TEXT["hidden_size"])
    return torch.from_numpy(states.astype(np.float32))


@pytest.fixture(scope="module")
def model(sequence):
    vision = {**hosts.VISION, "hidden_size": 8, "intermediate_size": 8}  # is never run
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**vision), text_config=LlamaConfig(**TEXT), image_token_id=hosts.IMAGE
    )
    model = LlavaForConditionalGeneration(config).eval()
    numbers, state = np.random.RandomState(0), model.model.language_model.state_dict()
    for name in sorted(state):
        weight = numbers.randn(*state[name].shape) * 0.2
        state[name] = torch.from_numpy((1 + weight if "norm" in name else weight).astype(np.float32))
    model.model.language_model.load_state_dict(state)
    text = torch.cat([sequence[:BEFORE], sequence[BEFORE + VISUAL :]])
    with torch.no_grad():
        model.get_input_embeddings().weight[: len(text)] = text
    return model


@pytest.fixture(scope="module")
def ours(model, sequence):
    """The trace of the prompt, and the last states after the prompt and after one token more."""
    ids = torch.tensor([[*range(BEFORE), *[hosts.IMAGE] * VISUAL, *range(BEFORE, BEFORE + AFTER)]])
    image = {"image": SimpleNamespace(pooler_output=[sequence[BEFORE : BEFORE + VISUAL]])}
    pruning = TOKEN_PRESETS["transprune"](32)  # the layers of a 7B model, in the 14 layers here
    with torch.no_grad(), prune(model, pruning, positions="renumbered") as pruner:
        prompt = model.model(input_ids=ids, attention_mask=torch.ones_like(ids), mm_encoder_outputs=image)
        trace, mask = pruner.last, torch.ones(1, ids.shape[1] + 1)
        step = model.model(input_ids=torch.tensor([[BEFORE + AFTER]]), attention_mask=mask, **{CACHE: cache_of(prompt)})
    return trace, prompt.last_hidden_state[0, -1], step.last_hidden_state[0, -1]


def test_the_schedule_is_the_authors():
    pruning = TOKEN_PRESETS["transprune"](32)
    assert list(pruning.keep) == OFFICIAL["layers"]["pruned"] and list(pruning.keep.values()) == OFFICIAL["shares"]
    first, last = pruning.evaluators["transition"].layers
    assert list(range(first, last + 1)) == OFFICIAL["layers"]["accumulated"]


@pytest.mark.parametrize("stage", OFFICIAL["stages"], ids=lambda stage: f"layer {stage['layer']}")
def test_scores_and_what_is_kept(ours, stage):
    trace = ours[0]
    torch.testing.assert_close(
        trace.decisions[stage["layer"]].total[0], torch.tensor(stage["scores"]), rtol=1e-5, atol=1e-7
    )
    assert (trace.kept[stage["layer"]][0].nonzero().flatten() - BEFORE).tolist() == stage["kept"]


def test_states_after_the_prompt_and_after_a_decoded_token(ours):
    """Positions are renumbered as theirs are, in the prompt and while decoding."""
    _, prompt, step = ours
    torch.testing.assert_close(prompt, torch.tensor(OFFICIAL["prompt_state"]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(step, torch.tensor(OFFICIAL["step_state"]), rtol=1e-4, atol=1e-4)
