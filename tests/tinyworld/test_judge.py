"""The judge against scenes whose truth is known."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinyworld import captions, judge
from tinyworld.captions import CATEGORIES, Group, SceneSpec
from tinyworld.judge.__main__ import main
from tinyworld.scenes import make_scene, render

ROOT = Path(__file__).parents[2]


def draw(spec: SceneSpec, seed: int = 0) -> np.ndarray:
    return render(spec, np.random.default_rng(seed))[0]


@pytest.mark.parametrize("category", CATEGORIES)
@pytest.mark.parametrize("split", ["train", "test"])
def test_clean_renders_are_right_and_wrong_captions_are_not(category, split):
    n = 40
    scenes = [make_scene(seed, split, category) for seed in range(n)]
    right = sum(judge.judge(s.image, s.caption).correct for s in scenes)
    rng = np.random.default_rng(1)
    accepted = sum(judge.judge(s.image, captions.caption(judge.wrong_spec(s.spec, rng))).correct for s in scenes)
    assert right >= n - 1
    assert accepted == 0


@pytest.mark.parametrize("category", CATEGORIES)
def test_degraded_renders_are_still_right(category):
    rng = np.random.default_rng(2)
    scenes = [make_scene(seed, "all", category) for seed in range(100, 140)]
    right = sum(judge.judge(judge.degrade(s.image, rng), s.caption).correct for s in scenes)
    assert right >= 37


def test_objects_are_found_where_they_were_drawn():
    for seed in range(20):
        scene = make_scene(seed, "all", "two_kind")
        found = judge.detect(scene.image)
        assert len(found) == len(scene.objects)
        for truth in scene.objects:
            near = min(found, key=lambda o: np.hypot(o.x - truth.x, o.y - truth.y))
            assert (near.color, near.shape) == (truth.color, truth.shape)
            assert np.hypot(near.x - truth.x, near.y - truth.y) < 1.0
            assert abs(near.radius - truth.radius) < 0.12 * truth.radius


def test_attributes_tell_what_is_wrong():
    image = draw(SceneSpec((Group(2, "red", "circle"), Group(1, "blue", "square")), "above", background="dark"))

    def wrong(caption: str) -> set[str]:
        verdict = judge.judge(image, caption)
        assert verdict.correct == all(verdict.attributes.values())
        assert (verdict.score == 1) == verdict.correct
        return {name for name, right in verdict.attributes.items() if not right}

    assert wrong("two red circles above a blue square") == set()
    assert wrong("two red circles below a blue square") == {"relation"}
    assert wrong("three red circles and a blue square") == {"count"}
    assert wrong("one red circle and two blue squares") == {"count"}
    assert wrong("two blue circles and a red square") == {"binding"}
    assert wrong("two red circles and a blue square on a striped background") == {"background"}
    assert {"color", "binding"} <= wrong("two green circles and a blue square")
    assert {"shape", "binding"} <= wrong("two red stars and a blue square")
    assert {"color", "shape", "count"} <= wrong("two red circles")  # the square is extra


def test_signs_are_read_and_squares_are_no_signs():
    image = draw(SceneSpec(text="HOX", sign_color="blue"))
    assert judge.read_sign(image) == "HOX"
    almost = judge.judge(image, 'a blue sign saying "HOT"')
    assert {name for name, right in almost.attributes.items() if not right} == {"text"}
    assert almost.text == "HOX" and 0.75 < almost.score < 1
    assert not judge.judge(image, 'a red sign saying "HOX"').attributes["color"]
    assert not judge.judge(image, "a blue square").correct
    square = draw(SceneSpec((Group(1, "blue", "square"),)))
    assert judge.read_sign(square) is None
    assert not judge.judge(square, 'a blue sign saying "HOX"').correct


def test_nothing_and_noise_are_wrong():
    rng = np.random.default_rng(0)
    for image in (np.full((64, 64, 3), 128, np.uint8), rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)):
        for caption in ("a red circle", "two red circles left of a blue star", 'a red sign saying "CAB"'):
            verdict = judge.judge(image, caption)
            assert not verdict.correct and 0 <= verdict.score < 1


def test_other_sizes_and_bad_input():
    scene = make_scene(3, "all", "binding")
    large = Image.fromarray(scene.image).resize((256, 256), Image.Resampling.BICUBIC)
    assert judge.judge(large, scene.caption).correct
    assert judge.judge(np.asarray(large), scene.caption).correct
    with pytest.raises(ValueError, match="grammar"):
        judge.judge(scene.image, "a dog")
    with pytest.raises(ValueError, match="uint8"):
        judge.judge(scene.image / 255.0, scene.caption)


def test_self_test_counts_every_condition():
    report = judge.self_test(2)
    assert set(report) == {"clean", "degraded"}
    for splits in report.values():
        assert set(splits) == {"train", "test"} and set(splits["train"]) == set(CATEGORIES)


def test_command_line(tmp_path):
    scene = make_scene(5, "all", "relation")
    path = tmp_path / "picture.png"
    Image.fromarray(scene.image).save(path)
    command = [sys.executable, "-m", "tinyworld.judge", str(path), scene.caption, "--json"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == json.loads(json.dumps(judge.judge(scene.image, scene.caption).to_dict()))
    assert json.loads(run.stdout)["correct"] is True


def test_command_line_errors_are_one_line(tmp_path, capsys):
    picture = tmp_path / "picture.png"
    Image.fromarray(make_scene(0).image).save(picture)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    for arguments, said in (
        (["x.png", "a red circle"], "IMAGE 'x.png' does not exist"),
        ([str(broken), "a red circle"], "not a readable picture"),
        ([str(picture), "a dog"], "grammar"),
        ([str(picture)], "required"),
        (["--self-test", "0"], "at least 1"),
        (["--self-test", "1", "--vae", str(tmp_path / "nowhere")], "--vae"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1 and said in error
