"""`demos.generate`, run in process on a random stand-in for the embedded weights."""

import json

import numpy as np
import pytest
from PIL import Image

from demos.generate import METADATA_KEY, main
from evaluators import LatentDiscriminator
from guidance import SCHEDULES, GuidanceTrace
from tinyworld.pipeline import SCALES

PROMPTS = ["two red circles above a blue square", 'a green sign saying "CAB"']


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)


def pictures(folder):
    return sorted(p for p in folder.glob("*.png") if not p.stem.endswith("_schedule"))


def test_writes_picture_schedule_and_trace(embedded, tmp_path, capsys):
    main([*PROMPTS, "--steps", "3", "--out", str(tmp_path)])
    stems = ["000_two-red-circles-above-a-blue-square", "001_a-green-sign-saying-cab"]
    expected = [tmp_path / f"{stem}{end}" for stem in stems for end in (".png", "_schedule.png", "_trace.json")]
    assert capsys.readouterr().out.splitlines() == [str(path) for path in expected]
    assert sorted(tmp_path.iterdir()) == sorted(expected)
    for prompt, stem in zip(PROMPTS, stems, strict=True):
        image = Image.open(tmp_path / f"{stem}.png")
        assert image.size == (64, 64)
        data = json.loads(image.text[METADATA_KEY])
        assert (data["prompt"], data["seed"], data["steps"], data["guidance"]) == (prompt, 0, 3, "dynamic")
        assert data["candidates"] == list(SCALES)
        assert data["evaluators"] == ["clip", "discriminator", "reward"]
        trace = GuidanceTrace.from_json(tmp_path / f"{stem}_trace.json")
        assert trace.prompt == [prompt]
        assert trace.scales.shape == (3, 1)
        assert data["schedule"] == trace.scales[:, 0].tolist()
        searched = [step["scores"]["clip"] for step in trace.steps if "scores" in step]
        assert [np.shape(scores) for scores in searched] == [(1, len(SCALES))] * 2  # every second of three steps
        assert trace.scales[1] == trace.scales[0]
        assert Image.open(tmp_path / f"{stem}_schedule.png").width > 64


def test_a_picture_depends_on_its_prompt_and_seed_alone(embedded, tmp_path):
    def run(name, *arguments):
        main([*arguments, "--steps", "3", "--out", str(tmp_path / name)])
        return [pixels(path) for path in pictures(tmp_path / name)]

    together = run("together", *PROMPTS, "--num-images", "2", "--seed", "5")
    assert len(together) == 4
    again = run("again", *PROMPTS, "--num-images", "2", "--seed", "5")
    assert all((a == b).all() for a, b in zip(together, again, strict=True))
    one_by_one = run("one_by_one", *PROMPTS, "--num-images", "2", "--seed", "5", "--batch-size", "1")
    alone = run("alone", PROMPTS[1], "--seed", "6")
    assert all(abs(a - b).max() <= 2 for a, b in zip(together, one_by_one, strict=True))
    assert abs(together[3] - alone[0]).max() <= 2
    assert abs(together[2] - together[3]).max() > 2


@pytest.mark.parametrize("kind", SCHEDULES)
def test_fixed_schedules(embedded, tmp_path, kind):
    main([PROMPTS[0], "--guidance", kind, "--guidance-scale", "3", "--steps", "3", "--out", str(tmp_path)])
    (path,) = pictures(tmp_path)
    data = json.loads(Image.open(path).text[METADATA_KEY])
    schedule = SCHEDULES[kind](3.0)
    assert data["schedule"] == pytest.approx([schedule.at(progress) for progress in (0.0, 0.5, 1.0)])
    assert (data["guidance_scale"], data["candidates"], data["evaluators"]) == (3.0, None, [])


def test_search_settings(embedded, tmp_path):
    arguments = ["--scales", "1,5", "--evaluators", f"clip={embedded / 'clip'}", "--steps", "2", "--out", str(tmp_path)]
    main([PROMPTS[0], *arguments])
    main([PROMPTS[1], *arguments, "--model", str(embedded / "text_to_image"), "--dtype", "bfloat16"])
    for path in pictures(tmp_path):
        data = json.loads(Image.open(path).text[METADATA_KEY])
        assert set(data["schedule"]) <= {1.0, 5.0}
        assert (data["candidates"], data["evaluators"]) == ([1.0, 5.0], ["clip"])


@pytest.mark.parametrize("host", ["sd", "sdxl", "sd3", "flux"])
def test_foreign_models(folder, tmp_path, host):
    channels = json.loads((folder(host) / "vae" / "config.json").read_text())["latent_channels"]
    LatentDiscriminator(channels).save_pretrained(tmp_path / "evaluator")
    arguments = ["a fox", "a red bicycle", "--model", str(folder(host)), "--steps", "1" if host == "flux" else "2"]
    search = ["--evaluators", f"discriminator={tmp_path / 'evaluator'}", "--scales", "2,4"]
    main([*arguments, *search, "--out", str(tmp_path / "out")])
    schedules = [json.loads(Image.open(path).text[METADATA_KEY])["schedule"] for path in pictures(tmp_path / "out")]
    assert len(schedules) == 2
    assert all(set(schedule) <= {2.0, 4.0} for schedule in schedules)


