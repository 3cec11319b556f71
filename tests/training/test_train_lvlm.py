"""The embedded vision-language model: its processor, its batches, and a run of two steps."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from small_lvlm import small
from transformers import AutoProcessor, LlavaForConditionalGeneration

from tinyworld import lvlm
from tinyworld.captions import COLORS, LETTERS, SHAPES
from tinyworld.questions import KINDS, WORDS, ask, quiz
from tinyworld.scenes import make_scene
from training import train_lvlm
from training.data import to_pixels
from training.processor import PATCH, build_processor


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

    def losses(questions, pixels):
        batch = train_lvlm.pack(processor, questions)
        labels = batch.pop("labels")[:, 1:]
        with torch.no_grad():
            logits = model(**batch, pixel_values=pixels, use_cache=False).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        return [row[told] for row, told in zip(loss.view(labels.shape), labels != -100, strict=True)]

    for row, together in enumerate(losses(asked, pixels)):
        alone = [losses([[question]], pixels[row : row + 1])[0] for question in asked[row]]
        assert torch.allclose(together, torch.cat(alone), atol=1e-5)


def test_a_packed_question_is_answered_as_it_is_asked(processor):
    """The tokens of training, image and all, are those that the processor makes of a prompt."""
    scene = make_scene(0)
    question = ask(scene, np.random.default_rng(0))
    packed = train_lvlm.pack(processor, [[question]])
    prompt = lvlm.encode(processor, [Image.fromarray(scene.image)], [question.text])["input_ids"][0].tolist()
    told = packed["labels"][0] != -100
    assert packed["input_ids"][0, ~told].tolist() == prompt
    answer = packed["input_ids"][0, told].tolist()
    assert processor.tokenizer.decode(answer[:-1]) == question.answer
    assert answer[-1] == processor.tokenizer.eos_token_id


def test_the_vision_encoder_learns_alone_first(processor):
    learner = train_lvlm.Learner(small(processor))
    for questions in (0, 2):
        learner.zero_grad()
        loss, metrics = train_lvlm.loss_of(learner, train_lvlm.batch_of(processor, 0, 2, questions=questions))
        loss.backward()
        taught = {"vision_tower" in name for name, p in learner.model.named_parameters() if p.grad is not None}
        assert taught == ({True, False} if questions else {True})
        assert (metrics["answer"] > 0) == bool(questions)


@pytest.mark.parametrize("category", ["two_kind", "text"])
def test_patch_targets_are_what_is_drawn(category):
    for seed in range(20):
        scene = make_scene(seed, category=category)
        shown = train_lvlm.patch_targets(scene).view(16, 16, 4)
        assert shown[..., 3].sum() == len(scene.objects)
        for o in scene.objects:
            color, shape, _, centre = shown[int(o.y) // PATCH, int(o.x) // PATCH].tolist()
            assert color == COLORS.index(o.color) + 1 and centre == 1
            assert shape == (SHAPES.index(o.shape) if o.shape in SHAPES else len(SHAPES)) + 1
        word = scene.spec.text or ""
        assert {LETTERS[i - 1] for i in shown[..., 2].unique().tolist() if i} == set(word)
        if word:  # the ink of each letter is darker or lighter than the plate around it
            for letter, left, top, right, bottom in train_lvlm.letter_boxes(scene):
                assert letter in word and np.ptp(scene.image[top:bottom, left:right].astype(int).mean(2)) > 60


def test_three_steps_save_what_the_auto_classes_load(tmp_path, monkeypatch):
    monkeypatch.setattr(train_lvlm, "build", small)
    arguments = ["--steps", "3", "--vision-steps", "1", "--batch-size", "2", "--test-questions", "6"]
    train_lvlm.main(["--out", str(tmp_path / "first"), *arguments])
    report = json.loads((tmp_path / "first" / "report.json").read_text())
    assert set(report["exact_match"]) == {*KINDS, "all"} and report["questions"] == 2 * 2 * train_lvlm.QUESTIONS
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
    again = LlavaForConditionalGeneration.from_pretrained(tmp_path / "second" / "lvlm")
    state = again.state_dict()
    assert all(torch.allclose(value, state[name]) for name, value in model.state_dict().items())
