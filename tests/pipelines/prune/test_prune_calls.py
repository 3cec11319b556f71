"""However a pruned model is called it prunes, or says in one sentence why it does not."""

import copy
import io
import pickle

import prune_hosts as hosts
import pytest
import torch
from PIL import Image
from prune_runs import CACHE, build, close, generate
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, pipeline

from pipelines.prune.cache import cache_of
from pipelines.prune.pruner import prune
from tinyworld import lvlm

pytestmark = pytest.mark.usefixtures("inference")
UNTOLD = r"`inputs_embeds` do not show which tokens are visual: give `mm_token_type_ids` \(batch, tokens\)"
KEEP = {1: 0.75, 2: 0.5}


def with_merged_images(model, batch):
    """`batch` with its images among the embeddings, as `model` itself merges them, and the kinds of its tokens."""
    image = batch["input_ids"] == hosts.IMAGE
    pixels = {name: value for name, value in batch.items() if name not in hosts.only(batch)}
    features = torch.cat(list(model.get_image_features(**pixels).pooler_output))
    embeds = model.get_input_embeddings()(batch["input_ids"])
    given = {
        "inputs_embeds": embeds.masked_scatter(image[..., None], features),
        "attention_mask": batch["attention_mask"],
    }
    return given, {"mm_token_type_ids": image.int()}


class Wrapped(nn.Module):
    """As adapters wrap a model: a module of another class, whose `generate` calls the model's."""

    def __init__(self, base):
        super().__init__()
        self.base, self.config, self.generation_config = base, base.config, base.generation_config

    def forward(self, *args, **kwargs):
        return self.base(*args, **kwargs)

    def generate(self, *args, **kwargs):
        return self.base.generate(*args, **kwargs)


@pytest.mark.parametrize(
    ("name", "method"), [("llava", "transprune"), ("llava_next", "divprune"), ("idefics3", "fastv")]
)
def test_merged_images_are_pruned_like_pixels(name, method):
    model, batch = build(name), hosts.inputs(name, (2, 1))
    given, kinds = with_merged_images(model, batch)
    beams = {"num_beams": 2, "output_logits": False}
    with prune(model, method, keep=KEEP) as pruner:
        logits, kept = model(**batch).logits, pruner.last.kept
        assert torch.equal(model(**given, **kinds).logits, logits)
        assert all(torch.equal(pruner.last.kept[n], where) for n, where in kept.items())
        written = generate(model, batch, **beams).sequences[:, batch["input_ids"].shape[1] :]
        assert torch.equal(generate(model, given | kinds, **beams).sequences[:, -written.shape[1] :], written)
        assert pruner.last.kept[2].sum(1).tolist() == [n for row in kept[2].sum(1).tolist() for n in (row, row)]
    with pytest.raises(ValueError, match="mm_token_type_ids"):  # which it does not know by itself
        generate(model, given | kinds)


def test_merged_images_of_a_model_that_knows_kinds():
    """Qwen2.5-VL makes positions by them, too, which are given here: it would want the sizes of images for that."""
    model, batch = build("qwen2_5_vl"), hosts.inputs("qwen2_5_vl", (2, 1))
    given, kinds = with_merged_images(model, batch)
    positions, _ = model.model.get_rope_index(**hosts.only(batch), image_grid_thw=batch["image_grid_thw"])
    with prune(model, "transprune", keep=KEEP) as pruner:
        logits, kept = model(**batch, position_ids=positions).logits, pruner.last.kept
        assert torch.equal(model(**given, **kinds, position_ids=positions).logits, logits)
        assert all(torch.equal(pruner.last.kept[n], where) for n, where in kept.items())


def test_merged_images_in_a_second_turn():
    """With the kinds of the new tokens, or of all."""
    model, batch = build("llava"), hosts.inputs("llava", (1,))
    turn = hosts.collate("llava", [hosts.row("llava", 1, 4)])
    given, kinds = with_merged_images(model, turn)
    ids = torch.cat([batch["input_ids"], turn["input_ids"]], 1)
    whole = {"attention_mask": torch.ones_like(ids)}
    logits = []
    with prune(model, "transprune", keep=KEEP):
        for call in (turn | whole, given | kinds | whole):
            logits.append(model(**call, **{CACHE: cache_of(model(**batch, use_cache=True))}).logits)
        before = model.get_input_embeddings()(batch["input_ids"])
        both = {
            "inputs_embeds": torch.cat([before, given["inputs_embeds"]], 1),
            "mm_token_type_ids": ids == hosts.IMAGE,
        }
        cache = cache_of(model(**batch, use_cache=True))
        logits.append(generate(model, both | whole, **{CACHE: cache}).logits[0])
    assert torch.equal(logits[0], logits[1])
    close(logits[0][:, -1], logits[2])


