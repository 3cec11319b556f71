"""What visitors may set, what pictures say of it, and what they are told of their prompts."""

import json
import math
from dataclasses import replace

import pytest
from app_inputs import settings
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from demos.app import advice
from demos.app.controls import method_note, settings_of, values_of
from demos.app.settings import of_picture

BAD = {
    "blank prompt": ({"prompt": "  "}, "Prompt"),
    "no prompt": ({"prompt": None}, "Prompt"),
    "long prompt": ({"prompt": "a" * 401}, "Prompt"),
    "long negative": ({"negative": "a" * 401}, "Negative prompt"),
    "no method": ({"methods": ()}, "Choose one"),
    "three methods": ({"methods": ("dynamic", "noise", "static")}, "Choose one"),
    "unknown method": ({"methods": ("magic",)}, "Choose one"),
    "methods as text": ({"methods": "static"}, "Choose one"),
    "seed": ({"seed": -1}, "Seed"),
    "no seed": ({"seed": None}, "Seed"),
    "many pictures": ({"pictures": 5}, "Pictures"),
    "steps": ({"steps": 0}, "Steps"),
    "many steps": ({"steps": 10**6}, "Steps"),
    "half a step": ({"steps": 2.5}, "Steps"),
    "steps as text": ({"steps": "5"}, "Steps"),
    "endless steps": ({"steps": math.inf}, "Steps"),
    "static": ({"static": math.nan}, "Static scale"),
    "negative static": ({"static": -1}, "Static scale"),
    "sampler": ({"sampler": "os.system"}, "Sampler"),
    "width": ({"width": 100}, "multiple of 8"),
    "height": ({"height": 9000}, "Height"),
    "scales": ({"scales": "1, many"}, "Candidate scales"),
    "no scales": ({"scales": ""}, "Candidate scales"),
    "scales repeat": ({"scales": "1, 1.0"}, "Candidate scales"),
    "many scales": ({"scales": ",".join(map(str, range(17)))}, "Candidate scales"),
    "every": ({"every": 0}, "Search every"),
    "a draw": ({"draws": 1}, "Draws of noise"),
    "many draws": ({"draws": 17}, "Draws of noise"),
    "tolerance": ({"tolerance": 2}, "Tolerance"),
    "weight": ({"weights": (("clip", 99), ("discriminator", 1), ("reward", 1))}, "Weight of clip"),
    "no weight": ({"weights": (("clip", 0), ("discriminator", 0), ("reward", 0))}, "Weights"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_used_is_said(host, case):
    changed, named = BAD[case]
    with pytest.raises(ValueError, match=named):
        host.checked(settings(host, **changed))


def test_inputs_and_settings_are_the_same(host):
    one = host.checked(settings(host, negative="a fox", sampler="DDPMScheduler", methods=("budget", "noise")))
    assert host.checked(settings_of(host, values_of(host, one))) == one
    assert host.checked(settings(host, methods=("static",), weights=tuple((n, 0) for n, _ in one.weights)))


def test_a_picture_says_what_made_it(host, tmp_path):
    one = host.checked(settings(host, methods=("noise", "static"), pictures=3, negative="a fox", tolerance=0.4))

    def read(data):
        info = PngInfo()
        info.add_text("guidance", data if isinstance(data, str) else json.dumps(data))
        Image.new("RGB", (4, 4)).save(tmp_path / "picture.png", pnginfo=info)
        return of_picture(tmp_path / "picture.png", host.settings, host.methods)

    told = host.checked(read(one.metadata("noise", 6, "embedded")))
    expected = settings(host, methods=("noise", "static"), seed=6, negative="a fox", tolerance=0.4)
    assert told == host.checked(expected)  # one picture, with its own seed
    # of a static one, which knows no search, the search stays as it is
    told = host.checked(read(one.metadata("static", 6, "embedded")))
    assert (told.static, told.scales) == (3.0, host.settings.scales)

    # what `online-guidance generate` wrote
    told = host.checked(
        read({"prompt": "a fox", "seed": 7, "steps": 9, "guidance": "budget:0.1", "candidates": [2, 4]})
    )
    assert (told.prompt, told.seed, told.steps, told.scales) == ("a fox", 7, 9, (2.0, 4.0))
    assert told.methods == ("budget",)
    assert read({"prompt": "a fox", "seed": 7, "guidance": "cosine"}).methods == host.settings.methods

    for bad, said in (("{", "cannot be read"), ("[]", "cannot be read"), ({"seed": 7}, "no settings")):
        with pytest.raises(ValueError, match=said):
            read(bad)
    odd = (
        {"candidates": 3j.imag, "steps": "x"},
        {"candidates": ["x"]},
        {"candidates": {}},
        {"weights": {"clip": None}},
    )
    for bad in (*odd, {"steps": "many"}, {"guidance_scale": math.nan}, {"prompt": 5}, {"sampler": ["x"]}):
        with pytest.raises(ValueError):
            host.checked(read({"prompt": "a fox", "seed": 7} | bad))
    for odd in ({"methods": 5}, {"weights": 5}, {"weights": {"taste": 1}}, {"guidance": 5}, {"unknown": 5}):
        host.checked(read({"prompt": "a fox", "seed": 7} | odd))
    Image.new("RGB", (4, 4)).save(tmp_path / "bare.png")
    (tmp_path / "text.png").write_text("text")
    for name, said in (("bare.png", "no settings"), ("text.png", "cannot be read")):
        with pytest.raises(ValueError, match=said):
            of_picture(tmp_path / name, host.settings, host.methods)


def test_what_the_chosen_methods_are():
    assert "**Budget**" in method_note(["budget", "unknown"]) and "Static" not in method_note(["budget"])


@pytest.mark.parametrize(
    "prompt, told",
    [
        ("two red circles above a blue square", ""),
        ('a yellow sign saying "CAB"', ""),
        ("", ""),
        ("a fox in the snow", "never saw: fox, snow."),
        ("red circles", "Try an example"),
        ('a red sign saying "SUMMER"', "two or three of the letters"),
        ('a fox with a sign saying "ZOO"', "never saw: fox."),
    ],
)
def test_what_the_embedded_model_does_not_know(prompt, told):
    said = advice.of_world(prompt)
    assert (told in said) if told else said == ""


def test_advice_is_escaped():
    shown = advice.shown("", advice.of_lost("<b>words</b>"))
    assert "&lt;b&gt;words" in shown and "<b>" not in shown
    assert advice.shown("", "") == ""


def test_a_page_begins_with_what_guides_the_embedded_model_best(host):
    """Beside a static scale; the sampler of another model is not changed unasked."""
    assert host.embedded and host.settings.methods == ("halving", "static") and host.settings.every == 1
    assert replace(host, embedded=False).settings.methods == ("dynamic", "static")
