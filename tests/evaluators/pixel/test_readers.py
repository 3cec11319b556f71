"""Judges that need no hub: rapidocr's own models on drawn words, and the embedded vision-language model on scenes."""

import contextlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

import tinyworld
from evaluators import Context
from evaluators.pixel.counting import counted_things
from evaluators.pixel.ocr import OCRScore, plain, quoted_texts, similarity
from evaluators.pixel.vqa import VQAScore, one_question
from pipelines import prune
from tinyworld.asking import embedded_judge, questions_about
from tinyworld.captions import CATEGORIES
from tinyworld.judge import wrong_spec
from tinyworld.scenes import make_scene, render


def as_tensor(picture) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


@pytest.mark.parametrize(
    "prompt, texts",
    [
        ('a sign that says "STOP now"', ["STOP now"]),
        ("a cup with the word 'TEA' beside “MILK”", ["TEA", "MILK"]),
        ("a dog's bowl and a cat's", []),
        ("a fox in the snow", []),
    ],
)
def test_what_a_prompt_quotes(prompt, texts):
    assert quoted_texts(prompt) == texts


@pytest.mark.parametrize(
    "prompt, things",
    [
        ("two red circles above a blue square", [(2, "red circles")]),
        ("3 cats and five small dogs on a sofa", [(3, "cats"), (5, "small dogs")]),
        ("a fox in the snow", []),
        ("Twelve eggs", [(12, "eggs")]),
    ],
)
def test_what_a_prompt_counts(prompt, things):
    assert counted_things(prompt) == things


@pytest.fixture(scope="module")
def ocr():
    pytest.importorskip("rapidocr")
    return OCRScore()


def drawn(text, colour, ground, size):
    picture = Image.new("RGB", (256, 128), ground)
    ImageDraw.Draw(picture).text((16, 30), text, colour, ImageFont.load_default(size))
    return as_tensor(picture)


@pytest.mark.parametrize("colour, ground, size", [("black", "white", 40), ("yellow", "navy", 56), ("red", "#ddd", 32)])
def test_drawn_words_are_read(ocr, colour, ground, size):
    pictures = torch.stack([drawn(text, colour, ground, size) for text in ("HOTEL", "HOTEI", "MUSEUM", "")])
    scores = ocr(pictures[None], Context(['a house with "Hotel" on it'], 0.0, 0.1))[0].tolist()
    assert scores[0] == 1.0 and scores[0] > scores[1] > scores[2] and scores[3] == 0.0


def test_ocr_is_silent_where_nothing_is_quoted(ocr):
    pictures = drawn("HOTEL", "black", "white", 40)[None, None].expand(2, 3, -1, -1, -1)
    scores = ocr(pictures, Context(["a house", 'a "HOTEL"'], 0.0, 0.1))
    assert scores[0].tolist() == [0.0] * 3 and scores[1].tolist() == [1.0] * 3


def test_signs_of_the_embedded_world_are_read(ocr):
    scenes = [make_scene(seed, "test", "text") for seed in range(8)]
    pictures = torch.stack([as_tensor(scene.image) for scene in scenes])
    scores = ocr(pictures[:, None], Context([f'"{scene.spec.text}"' for scene in scenes], 0.0, 0.1))
    assert scores.mean() > 0.9


def test_similarity_is_of_letters_and_digits():
    assert plain("Go, 2 the-SHOP!") == "go2theshop"
    assert similarity("stop", "stop") == 1.0 and similarity("stop", "") == 0.0
    assert similarity("stop", "st0p") == pytest.approx(2 * 3 / 8)


@pytest.fixture(scope="module")
def vqa():
    return VQAScore.from_pretrained(tinyworld.WEIGHTS / "lvlm", questions_about)


