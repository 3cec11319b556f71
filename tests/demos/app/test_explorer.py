"""The Explorer's callbacks as plain functions, on a random stand-in for the embedded weights."""

import threading

import gradio as gr
import numpy as np
import pytest

from demos.app.explorer import category_of, explore, prompts_of
from demos.generate import denoise
from tinyworld.captions import is_held_out, parse_caption

SEARCH = ("1, 4, 9", 2, 1, 1.0, 0.25, 1.0)


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
    galleries, figures, lines = zip(*explore(host, threading.Event(), text, [], 1, 3, 3, *SEARCH), strict=True)
    assert [len(gallery) for gallery in galleries] == [0, 4, 5]
    assert "Waiting" in lines[0] and "4 of 5" in lines[1] and "5 of 5" in lines[2]
    gallery, figure = galleries[-1], figures[-1]
    assert [caption for _, caption in gallery] == text.splitlines()
    means = {trace.name: list(trace.y) for trace in figure.data if trace.name}
    assert list(means) == ["binding (3)", "other (1)", "count (1)"]
    scales = [denoise(host.pipe, host.search(*SEARCH), [gallery[i][1]], [3 + i], 3)[1].scales[:, 0] for i in (0, 1, 3)]
    assert means["binding (3)"] == pytest.approx(np.mean(np.stack(scales), axis=0))


BAD = {
    "nothing": ("", [], 1, 0, 3, *SEARCH),
    "unknown category": ("", ["beasts"], 1, 0, 3, *SEARCH),
    "too many": ("a fox\n" * 61, [], 1, 0, 3, *SEARCH),
    "long prompt": ("a" * 500, [], 1, 0, 3, *SEARCH),
    "each": ("", ["text"], 99, 0, 3, *SEARCH),
    "steps": ("a fox", [], 1, 0, 10**9, *SEARCH),
    "scales": ("a fox", [], 1, 0, 3, "x", *SEARCH[1:]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_a_message_before_any_work(host, case):
    with host.lock, pytest.raises(gr.Error):
        next(explore(host, threading.Event(), *BAD[case]))
