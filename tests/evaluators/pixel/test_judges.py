"""Each judge, from the files in which it is published, against the published formula on the same weights."""

import open_clip
import pytest
import references
import torch
import torch.nn.functional as F
from small_judges import JUDGES, SIDE, named
from transformers import CLIPModel, CLIPProcessor

from evaluators.base import Context, score
from evaluators.pixel.checkpoint import read

PROMPTS = ["two red circles", "a blue star"]
every = pytest.mark.parametrize("name", list(JUDGES))


def judged(evaluator, pictures, prompts=PROMPTS):
    return score(evaluator, pictures, Context(prompts, 500.0, 0.5))


def clip_of(name, folder):
    """open_clip's own model and tokenizer, and how pictures reach it."""
    if name.startswith("hps"):
        with named("ViT-H-14"):
            model, tokenizer = open_clip.create_model("ViT-H-14"), open_clip.get_tokenizer("ViT-H-14")
        model.load_state_dict(torch.load(next(folder.glob("HPS*")))["state_dict"])
        return model, tokenizer, lambda x: references.standardised(references.longest(x, SIDE))
    model, tokenizer = (f(f"local-dir:{folder}") for f in (open_clip.create_model, open_clip.get_tokenizer))
    if name == "siglip":
        half = (0.5, 0.5, 0.5)
        return model, tokenizer, lambda x: references.standardised(references.squashed(x, SIDE), half, half)
    return model, tokenizer, lambda x: references.standardised(references.shortest(x, SIDE))


@torch.no_grad()
def published_score(name, folder, picture, prompt):
    """Of one picture ``(3, H, W)``."""
    if name == "pickscore":
        model, processor = CLIPModel.from_pretrained(folder).eval(), CLIPProcessor.from_pretrained(folder)
        pixels = references.standardised(references.shortest(picture, SIDE))[None]
        text = processor.tokenizer([prompt], padding=True, truncation=True, max_length=77, return_tensors="pt")
        seen, told = model.get_image_features(pixels).pooler_output, model.get_text_features(**text).pooler_output
        return model.logit_scale.exp() * F.cosine_similarity(seen, told)[0]
    if name == "image_reward":
        pixels = references.standardised(references.shortest(picture, 32))
        return references.image_reward(pixels, *references.word_pieces(prompt, folder / "vocab.txt", 35), folder)
    model, tokenizer, prepare = clip_of(name, folder)
    seen = model.eval().encode_image(prepare(picture)[None])
    if name.startswith("aesthetic"):
        return references.head(seen, folder / JUDGES[name].FILES[0])[0]
    cosine = F.cosine_similarity(seen, model.encode_text(tokenizer([prompt])))[0]
    return cosine if name.startswith("hps") else model.logit_scale.exp() * cosine


@every
@pytest.mark.parametrize("height, width", [(32, 32), (48, 40), (41, 70)])
def test_the_score_is_the_published_one(load, published, pictures, name, height, width):
    shown = pictures(2, height, width)
    found = judged(load(name), shown[:, None])
    wanted = [published_score(name, published[name], x, text) for x, text in zip(shown, PROMPTS, strict=True)]
    torch.testing.assert_close(found[:, 0], torch.stack(wanted), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", ["open_clip", "siglip"])
def test_open_clip_itself_scores_the_same(load, published, pictures, name):
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{published[name]}")
    shown = pictures(2, SIDE, SIDE)  # of the model's size: nothing is rounded to 8 bits on the way
    batch = torch.stack([transform(references.eight_bits(x)) for x in shown])
    tokens = open_clip.get_tokenizer(f"local-dir:{published[name]}")(PROMPTS)
    with torch.no_grad():
        seen, told, scale = model(batch, tokens)[:3]
        wanted = scale * (seen * told).sum(-1)
    torch.testing.assert_close(judged(load(name), shown[:, None])[:, 0], wanted, atol=1e-4, rtol=1e-5)


def test_the_clip_processor_of_transformers_gives_the_same(load, published, pictures):
    model, processor = (c.from_pretrained(published["pickscore"]) for c in (CLIPModel, CLIPProcessor))
    shown = pictures(2, SIDE, SIDE)
    batch = processor(text=PROMPTS, images=[references.eight_bits(x) for x in shown], padding=True, return_tensors="pt")
    with torch.no_grad():
        wanted = model.eval()(**batch).logits_per_image.diagonal()
    torch.testing.assert_close(judged(load("pickscore"), shown[:, None])[:, 0], wanted, atol=1e-4, rtol=1e-5)


@every
def test_a_picture_is_judged_alone_as_among_others(load, pictures, name):
    judge, shown = load(name), pictures(6, 40, 36).unflatten(0, (2, 3))
    together = judged(judge, shown)
    assert together.shape == (2, 3) and together.dtype == torch.float32 and len(together.unique()) == 6
    for row in range(2):
        for at in range(3):
            alone = judged(judge, shown[row : row + 1, at : at + 1], PROMPTS[row : row + 1])
            torch.testing.assert_close(alone[0, 0], together[row, at], atol=1e-4, rtol=1e-4)
    judge.chunk = 4
    torch.testing.assert_close(judged(judge, shown.clone()), together, atol=1e-4, rtol=1e-4)
    moves = not torch.allclose(judged(judge, shown, PROMPTS[::-1]), together, atol=1e-3)
    assert moves == judge.needs_prompt == (not name.startswith("aesthetic"))


@every
def test_half_precision(load, pictures, name):
    judge, shown = load(name), pictures(4, 40, 36).unflatten(0, (2, 2))
    expected = judged(judge, shown)
    found = judged(judge.to(torch.bfloat16), shown.clone())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.05 + 0.02 * expected.abs().max().item())


@every
def test_it_can_be_climbed(load, pictures, name):
    shown = pictures(2, 40, 36).requires_grad_()
    judge = load(name)
    before = judge.judge(shown, PROMPTS)
    before.sum().backward()
    assert shown.grad.isfinite().all() and (shown.grad.flatten(1).norm(dim=1) > 0).all()
    better = judge.judge((shown + 0.01 * F.normalize(shown.grad.flatten(1)).view_as(shown)).detach(), PROMPTS)
    assert (better > before).all()


@pytest.mark.parametrize("name", [name for name, judge in JUDGES.items() if judge.needs_prompt])
def test_prompts_are_read_once(load, pictures, name):
    judge, asked = load(name), []
    holder = getattr(judge, "processor", getattr(judge, "tower", judge))
    original = holder.tokenizer

    def read(texts, **kwargs):
        asked.extend(texts)
        return original(texts, **kwargs)

    holder.tokenizer = read
    for step in range(3):
        judged(judge, pictures(6, 32, 32 + step).unflatten(0, (2, 3)))
    assert sorted(asked) == sorted(PROMPTS)


def test_the_weights_are_those_of_the_files(published, load):
    state = read(published["open_clip"] / "open_clip_model.safetensors")
    loaded = load("open_clip").tower.model.state_dict()
    assert state.keys() == loaded.keys() and all(torch.equal(state[key], loaded[key]) for key in state)
