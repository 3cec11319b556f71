"""The embedded vision-language model, as shipped."""

import numpy as np
import pytest
import torch
from PIL import Image

from demos import ask
from pipelines.prune.pruner import prune
from tinyworld import lvlm
from tinyworld.questions import quiz
from tinyworld.scenes import make_scene


@pytest.fixture(scope="module")
def embedded():
    return lvlm.load()


def right(model, processor, n=90, clutter=False):
    pairs = quiz(n, seed=3, clutter=clutter)
    images, texts = [Image.fromarray(scene.image) for scene, _ in pairs], [question.text for _, question in pairs]
    given = lvlm.answer(model, processor, images, texts)
    return np.array([text == question.answer for text, (_, question) in zip(given, pairs, strict=True)])


def test_it_answers_questions_about_combinations_it_never_saw(embedded):
    model, processor = embedded
    assert model.dtype == torch.float32 and not model.training
    whole = right(model, processor)
    assert whole.mean() >= 0.9
    with prune(model, "visionzip", keep=0.33):
        assert right(model, processor).mean() >= 0.9 * whole.mean()
    with prune(model, "random", keep=2):
        assert right(model, processor).mean() < 0.7, "answers come from the picture"


def test_clutter_tells_a_good_choice_of_tokens_from_a_random_one(embedded):
    model, processor = embedded
    whole = right(model, processor, clutter=True).mean()
    assert whole >= 0.75
    kept = {}
    for method in ("vidcom2", "visionzip", "random"):
        with prune(model, method, keep=0.33):
            kept[method] = right(model, processor, clutter=True).mean() / whole
    assert kept["vidcom2"] > 0.93 and kept["visionzip"] > 0.9 > kept["random"] + 0.05


def test_the_command_line_asks_it(tmp_path, capsys):
    scene = make_scene(7)  # three purple squares above a yellow triangle
    Image.fromarray(scene.image).save(tmp_path / "picture.png")
    ask.main([str(tmp_path / "picture.png"), "what color is the triangle"])
    assert capsys.readouterr().out == "yellow\n"
    shown = tmp_path / "kept.png"
    arguments = ["how many purple squares are there?", "--prune", "transprune", "--show", str(shown)]
    ask.main([str(tmp_path / "picture.png"), *arguments])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == ["three", "visual tokens: 256", "after layer 2: 160", "after layer 3: 32"]
    assert 0.3 < float(lines[4].split()[-1]) < 0.7 and Image.open(shown).width > 3 * 256
