"""The Ask tab's callbacks as plain functions, on a very small random model."""

import re
import zlib
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
import torch
from app_inputs import is_kept
from PIL import Image
from small_lvlm import lvlm_weights

from demos import ask
from demos.app import ask_page
from demos.app.ask_page import EXAMPLES, Asking, Reader, example, open_upload, scene
from demos.app.live import Stop
from demos.app.visits import Visits
from tinyworld import lvlm
from tinyworld.scenes import make_scene

__all__ = ["lvlm_weights"]


@pytest.fixture(scope="module")
def reader(lvlm_weights):
    return Reader(*lvlm.load(lvlm_weights / "lvlm"), lvlm.MAX_NEW_TOKENS)


def answer(reader, *inputs):
    """What a visitor who is here for the first time is told."""
    does = Asking(reader, Visits())
    return does.answer(Stop(), does.visits.enter(None), *inputs)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(scene(0)).save(path)
    return path


def test_both_answers_cost_and_pictures(reader, picture):
    *_, (line, shown) = answer(reader, picture, "how many red circles", "transprune", "")
    assert "Answered" in line
    tiles = dict(re.findall(r"<small>([^<]+)</small><b>([^<]+)</b>", shown))
    question = "how many red circles?"
    (whole,) = lvlm.answer(reader.model, reader.processor, [Image.open(picture)], [question])
    assert tiles["Answer of the whole model"] == whole
    assert 0 < float(tiles["Prefill FLOPs, pruned / whole"]) < 1
    assert tiles["Visual tokens left"] == "32 of 256"
    assert re.findall(r"(\d+) of 256 tokens", shown) == ["256", "160", "32"]


def test_keep_is_as_on_the_command_line(reader, picture):
    *_, (_, shown) = answer(reader, picture, "what?", "random", "2:50%,4:16")
    assert re.findall(r"(\d+) of 256 tokens", shown) == ["256", "128", "16"]


def test_answers_are_escaped(reader, picture, monkeypatch):
    monkeypatch.setattr(lvlm, "answer", lambda *args, **kwargs: ["<script>alert(1)</script>"])
    *_, (_, shown) = answer(reader, picture, "what?", "random", "")
    assert "<script" not in shown and "&lt;script&gt;" in shown


