"""`demos.generate`, run in process on a random stand-in for the embedded weights."""

import errno
import json

import numpy as np
import pytest
from PIL import Image
from transformers import AutoTokenizer

from demos import cut
from demos.generate import METADATA_KEY, claim, main, slug
from evaluators import LatentDiscriminator
from guidance import SCHEDULES, GuidanceTrace
from tinyworld.pipeline import SCALES

PROMPTS = ["two red circles above a blue square", 'a green sign saying "CAB"']


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)


def pictures(folder):
    return sorted(p for p in folder.glob("*.png") if not p.stem.endswith("_schedule"))


def test_writes_picture_schedule_and_trace(embedded, tmp_path, capsys):
    main([*PROMPTS, "--steps", "6", "--out", str(tmp_path)])
    stems = ["000_two-red-circles-above-a-blue-square_seed0", "001_a-green-sign-saying-cab_seed0"]
    expected = [tmp_path / f"{stem}{end}" for stem in stems for end in (".png", "_schedule.png", "_trace.json")]
    assert capsys.readouterr().out.splitlines() == [str(path) for path in expected]
    assert sorted(tmp_path.iterdir()) == sorted(expected)
    for prompt, stem in zip(PROMPTS, stems, strict=True):
        image = Image.open(tmp_path / f"{stem}.png")
        assert image.size == (64, 64)
        data = json.loads(image.text[METADATA_KEY])
        assert (data["prompt"], data["seed"], data["steps"], data["guidance"]) == (prompt, 0, 6, "halving")
        assert (data["best_of"], data["rungs"], data["kept_by"]) == (4, [0.25], ["vqa"])
        assert (data["candidates"], data["evaluators"]) == (list(SCALES), ["clip", "discriminator", "reward"])
        trace = GuidanceTrace.from_json(tmp_path / f"{stem}_trace.json")
        assert trace.prompt == [prompt]
        assert trace.scales.shape == (2, 1), "of two steps each, two dropped after the first: as many as six of one"
        assert data["schedule"] == trace.scales[:, 0].tolist()
        assert set(data["schedule"]) <= set(SCALES)
        draws = [step["noise_scores"]["clip"] for step in trace.steps if "noise_scores" in step]
        assert [np.shape(scores) for scores in draws] == [(1, 8)]  # the last step adds no noise
        assert Image.open(tmp_path / f"{stem}_schedule.png").width > 64


def test_the_search_over_scales_is_an_option(embedded, tmp_path):
    main([PROMPTS[0], "--guidance", "dynamic", "--steps", "3", "--out", str(tmp_path)])
    (picture,) = pictures(tmp_path)
    data = json.loads(Image.open(picture).text[METADATA_KEY])
    assert data["guidance"] == "dynamic" and data["candidates"] == list(SCALES)
    trace = GuidanceTrace.from_json(picture.with_name(f"{picture.stem}_trace.json"))
    searched = [step["scores"]["clip"] for step in trace.steps if "scores" in step]
    assert [np.shape(scores) for scores in searched] == [(1, len(SCALES))] * 2  # every second of three steps
    assert trace.scales[1] == trace.scales[0]


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


def test_nothing_is_written_over(embedded, tmp_path):
    (tmp_path / "007_mine.png").write_bytes(b"mine")
    static = ["a fox", "--guidance", "static", "--steps", "1", "--out", str(tmp_path)]
    for seed in ("1", "2", "2"):
        main([*static, "--seed", seed])
    made = [path.stem for path in pictures(tmp_path)]
    assert made == ["007_mine", "008_a-fox_seed1", "009_a-fox_seed2", "010_a-fox_seed2"]
    assert (tmp_path / "007_mine.png").read_bytes() == b"mine"
    assert (pixels(tmp_path / "009_a-fox_seed2.png") == pixels(tmp_path / "010_a-fox_seed2.png")).all()


def test_two_at_once_do_not_take_the_same_name(tmp_path, monkeypatch):
    first = claim(tmp_path, "a-fox_seed1")
    monkeypatch.setattr(type(tmp_path), "iterdir", lambda folder: iter(()))  # listed before the other took it
    assert (first.name, claim(tmp_path, "a-fox_seed1").name) == ("000_a-fox_seed1", "001_a-fox_seed1")


@pytest.mark.parametrize(
    "prompt, title",
    [
        ("Красная лиса!", "красная-лиса"),
        ("红色的狐狸, 雪", "红色的狐狸-雪"),
        ("लाल लोमड़ी", "लाल-लोमड़ी"),
        ("un cœur / rouge", "un-cœur-rouge"),
        ("../../etc/passwd", "etc-passwd"),
        ("🦊", "image"),
        ("狐" * 40, "狐" * 20),
    ],
)
def test_titles_in_any_script(prompt, title):
    assert slug(prompt, 60) == title


