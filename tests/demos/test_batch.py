"""`demos.batch`: the plan, resuming, and the files, mostly with a cheap stand-in for denoising."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

from commands import arguments
from demos import gallery, generate
from demos.batch import main, plan
from demos.manifest import MANIFEST, Manifest, inside, pictures
from guidance import SCHEDULES, GuidanceTrace

THREE = "a red star\na blue ring\n<b>&\n"


@pytest.fixture
def prompts(ram):
    file = ram / "prompts.txt"
    file.write_text(THREE)
    return str(file)


class Pipe:
    def set_progress_bar_config(self, **kwargs):
        pass


def draw(pipe, guidance, prompts, seeds, steps):
    """A picture and a trace that depend on prompt and seed alone."""
    rngs = [np.random.default_rng([len(prompt), seed]) for prompt, seed in zip(prompts, seeds, strict=True)]
    noise = [rng.integers(0, 256, (16, 16, 3), np.uint8) for rng in rngs]
    step = {"timestep": 1, "noise_level": 0.5, "scale": torch.full((len(prompts),), guidance.guidance_scale)}
    return [Image.fromarray(array) for array in noise], GuidanceTrace((), list(prompts), [step] * steps)


@pytest.fixture
def made(monkeypatch, embedded):
    """What the stand-in was asked to make: (method's scale, prompt, seed)."""
    jobs = []

    def denoise(pipe, guidance, prompts, seeds, steps):
        jobs.extend((guidance.guidance_scale, prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True))
        return draw(pipe, guidance, prompts, seeds, steps)

    monkeypatch.setattr(generate, "load", lambda args: (Pipe(), None))
    monkeypatch.setattr(generate, "denoise", denoise)
    return jobs


def run(prompts, out, *more):
    main([prompts, "--methods", "static:2", "interval:5", "--seeds", "0:2", "9", "--out", str(out), *more])


def images(out):
    with Manifest(out, read_only=True) as manifest:
        return manifest.images()


def test_every_prompt_method_and_seed_once(made, prompts, ram, capsys):
    out = ram / "study"
    run(prompts, out, "--steps", "3")
    assert len(made) == len(set(made)) == 3 * 2 * 3
    assert {seed for _, _, seed in made} == {0, 1, 9}
    found = images(out)
    assert {(i.method, i.prompt, i.seed) for i in found} == {
        ({2.0: "static:2", 5.0: "interval:5"}[scale], prompt, seed) for scale, prompt, seed in made
    }
    for image in found:
        data = json.loads(Image.open(inside(out, image.file)).text[generate.METADATA_KEY])
        assert (data["prompt"], data["seed"], data["method"]) == (image.prompt, image.seed, image.method)
        assert GuidanceTrace.from_json(inside(out, image.trace)).scales.shape == (3, 1)
        assert image.bytes == sum((out / file).stat().st_size for file in (image.file, image.trace))
    assert not list(out.glob(".partial*"))
    assert capsys.readouterr().out.strip() == str(out / "index.html")


def test_progress_shows_images_a_second_however_slow(made, prompts, ram, monkeypatch, capsys):
    clock = itertools.count(step=20)
    monkeypatch.setattr("tqdm.std.time", lambda: float(next(clock)))
    run(prompts, ram / "study")
    shown = re.findall(r"(\d+)/18 \[[\d:]+<(\d\d:\d\d), +0\.(\d\d) images/s\]", capsys.readouterr().err)
    assert shown
    assert all(rate != "00" and (left != "00:00" or count == "18") for count, left, rate in shown)


def test_the_same_command_again_makes_nothing_and_more_makes_what_is_missing(made, prompts, ram):
    run(prompts, ram / "study")
    made.clear()
    run(prompts, ram / "study", "--batch-size", "2")
    assert made == []
    run(prompts, ram / "study", "--methods", "static:2", "linear:3", "--seeds", "0:3")
    assert sorted(made) == sorted(
        [(2.0, prompt, 2) for prompt in THREE.split("\n") if prompt]
        + [(3.0, prompt, seed) for prompt in THREE.split("\n") if prompt for seed in (0, 1, 2)]
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
@pytest.mark.parametrize(
    "moment, number, count",
    [
        ("denoise", 3, 8),  # two whole batches
        ("publish", 20, 9),  # the tenth picture is there, its trace is not
        ("add", 12, 10),  # the first is that of the prompts
    ],
)
def test_kill_loses_only_what_was_not_recorded(made, prompts, ram, moment, number, count):
    out = ram / "study"
    log = ram / "log"

    def dies(call):
        def wrapped(*args, **kwargs):
            with log.open("a") as file:
                file.write("x")
            if log.stat().st_size == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return wrapped

    child = os.fork()
    if child == 0:
        if moment == "denoise":
            generate.denoise = dies(generate.denoise)
        elif moment == "publish":
            sys.modules["demos.batch"].publish = dies(sys.modules["demos.batch"].publish)
        else:
            Manifest.add = dies(Manifest.add)
        run(prompts, out)
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    kept = images(out)
    assert len(kept) == count
    for image in kept:
        Image.open(inside(out, image.file)).load()
    assert list(out.glob(".partial*"))
    run(prompts, out)
    assert len(made) == 18 - len(kept)
    scales = {"static:2": 2.0, "interval:5": 5.0}
    assert not {(scales[i.method], i.prompt, i.seed) for i in kept} & set(made)
    assert len(images(out)) == 18
    assert not list(out.glob(".partial*"))


def machine(monkeypatch, number, world):
    """As `accelerate launch` starts one of machines with a process each."""
    for name, value in (("RANK", number), ("WORLD_SIZE", world), ("GROUP_RANK", number)):
        monkeypatch.setenv(name, str(value))


def test_processes_share_the_work_without_overlap(made, prompts, ram, monkeypatch):
    jobs = [(f"prompt {i}", seed) for i in range(7) for seed in range(3)]
    for world in (1, 2, 3, 5):
        parts = [plan(jobs, ["a", "b", "c"], 4, rank, world) for rank in range(world)]
        all_jobs = [(method, job) for part in parts for method, chunk in part for job in chunk]
        assert len(all_jobs) == len(set(all_jobs)) == 63
        assert all({method for method, _ in part} == {"a", "b", "c"} for part in parts)

    for number in (1, 0):
        machine(monkeypatch, number, 2)
        run(prompts, ram / "study")
    assert len(made) == len(set(made)) == 18
    assert len(images(ram / "study")) == 18  # the first machine's manifest took in the other's


def test_other_machines_and_batch_sizes_go_on_without_double_work(made, prompts, ram, monkeypatch):
    out = ram / "study"
    machine(monkeypatch, 0, 2)
    run(prompts, out)
    assert 0 < len(made) < 18
    for number in (2, 1, 0):  # the rest by three others
        machine(monkeypatch, number, 3)
        run(prompts, out, "--batch-size", "3")
    assert len(made) == len(set(made)) == 18
    assert len(list(out.glob("manifest.*.sqlite"))) == 2
    for number, world, size in ((1, 2, "4"), (1, 4, "2"), (0, 1, "5")):
        machine(monkeypatch, number, world)
        run(prompts, out, "--batch-size", size)
    assert len(made) == 18


def test_a_machine_minds_what_others_made(made, prompts, ram, monkeypatch, capsys):
    out = ram / "study"
    machine(monkeypatch, 0, 2)
    run(prompts, out)
    made.clear()
    machine(monkeypatch, 1, 2)
    used = sum(image.bytes for image in images(out))
    with pytest.raises(SystemExit):
        run(prompts, out, "--steps", "4")
    assert "--steps" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(prompts, out, "--limit-disk", f"{used / 1000}KB")
    assert "--limit-disk" in capsys.readouterr().err
    assert made == []


def test_manifests_are_read_while_they_are_written(ram):
    from study_folder import make

    folder = make(ram / "study")
    (folder / "manifest.1.sqlite").touch()  # its machine has got no further
    image = images(folder)[0]
    with Manifest(folder, part=2) as writer:
        writer.add(images=[replace(image, seed=70)])
        writer.connection.execute("BEGIN IMMEDIATE")
        writer.connection.execute("INSERT INTO images VALUES ('p', 'm', 71, 'f', 't', 1)")
        assert {seed for _, _, seed in pictures(folder)} == {0, 1, 70}
        with Manifest(folder) as first:
            first.collect()
        writer.connection.execute("COMMIT")
    assert {image.seed for image in images(folder)} == {0, 1, 70}
    assert {seed for _, _, seed in pictures(folder)} == {0, 1, 70, 71}


def test_two_batches_in_one_folder_are_refused(made, prompts, ram, capsys):
    (ram / "study").mkdir()
    with FileLock(ram / "study" / ".batch-0.lock"), pytest.raises(SystemExit):
        run(prompts, ram / "study")
    assert capsys.readouterr().err.startswith("error: argument --out: another batch is at work")
    assert made == []


def test_other_settings_are_refused(made, prompts, ram, capsys):
    run(prompts, ram / "study", "--steps", "3")
    made.clear()
    with pytest.raises(SystemExit):
        run(prompts, ram / "study", "--steps", "4", "--seeds", "77")
    expected = f"error: argument --steps: the study in {str(ram / 'study')!r} was made with 3, not 4\n"
    assert capsys.readouterr().err.endswith(expected)
    assert made == []


def test_limit_disk_stops_before_and_a_higher_one_goes_on(made, prompts, ram, capsys):
    out = ram / "study"
    with pytest.raises(SystemExit):
        run(prompts, out, "--limit-disk", "30KB")
    assert "--limit-disk" in capsys.readouterr().err
    found = images(out)
    assert 0 < len(found) < 18 and sum(image.bytes for image in found) <= 30_000
    assert (out / "index.html").read_text().count('loading="lazy"') == len(found)
    run(prompts, out, "--limit-disk", "1GB")
    assert len(made) == 18


def test_ctrl_c_leaves_a_gallery(made, prompts, ram, monkeypatch):
    denoise = generate.denoise

    def interrupted(*args):
        if len(made) == 8:
            raise KeyboardInterrupt
        return denoise(*args)

    monkeypatch.setattr(generate, "denoise", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(prompts, ram / "study")
    assert (ram / "study" / "index.html").read_text().count('loading="lazy"') == 8


def test_yaml_and_the_command_line_on_top_of_it(made, prompts, ram):
    file = ram / "study.yaml"
    file.write_text(f"prompts: {prompts}\nmethods: [static:1, cosine:6]\nseeds: 1:3\nsteps: 5\nout: {ram / 'a'}\n")
    main(["--study", str(file), "--steps", "2"])
    assert {(scale, seed) for scale, _, seed in made} == {(1.0, 1), (1.0, 2), (6.0, 1), (6.0, 2)}
    with Manifest(ram / "a", read_only=True) as manifest:
        assert manifest.settings()["steps"] == 2


def test_gallery_escapes_and_changes_nothing_in_the_manifest(made, prompts, ram):
    out = ram / "study"
    run(prompts, out)
    before = (out / MANIFEST).read_bytes()
    page = gallery.write(out).read_text()
    assert (out / MANIFEST).read_bytes() == before
    assert "<b>" not in page and "&lt;b&gt;&amp;" in page
    assert page.count('loading="lazy"') == 18
    sheets = sorted((out / "contact").iterdir())
    assert [Image.open(sheet).size for sheet in sheets] == [(56 + 2 * 264, 24 + 3 * 264)] * 3


def test_a_manifest_that_points_outside_is_refused(ram):
    from study_folder import make

    make(ram / "study")
    (ram / "secret.png").write_bytes(b"secret")
    with Manifest(ram / "study") as manifest:
        manifest.connection.execute("UPDATE images SET file = '../secret.png' WHERE seed = 1")
    with pytest.raises(ValueError, match="secret"):
        gallery.write(ram / "study")
    os.symlink(ram / "secret.png", ram / "study" / "link.png")
    with pytest.raises(ValueError, match="link"):
        inside(ram / "study", "link.png")


def test_on_the_real_pipeline_methods_share_their_noise(embedded, ram):
    file = ram / "prompts.csv"
    file.write_text('Prompt,Category\n"two red circles, one star",count\n')
    methods = ["static:3", "interval:3:0:0.2", "dynamic", "budget:9", "noise:3"]
    arguments = [str(file), "--methods", *methods, "--seeds", "4", "5", "--steps", "2"]
    main([*arguments, "--out", str(ram / "study")])
    main([str(file), "--methods", "static:3", "--seeds", "5", "--steps", "2", "--out", str(ram / "alone")])
    found = {(image.method, image.seed): image for image in images(ram / "study")}
    assert len(found) == 10
    pixels = {key: np.asarray(Image.open(ram / "study" / image.file)).astype(int) for key, image in found.items()}
    (alone,) = images(ram / "alone")
    again = np.asarray(Image.open(ram / "alone" / alone.file)).astype(int)
    assert abs(again - pixels["static:3", 5]).max() <= 2
    assert abs(pixels["static:3", 4] - pixels["static:3", 5]).max() > 2
    searched = GuidanceTrace.from_json(ram / "study" / found["noise:3", 4].trace)
    assert {noise for step in searched.steps for noise in step["noise"]} <= {0, 1, 2}
    trace = GuidanceTrace.from_json(ram / "study" / found["dynamic", 4].trace)
    assert trace.candidates and trace.prompt == ["two red circles, one star"]


def test_names_of_schedules():
    assert list(arguments.SCHEDULES) == list(SCHEDULES)
    for name, values in arguments.SCHEDULES.items():
        takes = [field.name.removeprefix("guidance_").upper() for field in fields(SCHEDULES[name])]
        assert takes == list(values)


def test_one_spelling_of_a_method():
    for text, spelt in {
        "interval:5.0:0.20:1": "interval:5:0.2:1",
        "exponential:4:0.2": "exponential:4:0.2",
        "interval:5": "interval:5",
        "budget": "budget",
        " budget:.10": "budget:0.1",
        "noise": "noise",
        "noise:04": "noise:4",
    }.items():
        assert arguments.method(text) == spelt


BAD = {
    "no prompts": (["--methods", "dynamic"], "prompts"),
    "no methods": (["{tmp}/prompts.txt"], "--methods"),
    "unknown method": (["{tmp}/prompts.txt", "--methods", "static:2", "magic"], "magic"),
    "method without a scale": (["{tmp}/prompts.txt", "--methods", "static"], "--methods"),
    "scale": (["{tmp}/prompts.txt", "--methods", "static:nan"], "--methods"),
    "too many values": (["{tmp}/prompts.txt", "--methods", "linear:2:3"], "--methods"),
    "window": (["{tmp}/prompts.txt", "--methods", "interval:2:0.9:0.1"], "interval:2:0.9:0.1"),
    "rate": (["{tmp}/prompts.txt", "--methods", "exponential:2:0"], "exponential:2:0"),
    "draws": (["{tmp}/prompts.txt", "--methods", "noise:1"], "at least 2 draws"),
    "draws in parts": (["{tmp}/prompts.txt", "--methods", "noise:2.5"], "--methods"),
    "tolerance": (["{tmp}/prompts.txt", "--methods", "budget:-1"], "--methods"),
    "seeds": (["{tmp}/prompts.txt", "--methods", "static:2", "--seeds", "4:4"], "--seeds"),
    "seed": (["{tmp}/prompts.txt", "--methods", "static:2", "--seeds", "-1"], "--seeds"),
    "no file": (["{tmp}/none.txt", "--methods", "static:2"], "prompts"),
    "other file": (["{tmp}/prompts.xlsx", "--methods", "static:2"], "prompts"),
    "disk": (["{tmp}/prompts.txt", "--methods", "static:2", "--limit-disk", "0GB"], "--limit-disk"),
    "scales without search": (["{tmp}/prompts.txt", "--methods", "static:2", "--scales", "1,2"], "--scales"),
    "no study file": (["--study", "{tmp}/none.yaml"], "--study"),
    "study file is a list": (["--study", "{tmp}/list.yaml"], "--study"),
    "study file is code": (["--study", "{tmp}/code.yaml"], "--study"),
    "unknown key": (["--study", "{tmp}/key.yaml"], "--colour"),
    "device": (["{tmp}/prompts.txt", "--methods", "static:2", "--device", "abacus"], "--device"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(made, prompts, ram, capsys, case):
    (ram / "prompts.xlsx").write_text("")
    (ram / "list.yaml").write_text("- a\n")
    (ram / "code.yaml").write_text("out: !!python/object/apply:os.system [{a: b}]\n")
    (ram / "key.yaml").write_text("colour: red\n")
    given, named = BAD[case]
    with pytest.raises(SystemExit) as stop:
        main([*(a.replace("{tmp}", str(ram)) for a in given), "--out", str(ram / "study")])
    captured = capsys.readouterr()
    assert stop.value.code == 2
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert named in captured.err
    assert made == [] and not (ram / "study" / MANIFEST).exists()


@pytest.mark.slow
def test_accelerate_launch(prompts, ram):
    launch = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no -m demos.batch"
    batch = "--methods static:2 dynamic --seeds 0:2 --steps 2 --device cpu --out"
    command = [sys.executable, "-m", "accelerate.commands.launch", *launch.split(), prompts, *batch.split()]
    subprocess.run([*command, str(ram / "study")], check=True, timeout=900)
    assert len(images(ram / "study")) == 12