@pytest.mark.parametrize("entry", ["model", "host", "decoder", "generate"])
def test_merged_images_of_which_nobody_tells_are_refused(entry):
    model = build("llava")
    given, kinds = with_merged_images(model, hosts.inputs("llava", (1, 2)))
    ran, decoder = [], model.model.language_model
    handle = decoder.layers[0].register_forward_pre_hook(lambda *args: ran.append(1))
    call = {"model": model, "host": model.model, "decoder": decoder, "generate": model.generate}[entry]
    with prune(model, "random", keep={1: 0.5}) as pruner, pytest.raises(ValueError, match=UNTOLD):
        call(**given)
    handle.remove()
    assert not ran and pruner.last is None
    if entry == "decoder":
        with prune(model, "random", keep={1: 0.5}) as pruner:
            call(**given, **kinds)
            assert pruner.last.kept[1].sum(1).tolist() == [8, 16]
            with pytest.raises(ValueError, match=r"`mm_token_type_ids` must be \(batch, tokens\)"):
                call(**given, mm_token_type_ids=kinds["mm_token_type_ids"][:, 1:])


def test_text_has_nothing_to_prune():
    """By ids nothing needs to be said; embeddings are said to be of text."""
    model, text = build("llava"), hosts.inputs("llava", (0, 0))
    given = {"inputs_embeds": model.get_input_embeddings()(text["input_ids"]), "attention_mask": text["attention_mask"]}
    plain, written = model(**text).logits, generate(model, text).sequences
    decoded = model.model.language_model(**text).last_hidden_state
    with prune(model, "transprune") as pruner:
        assert torch.equal(model(**text, pixel_values=None).logits, plain)
        assert torch.equal(generate(model, text).sequences, written)
        assert torch.equal(model.model.language_model(**text).last_hidden_state, decoded)
        assert torch.equal(model(**given, mm_token_type_ids=torch.zeros_like(text["input_ids"])).logits, plain)
    assert pruner.last is None


def test_what_is_told_reaches_the_model_through_a_wrapper():
    model, batch = build("llava"), hosts.inputs("llava", (1, 2))
    wrapped, asked = Wrapped(model), torch.zeros_like(batch["input_ids"])
    asked[:, -1] = 1
    given, kinds = with_merged_images(model, batch)
    scores = []
    for owner in (model, wrapped):
        with prune(owner, "transprune", keep=KEEP) as pruner:
            for call in (batch, batch | {"instruction_mask": asked}, given | kinds | {"instruction_mask": asked}):
                owner.generate(**call, max_new_tokens=1)
                scores.append(pruner.last.decisions[2].scores["instruction"])
            owner(**batch, instruction_mask=asked)
            scores.append(pruner.last.decisions[2].scores["instruction"])
    assert all(torch.equal(own, through) for own, through in zip(scores[:4], scores[4:], strict=True))
    assert not torch.allclose(scores[0], scores[1])
    assert torch.equal(scores[1], scores[2])
    assert "generate" not in wrapped.__dict__ and "generate" not in model.__dict__


def test_an_instruction_in_a_second_turn_of_new_tokens_alone():
    """The mask is that of what is given: of the new tokens, or of all."""
    model, batch = build("llava"), hosts.inputs("llava", (1,))
    turn = hosts.collate("llava", [hosts.row("llava", 1, 4)])
    asked = torch.zeros_like(turn["input_ids"])
    asked[:, -2] = 1
    ids = torch.cat([batch["input_ids"], turn["input_ids"]], 1)
    turn["attention_mask"] = torch.ones_like(ids)
    scores = []
    with prune(model, "transprune", keep=KEEP) as pruner:
        for whole in (None, False, True):
            mask = nn.functional.pad(asked, (batch["input_ids"].shape[1], 0)) if whole else asked
            call = turn | ({} if whole is None else {"instruction_mask": mask}) | ({"input_ids": ids} if whole else {})
            generate(model, call, **{CACHE: cache_of(model(**batch, use_cache=True))})
            scores.append(pruner.last.decisions[2].scores["instruction"])
    assert not torch.allclose(scores[0], scores[1])
    assert torch.equal(scores[1], scores[2])


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl"])
def test_an_image_in_a_second_turn_of_qwen(name):
    """Positions are given, for transformers makes those of the first turn alone."""
    model, turns = build(name), [hosts.collate(name, [hosts.row(name, 1, i)]) for i in (3, 4)]
    whole = {key: torch.cat([turn[key] for turn in turns], int(key in hosts.only(turns[0]))) for key in turns[0]}
    seen = turns[0]["input_ids"].shape[1]
    positions, _ = model.model.get_rope_index(**hosts.only(whole), image_grid_thw=whole["image_grid_thw"])
    with prune(model, "transprune", keep={1: 0.75, 2: 0.5, 4: 0.25}) as pruner:
        cache, one = cache_of(model(**turns[0], position_ids=positions[..., :seen], use_cache=True)), pruner.last
        turn = turns[1] | {"attention_mask": whole["attention_mask"], "position_ids": positions[..., seen:]}
        logits, two = model(**turn, **{CACHE: cache}).logits, pruner.last
    assert two.kept[4].sum() == 4
    gone = {n: torch.cat([t.visual & ~t.kept[n] for t in (one, two)], 1) for n in (1, 2, 4)}
    expected = hosts.masked_logits(model, whole, gone, position_ids=positions)[:, seen:]
    left = ~two.visual | two.kept[4]
    close(logits[left], expected[left])