def test_foreign_model_with_a_fixed_schedule_takes_no_evaluators(folder, tmp_path):
    main(["a fox", "--model", str(folder("sd")), "--guidance", "linear", "--steps", "2", "--out", str(tmp_path)])
    (path,) = pictures(tmp_path)
    assert json.loads(Image.open(path).text[METADATA_KEY])["schedule"] == [0, 8]


def test_prompts_file(embedded, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("\ufeffun cœur rouge\n\n  a blue star  \n", encoding="utf-8")
    main(["--prompts", str(file), "--steps", "2", "--out", str(tmp_path / "out")])
    prompts = [json.loads(Image.open(p).text[METADATA_KEY])["prompt"] for p in pictures(tmp_path / "out")]
    assert prompts == ["un cœur rouge", "a blue star"]


BAD = {
    "no prompt": ([], "prompts"),
    "blank prompt": (["  "], "prompt"),
    "prompt and file": (["a", "--prompts", "{tmp}/prompts.txt"], "--prompts"),
    "no such file": (["--prompts", "{tmp}/none.txt"], "--prompts"),
    "empty file": (["--prompts", "{tmp}/empty.txt"], "--prompts"),
    "not text": (["--prompts", "{tmp}/latin.txt"], "--prompts"),
    "steps": (["a", "--steps", "0"], "--steps"),
    "steps as a word": (["a", "--steps", "many"], "--steps"),
    "more steps than the scheduler has": (["a", "--steps", "1001"], "num_inference_steps"),
    "num-images": (["a", "--num-images", "-1"], "--num-images"),
    "batch-size": (["a", "--batch-size", "1.5"], "--batch-size"),
    "seed": (["a", "--seed", "-1"], "--seed"),
    "scale is NaN": (["a", "--scales", "1,nan"], "--scales"),
    "scale is infinite": (["a", "--scales", "inf"], "--scales"),
    "scale is negative": (["a", "--scales", "1,-2"], "--scales"),
    "no scales": (["a", "--scales", ""], "--scales"),
    "scales repeat": (["a", "--scales", "1,2,1.0"], "--scales"),
    "scales of a fixed schedule": (["a", "--guidance", "static", "--scales", "1,2"], "--scales"),
    "guidance": (["a", "--guidance", "none"], "--guidance"),
    "guidance-scale": (["a", "--guidance", "static", "--guidance-scale", "nan"], "--guidance-scale"),
    "guidance-scale of the search": (["a", "--guidance-scale", "3"], "--guidance-scale"),
    "evaluator": (["a", "--evaluators", "clip,taste"], "taste"),
    "evaluators repeat": (["a", "--evaluators", "clip,clip"], "--evaluators"),
    "evaluator folder": (["a", "--evaluators", "clip={tmp}"], "--evaluators"),
    "folder of another evaluator": (["a", "--evaluators", "clip={weights}/discriminator"], "--evaluators"),
    "evaluators of a foreign model": (["a", "--model", "owner/name"], "--evaluators"),
    "model is no pipeline": (["a", "--model", "{tmp}"], "--model"),
    "model is a file": (["a", "--model", "{tmp}/prompts.txt"], "--model"),
    "no such model": (["a", "--model", "./nowhere"], "--model"),
    "device": (["a", "--device", "abacus"], "--device"),
    "absent device": (["a", "--device", "cuda:99"], "--device"),
    "dtype": (["a", "--dtype", "int8"], "--dtype"),
    "unknown option": (["a", "--colour", "red"], "--colour"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(embedded, tmp_path, capsys, case):
    (tmp_path / "prompts.txt").write_text("a\n")
    (tmp_path / "empty.txt").write_text("\n  \n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    arguments, named = BAD[case]
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stop:
        main(
            [a.replace("{tmp}", str(tmp_path)).replace("{weights}", str(embedded)) for a in arguments]
            + ["--out", str(out)]
        )
    captured = capsys.readouterr()
    assert stop.value.code == 2
    assert captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert named in captured.err
    assert not out.exists() or not list(out.iterdir())


def test_unwritable_output(embedded, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stop:
        main([PROMPTS[0], "--out", str(tmp_path / "file" / "out")])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: argument --out: ")


def test_a_model_that_does_not_load(embedded, tmp_path, capfd):
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(SystemExit) as stop:
        main([PROMPTS[0], "--guidance", "static", "--model", str(tmp_path), "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert capfd.readouterr().err.startswith("error: argument --model")


def test_no_embedded_weights(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tinyworld.WEIGHTS", tmp_path / "none")
    with pytest.raises(SystemExit) as stop:
        main([PROMPTS[0], "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert "--model" in capsys.readouterr().err


def test_evaluator_of_another_vae(embedded, tmp_path, capsys):
    LatentDiscriminator(in_channels=8).save_pretrained(tmp_path / "other")
    with pytest.raises(SystemExit) as stop:
        main([PROMPTS[0], "--evaluators", f"discriminator={tmp_path / 'other'}", "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert "another VAE" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())
