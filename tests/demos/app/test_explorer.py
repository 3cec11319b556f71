"""The Explorer's callbacks as plain functions, on a random stand-in for the embedded weights."""

import re
from urllib.parse import unquote

import gradio as gr
import numpy as np
import pytest
from app_inputs import is_kept, settings

from demos.app.explorer import Explorer, category_of, prompts_of
from demos.app.live import Stop
from demos.app.methods import guidance_of
from demos.app.settings import of_picture
from demos.denoising import denoise
from tinyworld.captions import is_held_out, parse_caption

SEARCH = ("dynamic", "1, 4, 9", 2, 2, 0.2, 1.0, 0.25, 1.0)  # method, scales, every, draws, tolerance, weights


def test_captions_of_categories():
    pairs = prompts_of("", ["text", "binding"], 3, 7)
    assert [category for category, _ in pairs] == ["binding"] * 3 + ["text"] * 3
    for category, line in pairs:
        spec = parse_caption(line)
        assert spec.category == category and is_held_out(spec)
    assert pairs == prompts_of(None, ["binding", "text"], 3, 7)
    assert pairs != prompts_of(None, ["binding", "text"], 3, 8)


def test_own_prompts():
    pairs = prompts_of("a fox\n\n  two red circles \n", ["text"], 3, 7)
    assert pairs == [("other", "a fox"), ("count", "two red circles")]
    assert category_of('a red sign saying "CAB"') == "text"


def test_pictures_and_means_come_batch_by_batch(host):
    text = "\n".join(["a red circle", "a blue star", "a fox", "a green heart", "two blue squares"])
    does, secret = Explorer(host), host.visits.enter(None)
    updates = does.explore(Stop(), secret, text, [], 1, 3, 3, *SEARCH)
    galleries, figures, lines = zip(*updates, strict=True)
    assert [gallery.count("<figure") for gallery in galleries] == [0, 4, 5]
    assert "Starting" in lines[0] and "4 of 5" in lines[1] and "5 of 5" in lines[2]
    gallery, figure = galleries[-1], figures[-1]
    said = list(zip(text.splitlines(), "34567", strict=True))
    assert re.findall(r"<b>([^<]+)</b><small>seed (\d)</small>", gallery) == said
    assert re.findall(r'alt="([^"]+)"', gallery) == text.splitlines()
    means = {trace.name: list(trace.y) for trace in figure.data if trace.name}
    assert list(means) == ["one object (3)", "other (1)", "count (1)"]
    guidance = guidance_of("dynamic", settings(host), host.default.evaluators)
    scales = [denoise(host.pipe, guidance, [said[i][0]], [3 + i], 3).trace.scales[:, 0] for i in (0, 1, 3)]
    assert means["one object (3)"] == pytest.approx(np.mean(np.stack(scales), axis=0))
    *_, again, plot, line = does.come(secret, None)
    assert again == gallery and "5 pictures" in line and len(plot.data) == len(figure.data)
    assert all(map(is_kept, does.come(host.visits.enter(None), None)))
    picture = unquote(re.search(r'data-large="gradio_api/file=([^"]+)"', gallery)[1])
    assert host.checked(of_picture(picture, host.settings, host.methods)).seed == 3


LEFT = ["a fox", ["count"], 3, 7, 9, *SEARCH]
OTHERS = {
    "nothing": None,
    "another page": LEFT[:-1],
    "blank scales": [*LEFT[:6], " ", *LEFT[7:]],
    "a method that is not here": [*LEFT[:5], "best", *LEFT[6:]],
    "categories": ["a fox", ["beasts"], *LEFT[2:]],
    "no text": [5, *LEFT[1:]],
    "seed": [*LEFT[:3], None, *LEFT[4:]],
}


def test_inputs_come_back_as_they_were_left(host):
    does, secret = Explorer(host), host.visits.enter(None)
    assert list(does.come(secret, LEFT)[:-3]) == LEFT
    assert list(does.come(secret, ["", [], *LEFT[2:]])[:-3]) == ["", [], *LEFT[2:]]  # half way
    for case, values in OTHERS.items():
        found = does.come(secret, values)
        assert len(found) == len(LEFT) + 3 and all(map(is_kept, found)), case


def test_draws_of_noise(host):
    updates = Explorer(host).explore(Stop(), host.visits.enter(None), "a fox", [], 1, 0, 2, "noise", *SEARCH[1:])
    assert "1 of 1" in list(updates)[-1][2]


BAD = {
    "nothing": ("", [], 1, 0, 3, *SEARCH),
    "unknown category": ("", ["beasts"], 1, 0, 3, *SEARCH),
    "too many": ("a fox\n" * 61, [], 1, 0, 3, *SEARCH),
    "long prompt": ("a" * 500, [], 1, 0, 3, *SEARCH),
    "each": ("", ["text"], 99, 0, 3, *SEARCH),
    "steps": ("a fox", [], 1, 0, 10**9, *SEARCH),
    "scales": ("a fox", [], 1, 0, 3, "dynamic", "x", *SEARCH[2:]),
    "method": ("a fox", [], 1, 0, 3, "magic", *SEARCH[1:]),
    "best of two": ("a fox", [], 1, 0, 3, "best", *SEARCH[1:]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_a_message_before_any_work(host, case):
    with host.turns.turn(), pytest.raises(gr.Error):
        next(Explorer(host).explore(Stop(), host.visits.enter(None), *BAD[case]))
