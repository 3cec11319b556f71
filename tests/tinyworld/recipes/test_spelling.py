"""The lessons in spelling: where letters are, which tokens they are, and that they can be learned."""

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from tinyworld.captions import LETTERS
from tinyworld.recipes import data, text_to_image
from tinyworld.recipes.spelling import Spelling, SpellingLessons, letter_share, render_signs
from tinyworld.recipes.tokenizer import build_tokenizer
from tinyworld.scenes import letter_boxes, make_scene
from training import latents

CAPTIONS = [
    'a red sign saying "CAB"',
    "a blue circle",
    'an image of a pink sign with the word "XO" on a dark background',
]


def test_letters_lie_in_their_boxes():
    for seed in range(20):
        scene = make_scene(seed, category="text")
        boxes = letter_boxes(scene.spec.text, scene.objects[0])
        assert len(boxes) == len(scene.spec.text)
        grey = scene.image.mean(-1)
        plate = np.median(grey[boxes[0, 0] - 2, boxes[0, 2] : boxes[-1, 3]])  # a row of the plate above the letters
        for top, bottom, left, right in boxes:
            ink = abs(grey[top:bottom, left:right] - plate) > 40
            assert ink[:3].any() and ink[-3:].any() and ink[:, :3].any() and ink[:, -3:].any()  # up to its edges
            assert not (abs(grey[top:bottom, right + 1] - plate) > 60).any()  # and none between letters


def test_letters_among_tokens():
    tokenizer = build_tokenizer()
    ids = tokenizer([*CAPTIONS, 'a red sign saying "ONE"'], padding="max_length", return_tensors="pt").input_ids
    place, letter = Spelling(tokenizer)(ids)
    read = [
        [(int(p), LETTERS[n]) for p, n in zip(ps, ns, strict=True) if p >= 0]
        for ps, ns in zip(place, letter, strict=True)
    ]
    assert read == [[(0, "C"), (1, "A"), (2, "B")], [], [(0, "X"), (1, "O")], []]
    assert ((place < 0) == (letter < 0)).all()


def test_share_of_a_cell():
    boxes = torch.zeros(1, 3, 4, dtype=torch.int64)
    boxes[0, 0] = torch.tensor([8, 24, 4, 16])
    share = letter_share(boxes, 8).view(3, 8, 8)
    assert share[0, 1:3, 1].tolist() == [1, 1] and share[0, 1:3, 0].tolist() == [0.5, 0.5]
    assert share[0].sum() == 3 and share[1:].sum() == 0


def test_lessons_are_learned_and_leave_nothing_behind(weights):
    """Twelve steps on one batch: one head looks at the letter that is drawn, and the tokens say their place."""
    pipe = StableDiffusionPipeline.from_pretrained(weights / "text_to_image", safety_checker=None)
    signs = render_signs(pipe.vae, 4, seed=3)
    ids = pipe.tokenizer([c[0] for c in signs.captions], padding="max_length", return_tensors="pt").input_ids
    place, letter = Spelling(pipe.tokenizer)(ids)
    torch.manual_seed(0)
    model = text_to_image.TextToImage(pipe.text_encoder, pipe.unet)
    noisy, steps = signs.latents.float(), torch.full((4,), 300)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(12):
        _, loss = model(noisy, steps, ids, place, letter, signs.boxes, torch.ones(4))
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.6 * losses[0] and not model.lessons.logits
    stock = StableDiffusionPipeline.from_pretrained(weights / "text_to_image", safety_checker=None)
    kept, plain = pipe.unet, stock.unet
    plain.load_state_dict(kept.state_dict())
    embeds = pipe.text_encoder(ids)[0]
    with torch.no_grad():
        looking = kept(noisy, steps, embeds).sample
        assert torch.allclose(looking, plain(noisy, steps, embeds).sample, atol=1e-4)


def test_a_batch_without_letters_teaches_nothing():
    lessons = SpellingLessons(8)
    nothing = torch.full((2, 5), -100)
    lessons.logits.append(torch.zeros(2, 64, 5))
    loss = lessons(torch.randn(2, 5, 8), nothing, nothing, torch.zeros(2, 3, 4, dtype=torch.int64), torch.ones(2))
    assert loss == 0


def test_recipe(tmp_path, weights):
    data.export(tmp_path / "pictures", 8, 0)
    model = str(weights / "text_to_image")
    latents.main(
        ["--model", model, "--data", str(tmp_path / "pictures"), "--resolution", "64", "--out", str(tmp_path / "c")]
    )
    more = ["--vae", f"{model}/vae", "--cache", str(tmp_path / "c"), "--init", model, "--out", str(tmp_path / "out")]
    text_to_image.main([*more, "--steps", "2", "--batch-size", "5", "--signs", "4"])
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "out" / "pipeline", safety_checker=None)
    before = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    assert pipe.unet.state_dict().keys() == before.unet.state_dict().keys()
    assert not torch.equal(pipe.unet.conv_out.weight, before.unet.conv_out.weight)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["samples"] == 10
    with pytest.raises(SystemExit):
        text_to_image.main([*more, "--steps", "2", "--batch-size", "5", "--sign-share", "1"])
