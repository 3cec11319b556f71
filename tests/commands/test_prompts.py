"""Files of prompts, as the benchmarks that people use lay them out."""

import sys
import types

import numpy as np
import pandas as pd
import pytest

from commands.prompts import Prompt, read


def test_text(tmp_path):
    file = tmp_path / "p.txt"
    file.write_text("\ufeffun cœur rouge\n\n  a star  \na star\n", encoding="utf-8")
    assert read(str(file)) == [Prompt("un cœur rouge"), Prompt("a star")]


def test_parti_prompts(tmp_path):
    file = tmp_path / "PartiPrompts.tsv"
    file.write_text('Prompt\tCategory\tChallenge\tNote\nnull\tAbstract\tBasic\tx\na "b", c\tArts\tImagination\t\n')
    assert read(str(file)) == [Prompt("null", "Abstract"), Prompt('a "b", c', "Arts")]


def test_draw_bench(tmp_path):
    file = tmp_path / "drawbench.csv"
    file.write_text("Prompts,Category\n\"A red car, parked.\",Colors\nA sign that says 'Hi'.,Text\n")
    assert read(str(file)) == [Prompt("A red car, parked.", "Colors"), Prompt("A sign that says 'Hi'.", "Text")]


@pytest.mark.parametrize(
    "tags", [["counting", "logic"], np.array(["counting", "logic"]), {"a": ["counting"], "b": "logic"}]
)
def test_gen_ai_bench(tmp_path, tags):
    file = tmp_path / "bench.parquet"
    pd.DataFrame({"Index": ["0"], "Prompt": ["three cats"], "Tags": [tags]}).to_parquet(file)
    assert read(str(file)) == [Prompt("three cats", "counting; logic")]


def test_json_lines(tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "2024-01-01", "tags": ["a"]}\n{"prompt": "b", "tags": null}\n{"prompt": null}\n')
    assert read(str(file)) == [Prompt("2024-01-01", "a"), Prompt("b")]


def test_data_set(monkeypatch):
    class Split:
        column_names = ("Prompt", "Category", "Image")

        def select_columns(self, names):
            assert names == ["Prompt", "Category"]
            return self

        def to_pandas(self):
            return pd.DataFrame({"Prompt": ["a cat"], "Category": ["Animals"]})

    def load_dataset(name, split):
        assert name == "owner/prompts"
        return {"train": Split(), "test": Split()} if split is None else Split()

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    assert read("owner/prompts:test") == [Prompt("a cat", "Animals")]
    with pytest.raises(ValueError, match="several splits"):
        read("owner/prompts")


def test_data_set_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match="pip install"):
        read("owner/prompts")


BAD = {
    "none.csv": None,
    "ending.json": "{}",
    "columns.csv": "a,b\n1,2\n",
    "empty.csv": "",
    "nothing.csv": "prompt,category\n,x\n",
    "broken.jsonl": "{",
    "latin.txt": b"caf\xe9\n",
    "broken.parquet": "x",
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(tmp_path, name):
    if BAD[name] is not None:
        (tmp_path / name).write_bytes(BAD[name] if isinstance(BAD[name], bytes) else BAD[name].encode())
    with pytest.raises(ValueError, match=name):
        read(str(tmp_path / name))
