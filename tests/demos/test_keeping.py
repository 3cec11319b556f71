"""``generate --best-of`` and halving, run in process on a random stand-in for the embedded weights."""

import argparse
import json

import numpy as np
import pytest
from PIL import Image

from demos.denoising import APART
from demos.generate import METADATA_KEY, main, parse
from demos.searches import searching
from evaluators.pixel.base import PixelEvaluator
from guidance import GreedySearch, GuidanceTrace, Static
from tinyworld.pipeline import SCALE, SCALES

PROMPT = "two red circles above a blue square"


def pictures(folder):
    return sorted(p for p in folder.glob("*.png") if not p.stem.endswith("_schedule"))


def test_evaluators_keep_one_of_several(embedded, tmp_path):
    """Which is what its seed alone makes."""

    def made(name: str, *more: str, steps: int = 4) -> tuple[np.ndarray, dict]:
        main([PROMPT, "--steps", str(steps), *more, "--out", str(tmp_path / name)])
        (picture,) = pictures(tmp_path / name)
        trace = GuidanceTrace.from_json(picture.with_name(f"{picture.stem}_trace.json"))
        assert len(trace.steps) == 4 and trace.scales.shape == (4, 1)
        return np.asarray(Image.open(picture)).astype(int), json.loads(Image.open(picture).text[METADATA_KEY])

    noise = "--guidance", "noise"
    alone = [made(f"alone{k}", "--seed", str(3 + k * APART), *noise) for k in range(4)]
    assert "best_of" not in alone[0][1]
    for name, n, more in (("best", 3, []), ("halved", 4, ["--rungs", "0.25", "0.75", "--batch-size", "8"])):
        kept, about = made(name, "--seed", "3", "--best-of", str(n), *more, *noise)
        assert about["best_of"] == n and about["rungs"] == ([0.25, 0.75] if more else []) and about["seed"] == 3
        assert about["kept_by"] == ["clip", "discriminator", "reward"]
        assert min(abs(kept - one).max() for one, _ in alone[:n]) <= 2
    at_one, _ = made("at_one", "--seed", "3", "--guidance", "halving", "--guidance-scale", f"{SCALE}", steps=10)
    assert min(abs(at_one - one).max() for one, _ in alone) <= 2
    for evaluators, by in (((), ["vqa"]), (("--evaluators", "clip", "--guidance-scale", "5"), ["clip"])):
        _, about = made("by_" + by[0], "--seed", "3", "--guidance", "halving", *evaluators, steps=10)
        assert about["best_of"] == 4 and about["kept_by"] == by
        assert set(about["schedule"]) <= ({5.0} if evaluators else set(SCALES))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--best-of", "2", "--guidance", "static"], "argument --best-of"),
        (["--best-of", "2", "--guidance", "halving"], "halving begins several"),
        (["--guidance", "static", "--guidance-scale", "3", "--scales", "1,2"], "are of the search"),
        (["--guidance", "halving", "--scales", "1,2", "--guidance-scale", "3"], "searches scales or keeps one"),
        (["--rungs", "0.5"], "argument --rungs: is of --best-of"),
        (["--best-of", "4", "--rungs", "0.5", "0.2"], "must rise"),
        (["--best-of", "4", "--rungs", "1"], "below 1"),
    ],
)
def test_keeping_asked_for_wrongly(arguments, said, embedded, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([PROMPT, *arguments, "--out", str(tmp_path)])
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "guidance"),
    [
        ([], "halving"),
        (["--scales", "1,2"], "halving"),
        (["--best-of", "2"], "noise"),
        (["--evaluators", "clip"], "dynamic"),
    ],
)
def test_what_is_meant_where_no_guidance_is_named(arguments, guidance, embedded):
    assert parse([PROMPT, *arguments]).guidance == guidance


@pytest.mark.parametrize("scales", [None, (1.0, 2.0)])
def test_judges_of_pictures_alone_search_the_scales_that_they_are_given(scales):
    class Judge(PixelEvaluator):
        name = "judge"

    search = GreedySearch([Judge()], *([scales] if scales else []))
    args = argparse.Namespace(model="a model", evaluators=["judge"], scales=scales, device="cpu")
    guidance = searching("halving", search, args).guidance
    assert guidance is search if scales else isinstance(guidance, Static)
