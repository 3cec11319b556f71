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


def test_a_line_ends_where_an_editor_ends_it(tmp_path):
    file = tmp_path / "p.txt"
    file.write_bytes("a fox\u2028in the snow\r\na cat\u0085\x0bon a mat\ra dog\n".encode())
    assert read(str(file)) == [Prompt("a fox\u2028in the snow"), Prompt("a cat\u0085\x0bon a mat"), Prompt("a dog")]


def test_parti_prompts(tmp_path):
    file = tmp_path / "PartiPrompts.tsv"
    cells = [["null", "Abstract", "Basic", "x"], ['a "b", c', "Arts", "Imagination", ""]]
    cells += [['"G I G" in chalk', "Arts", "", ""], ['"a ""quoted"" fox"', "Arts", "", '"']]
    file.write_text("".join("\t".join(row) + "\n" for row in [["Prompt", "Category", "Challenge", "Note"], *cells]))
    expected = [Prompt("null", "Abstract"), Prompt('a "b", c', "Arts"), Prompt('"G I G" in chalk', "Arts")]
    assert read(str(file)) == [*expected, Prompt('a "quoted" fox', "Arts")]


def test_draw_bench(tmp_path):
    file = tmp_path / "drawbench.csv"
    file.write_text("Prompts,Category\n\"A red car, parked.\",Colors\nA sign that says 'Hi'.,Text\n")
    assert read(str(file)) == [Prompt("A red car, parked.", "Colors"), Prompt("A sign that says 'Hi'.", "Text")]


def test_a_cell_over_two_lines_and_empty_lines(tmp_path):
    file = tmp_path / "p.csv"
    file.write_text('prompt,category\n\n"a ""red"" fox,\nrunning",x\n\na cat,\n')
    assert read(str(file)) == [Prompt('a "red" fox,\nrunning', "x"), Prompt("a cat")]


UNQUOTED = {
    "prompt\na fox, red\na cat, blue\n": "line 2 has 2 cells and the header 1",
    'prompt,category\n\n"a\nb",x\na fox, red,x\n': "line 5 has 3 cells and the header 2",
    "prompt,category\na fox\n": "line 2 has 1 cells and the header 2",
    'prompt\na fox\n"Hi" on a sign\n': "line 3: ",
    'prompt\n"a fox\na cat\n': "line 2: ",
}


@pytest.mark.parametrize("text", UNQUOTED)
def test_a_row_that_is_not_as_the_header_is_an_error_with_its_line(tmp_path, text):
    """Else a part of a prompt would be drawn, or its category."""
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(ValueError, match=UNQUOTED[text]) as error:
        read(str(tmp_path / "p.csv"))
    assert "RFC 4180" in str(error.value)


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
