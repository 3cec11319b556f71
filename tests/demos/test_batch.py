"""`demos.batch`: the plan, resuming, and the files, mostly with a cheap stand-in for denoising."""

import errno
import itertools
import json
import os
import re
import signal
import sqlite3

import numpy as np
import pytest
from batch_runs import THREE, images, run
from PIL import Image

from demos import gallery, generate, painting
from demos.batch import main
from demos.manifest import MANIFEST, Manifest, inside
from guidance import GuidanceTrace


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
            painting.publish = dies(painting.publish)
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


def test_limit_disk_holds_for_the_first_batch_too(made, prompts, ram, capsys):
    run(prompts, ram / "other")
    size = max(image.bytes for image in images(ram / "other"))
    with pytest.raises(SystemExit):
        run(prompts, ram / "study", "--limit-disk", f"{2.5 * size / 1000}KB", "--batch-size", "9")
    assert "2 pictures take" in capsys.readouterr().err
    assert len(images(ram / "study")) == 2 == len(list((ram / "study" / "images").rglob("*.png")))


def test_ctrl_c_leaves_a_gallery_and_says_how_far_it_got(made, prompts, ram, monkeypatch, capsys):
    denoise = generate.denoise

    def interrupted(*args):
        if len(made) == 8:
            raise KeyboardInterrupt
        return denoise(*args)

    monkeypatch.setattr(generate, "denoise", interrupted)
    with pytest.raises(SystemExit) as stop:
        run(prompts, ram / "study")
    assert stop.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1] == "stopped after 8 of 18 pictures; the same command goes on"
    assert (ram / "study" / "index.html").read_text().count('loading="lazy"') == 8
    monkeypatch.setattr(generate, "denoise", denoise)
    run(prompts, ram / "study")
    assert len(made) == 18


def test_ctrl_c_while_the_model_loads(made, prompts, ram, monkeypatch, capsys):
    run(prompts, ram / "study", "--seeds", "0")

    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(generate, "load", interrupted)
    with pytest.raises(SystemExit):
        run(prompts, ram / "study")
    assert capsys.readouterr().err.splitlines()[-1] == "stopped after 6 of 18 pictures; the same command goes on"


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), "database or disk is full"])
def test_a_full_disk_is_one_line_and_loses_nothing(made, prompts, ram, monkeypatch, capsys, error):
    """Whoever meets it first: a picture, or the manifest."""
    add, publish = Manifest.add, painting.publish
    count = itertools.count()

    def full(call):
        def wrapped(*args, **kwargs):
            if next(count) < 11:
                return call(*args, **kwargs)
            raise sqlite3.OperationalError(error) if isinstance(error, str) else error

        return wrapped

    if isinstance(error, str):
        monkeypatch.setattr(Manifest, "add", full(add))
    else:
        monkeypatch.setattr("demos.painting.publish", full(publish))
        monkeypatch.setattr(gallery, "write", full(gallery.write))
    with pytest.raises(SystemExit) as stop:
        run(prompts, ram / "study")
    assert stop.value.code == 2
    kept = 10 if isinstance(error, str) else 5
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: argument --out: ") and re.search("is full|No space left", last)
    assert (
        last.endswith(f"after {kept} of 18 pictures; the same command goes on") and len(images(ram / "study")) == kept
    )


def test_what_was_deleted_is_made_again(made, prompts, ram):
    out = ram / "study"
    run(prompts, out)
    picture, trace, *_ = images(out)
    (out / picture.file).unlink()
    (out / trace.trace).unlink()
    made.clear()
    run(prompts, out)
    scales = {"static:2": 2.0, "interval:5": 5.0}
    assert sorted(made) == sorted((scales[image.method], image.prompt, image.seed) for image in (picture, trace))
    found = {image.key: image for image in images(out)}
    assert len(found) == 18 and all(image.is_in(out) for image in found.values())
    (out / picture.file).unlink()
    assert gallery.write(out).read_text().count('loading="lazy"') == 17  # of what is there


def test_categories_that_come_later_are_kept(made, ram):
    out = ram / "study"
    for category in ("", "count", "", "colour"):
        (ram / "prompts.csv").write_text(f"prompt,category\na red star,{category}\n")
        run(str(ram / "prompts.csv"), out)
        with Manifest(out, read_only=True) as manifest:
            (prompt,) = manifest.prompts()
        assert prompt.category == category or not category
    assert prompt.category == "colour" and len(made) == 6


def test_a_finished_study_loads_no_model(made, prompts, ram, monkeypatch, capsys):
    arguments = ["--methods", "static:2", "--steps", "3"]
    run(prompts, ram / "study", *arguments)
    loads = []
    load = generate.load
    monkeypatch.setattr(generate, "load", lambda args: loads.append(args) or load(args))
    run(prompts, ram / "study", *arguments)
    run(prompts, ram / "study", *arguments, "--seeds", "0")
    assert loads == []
    with pytest.raises(SystemExit):  # nor does one with other settings
        run(prompts, ram / "study", "--methods", "static:2", "--steps", "4", "--seeds", "99")
    assert loads == [] and "made with 3, not 4" in capsys.readouterr().err
    run(prompts, ram / "study", *arguments, "--seeds", "0:5")
    assert len(loads) == 1


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
    methods = ["static:3", "interval:3:0:0.2", "dynamic", "budget:9", "noise:3", "halving"]
    arguments = [str(file), "--methods", *methods, "--seeds", "4", "5", "--steps", "2"]
    main([*arguments, "--out", str(ram / "study")])
    main([str(file), "--methods", "static:3", "--seeds", "5", "--steps", "2", "--out", str(ram / "alone")])
    found = {(image.method, image.seed): image for image in images(ram / "study")}
    assert len(found) == 12
    pixels = {key: np.asarray(Image.open(ram / "study" / image.file)).astype(int) for key, image in found.items()}
    (alone,) = images(ram / "alone")
    again = np.asarray(Image.open(ram / "alone" / alone.file)).astype(int)
    assert abs(again - pixels["static:3", 5]).max() <= 2
    assert abs(pixels["static:3", 4] - pixels["static:3", 5]).max() > 2
    searched = GuidanceTrace.from_json(ram / "study" / found["noise:3", 4].trace)
    first, last = searched.steps
    assert set(first["noise"]) <= {0, 1, 2} and "noise" not in last  # which adds none
    trace = GuidanceTrace.from_json(ram / "study" / found["dynamic", 4].trace)
    assert trace.candidates and trace.prompt == ["two red circles, one star"]
