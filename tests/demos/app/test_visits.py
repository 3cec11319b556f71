"""What visitors have made: theirs alone, for a while, within bounds; and how it is shown."""

import json
import re
from pathlib import Path
from urllib.parse import unquote

import pytest
import torch
from PIL import Image

from demos.app import visits as module
from demos.app.looks import Card, cards
from demos.app.visits import Visits
from guidance import GuidanceTrace


@pytest.fixture
def visits(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    return Visits()


def picture(side=8, seed=1):
    trace = GuidanceTrace((2.0,), ["a fox"], [{"timestep": 1, "noise_level": 0.5, "scale": torch.tensor([2.0])}])
    return Image.new("RGB", (side, side), "red"), trace, {"prompt": "a <fox>", "seed": seed}, "dynamic"


def path(address):
    return Path(unquote(address.removeprefix("gradio_api/file=")))


def test_what_is_made_is_its_visitors_alone(visits):
    ann, bob = visits.enter(None), visits.enter("guessed")
    assert bob != "guessed" and visits.enter(ann) == ann
    kept = visits.add(ann, "here", "it", 0, 3)
    assert visits.find(ann, "here", kept.id) is kept
    for secret in (bob, None, 5, ["x"], "x" * 22):
        assert visits.find(secret, "here", kept.id) is None and visits.made(secret, "here") == []
    with pytest.raises(ValueError, match="load it again"):
        visits.add({"not": "hashable"}, "here", "it", 0, 3)


def test_files_of_a_picture(visits):
    (file,) = visits.add(visits.enter(None), "here", "it", 0, 3, [picture()]).files
    image = Image.open(path(file.picture))
    assert json.loads(image.info["guidance"]) == {"prompt": "a <fox>", "seed": 1, "schedule": [2.0]}
    assert GuidanceTrace.from_json(path(file.trace)).prompt == ["a fox"]
    assert (file.thumb, file.name) == (file.picture, "a-fox_seed1_dynamic")
    (large,) = visits.add(visits.enter(None), "here", "it", 0, 3, [picture(side=400)]).files
    assert Image.open(path(large.thumb)).size == (320, 320) and Image.open(path(large.picture)).size == (400, 400)
    assert not re.search(r"[<>\"' ]", file.picture)


def test_the_oldest_goes(visits, monkeypatch):
    ann = visits.enter(None)
    kept = [visits.add(ann, "here", n, 10, 2, [picture()]) for n in range(3)]
    assert [one.what for one in visits.made(ann, "here")] == [1, 2]
    assert not kept[0].folder.exists() and kept[1].folder.exists()
    monkeypatch.setattr(module, "MAX_BYTES", 25)
    bob = visits.enter(None)
    visits.add(bob, "here", 3, 10, 2)
    assert [one.what for one in visits.made(ann, "here")] == [2]  # who came first has what was made longest ago
    assert not kept[1].folder.exists()


def test_who_is_long_gone_is_forgotten(visits, monkeypatch):
    clock = [1e6]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    ann = visits.enter(None)
    kept = visits.add(ann, "here", "it", 0, 2, [picture()])
    clock[0] += module.KEEP / 2
    assert visits.enter(ann) == ann
    clock[0] += module.KEEP + 1
    assert visits.enter(ann) != ann and not kept.folder.exists()
    monkeypatch.setattr(module, "MAX_VISITS", 3)
    for _ in range(5):
        clock[0] += 1
        visits.enter(None)
    assert len(visits.visits) <= 4  # the one who comes besides


def test_cards_are_escaped_and_say_what_they_show():
    html = cards([Card(Image.new("RGB", (4, 4)), "<i>a</i>", ("<b>",), "best", 'alt"'), Card(None, "b", address="x&y")])
    assert re.findall(r'alt="([^"]*)"', html) == ["alt&quot;", "b"]
    assert "<i>" not in html and "<b><" not in html.replace("<b>&lt;i", "") and 'src="x&amp;y"' in html