def test_a_prompt_without_latin_letters(embedded, tmp_path, recwarn):
    main(["красная лиса", "红色的狐狸", "--guidance", "static", "--steps", "1", "--out", str(tmp_path)])
    assert [path.stem for path in pictures(tmp_path)] == ["000_красная-лиса_seed0", "001_红色的狐狸_seed0"]
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_words_that_the_text_encoder_does_not_read_are_said_once(embedded, tmp_path, capsys):
    room = json.loads((embedded / "text_to_image" / "tokenizer" / "tokenizer_config.json").read_text())
    long = " ".join(["red"] * (room["model_max_length"] - 2) + ["above", "a", "blue", "square"])
    main(["a fox", long, long, "--guidance", "static", "--steps", "1", "--out", str(tmp_path)])
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert "'above a blue square' of 'red red" in said and "fox" not in said


def test_the_encoder_that_reads_most_counts(embedded):
    class Pipe:
        def __init__(self, *limits):
            self.components = {}
            for number, limit in enumerate(limits):
                folder = embedded / "text_to_image" / "tokenizer"
                self.components[f"tokenizer_{number}"] = AutoTokenizer.from_pretrained(folder, model_max_length=limit)
                self.components[f"text_encoder_{number}"] = "there"

        def __call__(self, prompt, max_sequence_length=12):
            pass

    words = "a red star and a blue star and a green star and a pink star"  # 15 tokens, and two around them
    assert list(cut.lost(Pipe(6, 10, 99), [words, "a red star"]).values()) == ["star and a pink star"]
    without = Pipe(6, 10, 99)
    without.components["text_encoder_2"] = None
    assert cut.lost(without, [words]) == {words: "a green star and a pink star"}
    assert cut.lost(Pipe(6), [words]) == {words: "a blue star and a green star and a pink star"}
    Pipe.__call__ = lambda self, prompt: None
    assert cut.lost(Pipe(6, 17), [words]) == cut.lost(Pipe(6, int(1e30)), [words]) == {}
    assert cut.warning(Pipe(3), [f"a b{i}" for i in range(9)]).count("and of 6 more prompts") == 1


def test_a_stop_and_a_full_disk_are_one_line(embedded, tmp_path, capsys, monkeypatch):
    static = ["--guidance", "static", "--steps", "1", "--batch-size", "1", "--num-images", "3", "--out", str(tmp_path)]
    plot = GuidanceTrace.plot

    def breaks(error):
        def broken(trace, path):
            plot(trace, path)
            if "seed1" in path.name:
                raise error

        return broken

    monkeypatch.setattr(GuidanceTrace, "plot", breaks(KeyboardInterrupt()))
    with pytest.raises(SystemExit) as stop:
        main(["a fox", *static])
    assert stop.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1] == "stopped after 1 of 3 pictures"
    monkeypatch.setattr(GuidanceTrace, "plot", breaks(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(SystemExit) as stop:
        main(["a dog", *static])
    assert stop.value.code == 2
    assert "error: argument --out: [Errno 28] No space left on device, after 1 of 3 pictures" in capsys.readouterr().err
    made = sorted(path.name for path in tmp_path.iterdir())
    assert len(made) == 2 * 3 and not [name for name in made if "seed1" in name], "no halves are left"


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


def test_a_table_of_prompts(embedded, tmp_path):
    """Its header and categories are not drawn."""
    (tmp_path / "p.csv").write_text('category,prompt\nx,"a red star, a circle"\ny,a blue star\n')
    arguments = ["--guidance", "static", "--steps", "1", "--out", str(tmp_path / "out")]
    main(["--prompts", str(tmp_path / "p.csv"), *arguments])
    made = [json.loads(Image.open(path).text[METADATA_KEY])["prompt"] for path in pictures(tmp_path / "out")]
    assert made == ["a red star, a circle", "a blue star"]


BAD = {
    "no prompt": ([], "prompts"),
    "blank prompt": (["  "], "prompt"),
    "file as prompt": (["{tmp}/prompts.txt"], "--prompts"),
    "missing file as prompt": (["promts.csv"], "--prompts"),
    "prompt and file": (["a", "--prompts", "{tmp}/prompts.txt"], "--prompts"),
    "no such file": (["--prompts", "{tmp}/none.txt"], "--prompts"),
    "empty file": (["--prompts", "{tmp}/empty.txt"], "--prompts"),
    "broken table": (["--prompts", "{tmp}/broken.csv"], "line 2"),
    "not text": (["--prompts", "{tmp}/latin.txt"], "--prompts"),
    "steps": (["a", "--steps", "0"], "--steps"),
    "steps as a word": (["a", "--steps", "many"], "--steps"),
    "more steps than the scheduler has": (["a", "--guidance", "noise", "--steps", "1001"], "num_inference_steps"),
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
    "guidance-scale of the search": (["a", "--guidance", "noise", "--guidance-scale", "3"], "--guidance-scale"),
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
    (tmp_path / "broken.csv").write_text("prompt\na fox, red\n")
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