@pytest.fixture(scope="module")
def scenes():
    """A scene of each category as its caption says, and with one thing wrong: ``(5, 2, 3, 64, 64)``."""
    rng, pictures, captions = np.random.default_rng(0), [], []
    for i, category in enumerate(CATEGORIES):
        scene = make_scene(90_000 + i, "test", category)
        wrong = render(wrong_spec(scene.spec, rng), rng)[0]
        pictures.append(torch.stack([as_tensor(scene.image), as_tensor(wrong)]))
        captions.append(scene.caption)
    return torch.stack(pictures), captions


def test_the_embedded_model_tells_right_from_wrong(vqa, scenes):
    pictures, captions = scenes
    scores = vqa(pictures, Context(captions, 0.0, 0.1))
    assert ((scores >= 0) & (scores <= 1)).all() and (scores[:, 0] > scores[:, 1]).float().mean() >= 0.8
    one = vqa(pictures[:1], Context(captions[:1], 0.0, 0.1))
    torch.testing.assert_close(one, scores[:1], rtol=1e-4, atol=1e-5)
    assert vqa(pictures[:1], Context(["nothing of this world"], 0.0, 0.1)).tolist() == [[0.0, 0.0]]


def test_the_probability_is_that_of_the_answer(vqa, scenes):
    """Against the model asked by hand, one question a time: of a word, and of letters one after another."""
    from tinyworld import lvlm

    pictures, _ = scenes
    picture = (pictures[-1, 0] * 255).round().byte().permute(1, 2, 0).numpy()
    for answer in ("yes", "abc"):
        batch = lvlm.encode(vqa.processor, [Image.fromarray(picture)], ["what does the sign say?"])
        ids = vqa.processor.tokenizer(answer, add_special_tokens=False).input_ids
        chance = 1.0
        with torch.no_grad():
            for token in ids:
                chance *= float(vqa.model(**batch).logits[0, -1].softmax(-1)[token])
                batch["input_ids"] = torch.cat([batch["input_ids"], torch.tensor([[token]])], 1)
                batch["attention_mask"] = torch.ones_like(batch["input_ids"])
            found = vqa.probability([picture], ["what does the sign say?"], [answer])
        assert float(found) == pytest.approx(chance, rel=1e-3)