BAD = {
    "no picture": (None, "what?", "random", "", "Picture must be given"),
    "blank": ("{png}", "  ", "random", "", "Question"),
    "no question": ("{png}", None, "random", "", "Question"),
    "long": ("{png}", "a" * 401, "random", "", "Question"),
    "method": ("{png}", "what?", "axe", "", "Method"),
    "method of encoders": ("{png}", "what?", "zero-tprune", "", "Method"),
    "keep": ("{png}", "what?", "random", "many", "share"),
    "layer outside": ("{png}", "what?", "random", "99:0.5", "keep"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_a_message(reader, picture, case):
    path, *inputs, named = BAD[case]
    with pytest.raises(gr.Error, match=named):
        list(answer(reader, path and picture, *inputs))


def test_what_was_asked_comes_back(reader, picture, tmp_path):
    does, inputs = Asking(reader, Visits()), ["what?", "random", "0.5"]
    secret = does.visits.enter(None)
    for values in (None, [], inputs[:2], [None, "random", ""], ["what?", "axe", ""]):
        assert len(does.come(secret, values)) == 5 and all(map(is_kept, does.come(secret, values))), values
    *_, (_, shown) = does.answer(Stop(), secret, picture, *inputs)
    does.look(secret, picture)
    image, *rest = does.come(secret, ["and now?", *inputs[1:]])  # that was typed since
    assert (np.asarray(image) == scene(0)).all() and rest == ["and now?", *inputs[1:], shown]
    (tmp_path / "text.png").write_text("text")
    for path in (None, tmp_path / "text.png"):
        does.look(secret, picture)
        does.look(secret, path)  # taken away
        assert does.come(secret, inputs)[0] is None


def test_pictures_reach_the_browser_as_they_are(reader, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    with gr.Blocks() as page:
        ask_page.tab(reader, Visits(), gr.BrowserState(), page.load(lambda: None))
    (part,) = [block for block in page.blocks.values() if block.elem_id == "picture"]
    for given in (scene(0), Image.fromarray(scene(0))):
        assert (np.asarray(Image.open(part.postprocess(given).path)) == scene(0)).all()


def test_examples_have_their_answer_in_the_picture():
    for number, (seed, question) in enumerate(EXAMPLES):
        image, asked = example(number)
        assert asked == question and (image == scene(seed)).all()
        said = make_scene(seed).caption
        subject = re.search(r"(purple square|cyan circle|circle|sign)", question)[1]
        assert subject in said


def test_uploads(tmp_path):
    def upload(name, content):
        (tmp_path / name).write_bytes(content)
        return open_upload(tmp_path / name)

    exif = Image.Exif()
    exif[274] = 6  # turned by a quarter
    Image.new("RGB", (6, 4), "red").save(tmp_path / "turned.jpg", exif=exif)
    assert open_upload(tmp_path / "turned.jpg").size == (4, 6)
    Image.new("LA", (3, 5)).save(tmp_path / "grey.png")
    assert (open_upload(tmp_path / "grey.png").mode, open_upload(tmp_path / "grey.png").size) == ("RGB", (3, 5))
    good = (tmp_path / "grey.png").read_bytes()
    for name, content in {
        "text.png": b"text",
        "empty.png": b"",
        "cut.png": good[:-20],
        "drawing.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "page.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }.items():
        with pytest.raises(ValueError, match="cannot be read"):
            upload(name, content)


def test_a_decompression_bomb_is_not_decoded(tmp_path, monkeypatch):
    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    side = (5000).to_bytes(4, "big")
    header = chunk(b"IHDR", side + side + bytes([8, 2, 0, 0, 0]))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    monkeypatch.setattr(Image.Image, "convert", lambda *args: pytest.fail("decoded"))
    with pytest.raises(ValueError, match="at most 16 million pixels"):
        open_upload(tmp_path / "bomb.png")


def test_scenes():
    assert scene(3).shape == (64, 64, 3)
    assert (scene(3) == scene(3)).all()


# Where visual tokens lie, by the layouts of the hosts' own processors: kind, batch, tokens, then which of the tokens
# are drawn and on what grid. Pictures are random, but for the one that is to be drawn, which is brightest on the left.
LEFT = torch.linspace(1, 0, 16).expand(3, 16, 16)
TILE = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
VISION = SimpleNamespace(image_size=16, patch_size=4, spatial_merge_size=2)
VIEWS = {
    "llava": ({"pixel_values": LEFT[None]}, 16, slice(0, 16), (4, 4)),
    "llava_next": ({"pixel_values": torch.stack([LEFT, TILE, TILE])[None]}, 16 + 36, slice(0, 16), (4, 4)),
    "qwen2_vl": ({"image_grid_thw": torch.tensor([[1, 4, 6]])}, 6, slice(0, 6), (2, 3)),
    "smolvlm": ({"pixel_values": torch.stack([TILE, TILE, LEFT])[None]}, 12, slice(8, 12), (2, 2)),
}


@pytest.mark.parametrize("kind", VIEWS)
def test_view(kind):
    batch, tokens, where, grid = VIEWS[kind]
    config = SimpleNamespace(model_type=kind, vision_config=VISION, scale_factor=2 if kind == "smolvlm" else 1)
    own = Image.fromarray((LEFT * 255).byte().permute(1, 2, 0).numpy())
    picture, part, rows, columns = ask.view(config, batch, own, tokens)
    assert (part, (rows, columns)) == (where, grid)
    grey = np.asarray(picture.convert("L")).astype(int)
    assert grey[:, 0].min() > 250 > 5 > grey[:, -1].max()


def test_stages_darken_what_is_dropped():
    visual = torch.zeros(1, 20, dtype=torch.bool)
    visual[:, 2:18] = True
    kept = visual.clone()
    kept[0, 2] = False  # the first token: top left
    trace = SimpleNamespace(visual=visual, kept={3: kept})
    config = SimpleNamespace(model_type="llava", vision_config=VISION)
    pixels = torch.ones(1, 3, 16, 16)
    pixels[..., -1, -1] = 0
    (_, whole, before), (name, left, after) = ask.stages(config, {"pixel_values": pixels}, None, trace)
    assert (whole, left, name) == (16, 15, "after layer 3")
    changed = np.asarray(before).astype(int) - np.asarray(after)
    quarter = ask.PANEL // 4
    assert changed[:quarter, :quarter].min() > 200
    changed[:quarter, :quarter] = 0
    assert not changed.any()


def test_tokens_that_are_no_square():
    config = SimpleNamespace(model_type="llava", vision_config=VISION)
    with pytest.raises(ValueError, match="no square"):
        ask.view(config, {"pixel_values": LEFT[None]}, None, 15)
