"""The embedded vision-language model: its processor, its batches, and a run of two steps."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from small_lvlm import small
from transformers import AutoProcessor, LlavaForConditionalGeneration

from tinyworld import lvlm
from tinyworld.captions import COLORS, is_held_out
from tinyworld.questions import KINDS, WORDS, ask, quiz
from tinyworld.recipes import lvlm as train_lvlm
from tinyworld.recipes.processor import build_processor
from tinyworld.scenes import make_scene
from training.vae import to_pixels


@pytest.fixture(scope="module")
def processor():
    return build_processor()


def test_words_are_whole_and_signs_are_spelled(tmp_path, processor):
    processor.save_pretrained(tmp_path)
    for tokenizer in (processor.tokenizer, AutoProcessor.from_pretrained(tmp_path).tokenizer):
        tokens = tokenizer.convert_ids_to_tokens(tokenizer('Does  the SIGN say "CAB"?').input_ids)
        assert tokens == ["<s>", "▁does", "▁the", "▁sign", "▁say", "▁", "c", "a", "b", "▁?"]
        for word in WORDS:
            assert len(tokenizer(word, add_special_tokens=False).input_ids) == 1
        assert tokenizer("<image>", add_special_tokens=False).input_ids == [processor.image_token_id]
        assert tokenizer("é%").input_ids == [tokenizer.bos_token_id]  # what is in no question is dropped


def test_the_tokenizer_round_trip(processor):
    tokenizer = processor.tokenizer
    for _, question in quiz(60):
        for text in (question.text, question.answer):
            ids = tokenizer(text).input_ids
            assert tokenizer.decode(ids, skip_special_tokens=True) == text
            assert tokenizer.unk_token_id not in ids


def test_the_processor_sees_what_training_sees(processor):
    scene = make_scene(0)
    batch = lvlm.encode(processor, [Image.fromarray(scene.image)] * 2, ["what?", "how many red circles are there?"])
    assert torch.allclose(batch["pixel_values"][0], to_pixels(scene.image[None])[0], atol=1e-6)
    assert ((batch["input_ids"] == processor.image_token_id).sum(1) == 256).all()
    assert batch["attention_mask"][:, 0].tolist() == [0, 1]  # padded on the left
    wide = lvlm.encode(processor, [Image.new("RGB", (300, 200))], ["what?"])
    assert wide["pixel_values"].shape == (1, 3, 64, 64)


def test_the_shipped_shape(processor):
    with torch.device("meta"):
        model = train_lvlm.build(processor)
    assert sum(p.numel() for p in model.parameters()) < 18e6
    assert len(model.model.language_model.layers) >= 8
    assert model.config.image_seq_length == 256 and model.config.vision_feature_select_strategy == "default"


def test_packed_questions_cost_what_they_cost_alone(processor):
    torch.manual_seed(0)
    model = small(processor).eval()
    rng = np.random.default_rng(0)
    scenes = [make_scene(seed) for seed in (0, 1)]
    asked = [[ask(scene, rng) for _ in range(3 + i)] for i, scene in enumerate(scenes)]
    pixels = to_pixels(np.stack([scene.image for scene in scenes]))

    def losses(scenes, questions, pixels):
        batch = train_lvlm.pack(processor, scenes, questions)
        labels = batch.pop("labels")[:, 1:]
        assert batch.pop("words").shape[:2] == batch["input_ids"].shape
        with torch.no_grad():
            logits = model(**batch, pixel_values=pixels, use_cache=False).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        return [row[told] for row, told in zip(loss.view(labels.shape), labels != -100, strict=True)]

    for row, together in enumerate(losses(scenes, asked, pixels)):
        alone = [losses(scenes[row : row + 1], [[question]], pixels[row : row + 1])[0] for question in asked[row]]
        assert torch.allclose(together, torch.cat(alone), atol=1e-5)


def test_a_packed_question_is_answered_as_it_is_asked(processor):
    """The tokens of training, image and all, are those that the processor makes of a prompt."""
    scene = make_scene(0)
    question = ask(scene, np.random.default_rng(0))
    packed = train_lvlm.pack(processor, [scene], [[question]])
    prompt = lvlm.encode(processor, [Image.fromarray(scene.image)], [question.text])["input_ids"][0].tolist()
    told = packed["labels"][0] != -100
    assert packed["input_ids"][0, ~told].tolist() == prompt
    answer = packed["input_ids"][0, told].tolist()
    assert processor.tokenizer.decode(answer[:-1]) == question.answer
    assert answer[-1] == processor.tokenizer.eos_token_id


def test_the_loss_of_the_answers_is_the_stock_models(processor):
    learner = train_lvlm.Learner(small(processor).eval(), processor)
    batch = train_lvlm.batch_of(processor, 0, 2, 3)
    inputs = {name: batch[name] for name in ("input_ids", "position_ids", "attention_mask", "pixel_values")}
    with torch.no_grad():
        found = learner(**batch)
        logits = learner.model(**inputs, use_cache=False).logits[:, :-1].flatten(0, 1)
    labels = batch["labels"][:, 1:].flatten()
    assert torch.allclose(found["answer"], torch.nn.functional.cross_entropy(logits, labels), atol=1e-5)
    told = labels != train_lvlm.IGNORE
    assert found["accuracy"] == (logits.argmax(-1) == labels)[told].float().mean()


def test_half_of_the_pictures_are_clutter(processor, monkeypatch):
    packed = []
    monkeypatch.setattr(train_lvlm, "pack", lambda processor, scenes, asked: packed.extend(scenes) or {})
    train_lvlm.batch_of(processor, 0, 40, 1)
    assert 10 < sum(len(scene.spec.groups) > 2 for scene in packed) < 30
    assert not any(is_held_out(scene.spec) for scene in packed)


def test_the_vision_encoder_learns_alone_first(processor):
    learner = train_lvlm.Learner(small(processor), processor)
    for questions in (0, 2):
        learner.zero_grad()
        loss, metrics = train_lvlm.loss_of(learner, train_lvlm.batch_of(processor, 0, 2, questions))
        loss.backward()
        taught = {name.split(".")[1] for name, p in learner.model.named_parameters() if p.grad is not None}
        parts = {"vision_tower", "multi_modal_projector", "language_model"}
        assert taught == parts  # of the language model at first only the embeddings
        layers = [p.grad is not None for p in learner.model.model.language_model.layers.parameters()]
        assert all(layers) if questions else not any(layers)
        assert set(metrics) == ({"answer", "words", "vision", "accuracy"} if questions else {"vision"})


def test_nouns_are_asked_half_way_through_the_decoder(processor):
    learner = train_lvlm.Learner(small(processor), processor)
    learner(**train_lvlm.batch_of(processor, 0, 2, 3))["words"].backward()
    taught = [
        any(p.grad is not None for p in layer.parameters()) for layer in learner.model.model.language_model.layers
    ]
    assert taught == [True] * 4 + [False] * 4


def test_pictures_without_colours_teach_none(processor, monkeypatch):
    monkeypatch.setattr(train_lvlm, "GRAY", 1.0)
    batch = train_lvlm.batch_of(processor, 0, 8, 6)
    pixels = batch["pixel_values"]
    assert torch.equal(pixels[:, 0], pixels[:, 1]) and torch.equal(pixels[:, 0], pixels[:, 2])
    for name in ("patches", "words"):
        assert (batch[name][..., 0] <= 0).all() and (batch[name][..., 1] > 0).any()
    assert (batch["caption"][:, : len(COLORS)] == -1).all()
    assert not set(COLORS) & set(processor.tokenizer.decode(batch["input_ids"][:, 257:].flatten()).split())


def test_all_matrices_but_embeddings_are_trained_by_muon(processor):
    learner = train_lvlm.Learner(small(processor), processor)
    named = {id(p): name for name, p in learner.model.named_parameters()}
    by_muon = {named[id(p)] for p in learner.matrices()}
    matrices = {name for name, p in learner.model.named_parameters() if p.dim() == 2}
    assert matrices - by_muon == {name for name in matrices if "embed" in name}


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has Muon from 2.9 on")
def test_three_steps_save_what_the_auto_classes_load(tmp_path, monkeypatch):
    monkeypatch.setattr(train_lvlm, "build", small)
    arguments = ["--steps", "3", "--vision-steps", "1", "--batch-size", "2", "--test-questions", "6"]
    train_lvlm.main(["--out", str(tmp_path / "first"), *arguments])
    report = json.loads((tmp_path / "first" / "report.json").read_text())
    assert set(report["exact_match"]) == set(report["exact_match_in_clutter"]) == {*KINDS, "all"}
    assert report["questions"] == 2 * 2 * train_lvlm.QUESTIONS
    folder = tmp_path / "first" / "lvlm"
    model, processor = (
        LlavaForConditionalGeneration.from_pretrained(folder).eval(),
        AutoProcessor.from_pretrained(folder),
    )
    assert type(processor).__name__ == "LlavaProcessor"

    pairs = quiz(3)
    images, texts = [Image.fromarray(scene.image) for scene, _ in pairs], [question.text for _, question in pairs]
    together = lvlm.answer(model, processor, images, texts)
    assert together == lvlm.answer(model, processor, images, texts, batch_size=1)  # left padding changes nothing

    monkeypatch.setattr(train_lvlm, "build", None)  # what --init names is trained on
    train_lvlm.main(["--out", str(tmp_path / "second"), "--init", str(folder), *arguments, "--lr", "0"])
    assert json.loads((tmp_path / "second" / "report.json").read_text())["init"] == report
    again = LlavaForConditionalGeneration.from_pretrained(tmp_path / "second" / "lvlm")
    state = again.state_dict()
    assert all(torch.allclose(value, state[name]) for name, value in model.state_dict().items())