def test_an_answer_of_one_token_does_not_depend_on_those_beside_it(vqa, scenes, monkeypatch):
    """One that has several spellings, beside an answer of several tokens."""
    picture = (scenes[0][0, 0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    plain = VQAScore.spellings
    ids = [plain(vqa, word)[0] for word in ("yes", "no")]
    monkeypatch.setattr(VQAScore, "spellings", lambda self, a: ids if a == "yes" else plain(self, a))
    asked = ["is there a red circle?", "what does the sign say?"]
    with torch.no_grad():
        alone = vqa.probability([picture], asked[:1], ["yes"])
        beside = vqa.probability([picture] * 2, asked, ["yes", "cab"])
    assert torch.allclose(alone, beside[:1], atol=1e-5) and float(alone) > 0.9


def test_types_of_tokens_are_as_long_as_the_tokens(vqa, scenes, monkeypatch):
    """Of a model that takes them (Gemma 3, PaliGemma): those of the answer's letters are those of text."""
    picture, seen = (scenes[0][0, 0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8), []
    encoded, asked = vqa.encoded, (["what does the sign say?"], ["cab"])
    plain = vqa.probability([picture], *asked)

    def with_types(pictures, texts):
        batch = encoded(pictures, texts)
        return batch | {"token_type_ids": (batch["input_ids"] == vqa.processor.image_token_id).long()}

    def forward(input_ids, token_type_ids, **kwargs):
        seen.append((input_ids.shape, token_type_ids.shape, token_type_ids[:, -2:].tolist()))
        return stock(input_ids=input_ids, **kwargs)

    stock = vqa.model.forward
    monkeypatch.setattr(vqa, "encoded", with_types)
    monkeypatch.setattr(vqa.model, "forward", forward)
    with torch.no_grad():
        assert torch.equal(vqa.probability([picture], *asked), plain)
    ((ids, types, last),) = seen
    assert ids == types and last == [[0, 0]]


def test_a_pruned_judge_nearly_agrees(vqa, scenes):
    pictures, captions = scenes
    whole = vqa(pictures, Context(captions, 0.0, 0.1))
    with prune(vqa.model, "visionzip", keep=1 / 3) as pruner:
        pruned = vqa(pictures, Context(captions, 0.0, 0.1))
        assert pruner.last.kept
    assert (pruned - whole).abs().mean() < 0.1 and not torch.equal(pruned, whole)


def test_the_published_question():
    assert one_question("a fox") == [('Does this figure show "a fox"? Please answer Yes or No.', "Yes")]


def test_questions_about_captions():
    assert questions_about("two red circles above a blue square") == [
        ("how many red circles are there?", "two"),
        ("how many blue squares are there?", "one"),
        ("how many objects are there?", "three"),
        ("are the red circles above the blue square?", "yes"),
    ]
    assert questions_about("a fox in the snow") == []


def test_a_processor_without_a_chat_template_is_refused(vqa):
    with pytest.raises(ValueError, match="`processor` must have a chat template"):
        VQAScore(vqa.model, object())
    with pytest.raises(ValueError, match="`ocr` takes no folder"):
        OCRScore.from_pretrained("somewhere")


def test_the_embedded_judge_sees_a_third_of_its_tokens():
    lengths = []
    judge = embedded_judge()
    layers = judge.model.model.language_model.layers
    layers[-1].register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    with torch.no_grad():
        judge.judge(torch.rand(2, 3, 64, 64), ['a red sign saying "AB"', "two red circles"])
    assert 256 / 3 < lengths[0] < 256 / 2
    assert all(length < 32 or 256 / 3 < length < 256 / 2 for length in lengths), "questions alone, or a third"


@pytest.mark.parametrize("keep", [None, 1 / 3])
def test_a_picture_that_is_read_once_gets_the_same_answers(vqa, scenes, keep):
    pictures, captions = scenes
    once = VQAScore(vqa.model, vqa.processor, questions_about, read_once=True)
    seen = []
    handle = vqa.model.model.vision_tower.register_forward_hook(lambda _, args, output: seen.append(len(output[0])))
    with contextlib.nullcontext() if keep is None else prune(vqa.model, "visionzip", keep=keep):
        apart = vqa(pictures, Context(captions, 0.0, 0.1))
        asked, seen[:] = sum(seen), []
        once(pictures, Context(captions, 0.0, 0.1))  # which are asked both ways
        seen.clear()
        together = once(pictures, Context(captions, 0.0, 0.1))
    handle.remove()
    assert torch.allclose(together, apart, atol=1e-4)
    assert sum(seen) == pictures.shape[0] * pictures.shape[1] < asked


def test_a_picture_cannot_be_read_once_by_what_reads_the_question_first(vqa, scenes):
    pictures, captions = scenes
    once = VQAScore(vqa.model, vqa.processor, questions_about, read_once=True)
    with prune(vqa.model, "fastv", keep=8), pytest.raises(ValueError, match="`read_once` changes what the model answ"):
        once(pictures, Context(captions, 0.0, 0.1))
    once = VQAScore(vqa.model, vqa.processor, questions_about, read_once=True)
    once(pictures, Context(captions, 0.0, 0.1))  # whole, it can
    with prune(vqa.model, "fastv", keep=8), pytest.raises(ValueError, match="`read_once` changes what the model answ"):
        once(pictures, Context(captions, 0.0, 0.1))
    template = vqa.processor.chat_template
    try:
        vqa.processor.chat_template = "{{ messages[0]['content'][1]['text'] }}<image>"
        with pytest.raises(ValueError, match="with the picture before the question"):
            VQAScore(vqa.model, vqa.processor, read_once=True)
    finally:
        vqa.processor.chat_template = template
