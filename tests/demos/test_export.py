"""`demos.export`: what others' evaluators find, read as their code reads it, and what a recipe trains on."""

import json
import os
import re

import pyarrow.parquet as pq
import pytest
from PIL import Image
from study_folder import make

from commands.prompts import Prompt
from demos import export
from demos.study.pickapic import SCHEMA
from demos.study.votes import Settings, VoteStore
from training.votes import Votes

BENCH, CAKE, OTHER = "a photo of a bench", "a photo of a cake", "two red circles"
ROWS = [{"tag": "single_object", "include": [{"class": name, "count": 1}], "prompt": f"a photo of a {name}"}
        for name in ("cow", "cake", "bench")]  # fmt: skip


@pytest.fixture
def folder(ram):
    return make(ram / "study", prompts=[Prompt(BENCH, "a"), Prompt(CAKE, "b"), Prompt(OTHER, "a")], seeds=(0, 1, 2, 3))


def test_geneval(folder, ram, capsys):
    (ram / "evaluation_metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    export.main([str(folder), "--layout", "geneval", "--prompts", str(ram / "evaluation_metadata.jsonl"),
                 "--out", str(ram / "out")])  # fmt: skip
    said = capsys.readouterr()
    assert said.out.splitlines() == [str(ram / "out" / name) for name in ("dynamic", "static-4")]
    assert "2 of 3 prompts of the benchmark; 1 prompts of the study are not the benchmark's" in said.err
    root, found = ram / "out" / "static-4", {}
    for name in os.listdir(root):  # as evaluate_images.py does
        assert (root / name).is_dir() and name.isdigit()
        metadata = json.loads((root / name / "metadata.jsonl").read_text())
        pictures = os.listdir(root / name / "samples")
        assert all(re.match(r"\d+\.png", picture) for picture in pictures)
        found[name] = metadata, len(pictures)
    assert found == {"00001": (ROWS[1], 4), "00002": (ROWS[2], 4)}
    assert (root / "00002/samples/00003.png").read_bytes() == (folder / "images/0/1_3.png").read_bytes()


def test_t2i_compbench(folder, ram, capsys):
    export.main([str(folder), "--layout", "t2i_compbench", "--methods", "dynamic", "--out", str(ram / "out")])
    assert "ten pictures of each prompt; here are 4" in capsys.readouterr().err
    assert sorted(os.listdir(ram / "out")) == ["dynamic"] and sorted(os.listdir(ram / "out/dynamic")) == ["a", "b"]
    names = os.listdir(ram / "out/dynamic/a/samples")
    names.sort(key=lambda name: int(name.split("_")[-1].split(".")[0]))  # as its evaluators do
    assert [name.split("_")[0] for name in names] == [BENCH] * 4 + [OTHER] * 4
    assert [int(name.split(".png")[0].split("_")[1]) for name in names] == list(range(8))
    assert len(os.listdir(ram / "out/dynamic/b/samples")) == 4


def test_dpg_bench(folder, ram, capsys):
    (ram / "prompts").mkdir()
    for name, text in (("vrd5", CAKE), ("COCOval2014000000002389", f"{BENCH}\n"), ("0", "another")):
        (ram / "prompts" / f"{name}.txt").write_text(text)
    export.main([str(folder), "--layout", "dpg_bench", "--prompts", str(ram / "prompts"), "--out", str(ram / "out")])
    assert "PIC_NUM=4 and the resolution 32" in capsys.readouterr().err
    names = os.listdir(ram / "out/dynamic")
    assert sorted(name.split(".")[0] for name in names) == ["COCOval2014000000002389", "vrd5"]
    grid = Image.open(ram / "out/static-4/vrd5.png")
    assert grid.size == (64, 64)
    for place, (left, top) in enumerate(((0, 0), (32, 0), (0, 32), (32, 32))):
        tile = grid.crop((left, top, left + 32, top + 32))
        assert tile.tobytes() == Image.open(folder / f"images/1/1_{place}.png").convert("RGB").tobytes()


def test_pickapic(folder, ram):
    store = VoteStore(folder, Settings(check_every=0))
    given = {}
    for number, name in enumerate(("ann", "bob")):
        rater = store.invite(name)
        for choice in ("left", "tie", "right"):
            task, _ = store.task(rater)
            store.vote(rater, task.assignment, task.question, choice)
            given[len(given)] = number, task, choice
    store.close()
    export.main([str(folder), "--layout", "pickapic", "--out", str(ram / "out")])
    (name,) = os.listdir(ram / "out")
    file = pq.ParquetFile(ram / "out" / name)
    assert file.schema_arrow.equals(SCHEMA)
    rows = file.read().to_pylist()
    for row, (user, task, choice) in zip(rows, given.values(), strict=True):
        left_is_0 = task.left[-7] == "0"  # method a
        wins = {"left": (1, 0), "tie": (0.5, 0.5), "right": (0, 1)}[choice]
        assert (row["label_0"], row["label_1"]) == (wins if left_is_0 else wins[::-1])
        assert (row["user_id"], row["caption"], row["model_0"]) == (user, task.prompt, "dynamic")
        best = {1: row["image_0_uid"], 0.5: "tie", 0: row["image_1_uid"]}[row["label_0"]]
        assert row["best_image_uid"] == best and row["jpg_0"][:2] == b"\xff\xd8"
        assert row["num_example_per_prompt"] == sum(other["caption"] == task.prompt for other in rows)
    votes = Votes([ram / "out" / name])  # as the recipe of the reward reads them
    assert len(votes.prompts) == 6 and votes.tie.tolist() == [False, True, False] * 2


BAD = {
    "no prompts": (["--layout", "geneval"], "--prompts: is needed for"),
    "prompts": (["--layout", "t2i_compbench", "--prompts", "{tmp}"], "--prompts: does not go with"),
    "question": (["--layout", "geneval", "--prompts", "{tmp}/m.jsonl", "--question", "text"], "--question"),
    "methods": (["--layout", "pickapic", "--methods", "dynamic"], "--methods"),
    "method": (["--layout", "t2i_compbench", "--methods", "cosine:3"], "no picture by cosine:3"),
    "out": (["--layout", "t2i_compbench", "--out", "{tmp}"], "--out"),
    "metadata": (["--layout", "geneval", "--prompts", "{tmp}/bad.jsonl"], "line 2 must be an object with tag"),
    "other prompts": (["--layout", "geneval", "--prompts", "{tmp}/m.jsonl"], "none of the prompts"),
    "no folder of prompts": (["--layout", "dpg_bench", "--prompts", "{tmp}/m.jsonl"], "no folder of .txt files"),
    "underscore": (["--layout", "t2i_compbench"], "no '_'"),
    "no votes": (["--layout", "pickapic"], "nobody has voted"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(ram, capsys, case):
    given, message = BAD[case]
    make(ram / "study", prompts=[Prompt("snake_case")])
    (ram / "m.jsonl").write_text(json.dumps(ROWS[0]))
    (ram / "bad.jsonl").write_text(json.dumps(ROWS[0]) + '\n{"prompt": "a"}\n')
    arguments = [argument.replace("{tmp}", str(ram)) for argument in given]
    with pytest.raises(SystemExit) as stop:
        export.main([str(ram / "study"), *(() if "--out" in given else ("--out", str(ram / "out"))), *arguments])
    captured = capsys.readouterr()
    assert stop.value.code == 2 and captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert message in captured.err and not (ram / "out").exists()
