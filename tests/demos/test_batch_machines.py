"""`demos.batch` on several machines, which share one folder."""

import subprocess
import sys
from dataclasses import replace

import pytest
from batch_runs import images, run
from filelock import FileLock

from demos.manifest import Manifest, pictures
from demos.painting import plan


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


@pytest.mark.slow
def test_accelerate_launch(prompts, ram):
    launch = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no -m demos.batch"
    batch = "--methods static:2 dynamic --seeds 0:2 --steps 2 --device cpu --out"
    command = [sys.executable, "-m", "accelerate.commands.launch", *launch.split(), prompts, *batch.split()]
    subprocess.run([*command, str(ram / "study")], check=True, timeout=900)
    assert len(images(ram / "study")) == 12