def copies():
    return {
        "deepcopy": copy.deepcopy,
        "copy": copy.copy,
        "pickle": pickle.dumps,
        "save": lambda model: torch.save(model, io.BytesIO()),
        "replica": lambda model: model._replicate_for_data_parallel(),
    }


@pytest.mark.parametrize("how", copies())
def test_a_pruned_model_is_not_copied(how):
    """Its copy would run the forward of the original, by its weights."""
    model, encoder = hosts.build("llava"), CLIPVisionModel(CLIPVisionConfig(**hosts.VISION)).eval()
    make = copies()[how]
    for pruned, method in ((model, "visionzip"), (encoder, "divprune")):
        make(pruned)
        with prune(pruned, method, keep={0: 0.5}):
            for part in (pruned, getattr(pruned, "model", pruned)):
                with pytest.raises(TypeError, match="`model` is pruned and cannot be copied, pickled or replicated"):
                    make(part)
        make(pruned)
    with prune(model, "random"), pytest.raises(TypeError, match="is pruned and cannot be copied"):
        make(model.model.language_model)


def test_a_copy_made_before_is_pruned_by_itself():
    model, batch = hosts.build("llava"), hosts.inputs("llava", (1,))
    with prune(model, "fastv"):
        expected = model(**batch).logits
    other = copy.deepcopy(model)
    with prune(model, "fastv", keep={2: 1}) as own, prune(other, "fastv") as pruner:
        model(**batch)
        assert torch.equal(other(**batch).logits, expected)
        assert own.last.kept[2].sum() == 1 and pruner.last.kept[2].sum() == 8


def test_what_is_saved_is_the_plain_model(tmp_path):
    model, batch = build("llava"), hosts.inputs("llava", (1,))
    plain, weights = model(**batch).logits, {name: value.clone() for name, value in model.state_dict().items()}
    with prune(model, "visionzip", keep=6) as pruner:
        model(**batch)
        assert pruner.last.kept
        assert list(model.state_dict()) == list(weights)
        assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
        model.save_pretrained(tmp_path)
    assert torch.equal(type(model).from_pretrained(tmp_path).eval()(**batch).logits, plain)


@pytest.mark.parametrize("method", ["transprune", "visionzip", "cdpruner", "dart"])
def test_a_model_is_brought_to_half_precision_while_it_is_pruned(method):
    model, batch = hosts.build("llava"), hosts.inputs("llava")
    half = batch | {"pixel_values": batch["pixel_values"].bfloat16()}
    with prune(model, method, keep=0.5) as pruner:
        model(**batch)
        logits = model.bfloat16().to("cpu")(**half).logits
        kept = pruner.last.kept
    with prune(model, method, keep=0.5) as pruner:
        assert torch.equal(model(**half).logits, logits)
    assert kept and all(torch.equal(pruner.last.kept[n], where) for n, where in kept.items())


@pytest.mark.parametrize("method", ["transprune", "visionzip", "cdpruner", "divprune", "dart", "sparsevlm"])
def test_autocast(method):
    model, batch = build("llava"), hosts.inputs("llava")
    with prune(model, method, keep=0.5) as pruner, torch.autocast("cpu", torch.bfloat16):
        logits = model(**batch).logits
    assert logits.dtype == torch.bfloat16 and logits.isfinite().all()
    assert list(pruner.last.kept.values())[-1].sum(1).tolist() == [8, 16, 0]


def test_pipelines_of_transformers():
    model, processor = lvlm.load()
    image = Image.new("RGB", (64, 64), "red")
    turn = [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "how many?"}]}]
    asks = pipeline("image-text-to-text", model=model, processor=processor)
    batch = lvlm.encode(processor, [image], ["how many?"])
    with prune(model, "fastv") as pruner:
        ids = model.generate(**batch, max_new_tokens=3, do_sample=False)
        expected = pruner.last
        said = asks(text=turn, max_new_tokens=3, do_sample=False, return_full_text=False)[0]["generated_text"]
        assert pruner.last is not expected
        assert all(torch.equal(pruner.last.kept[n], where) for n, where in expected.kept.items())
    words = processor.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)[0]
    assert said.strip() == words.strip()
