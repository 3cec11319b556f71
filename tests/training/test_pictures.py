"""Where captioned pictures come from: every source gives the same pictures, and bad ones are named."""

import io
import json
import sys
import tarfile
import types

import numpy as np
import pytest
from PIL import Image

from training.pictures import read
from training.votes import Votes, by_prompt


def picture(i: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(i).integers(0, 255, (8 + i, 12, 3), np.uint8))


def encoded(i: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    picture(i).save(file, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return file.getvalue()


def folder(tmp_path, rows: list[dict]):
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(encoded(i))
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    return str(tmp_path)


ROWS = [
    {"file_name": "0.png", "text": "a  fox\n"},
    {"file_name": "1.png", "caption": ["a fox", "an animal"], "negative": "a cat"},
    {"file_name": "2.png", "prompt": "snow \u2028 fox", "negative": ["a", "b"]},
]
SAID = [(("a fox",), ()), (("a fox", "an animal"), ("a cat",)), (("snow fox",), ("a", "b"))]


def check(pictures, said=SAID):
    assert len(pictures) == 3
    assert [(picture.captions, picture.wrong) for picture in pictures] == said
    for i in (2, 0, 1):  # in any order
        assert pictures[i].size == (12, 8 + i)
        assert np.array_equal(np.asarray(pictures[i].image()), np.asarray(picture(i)))


def test_metadata(tmp_path):
    check(read(folder(tmp_path, ROWS)))


def test_text_beside_the_picture(tmp_path):
    (tmp_path / "b").mkdir()
    for i, place in enumerate(["a.webp", "b/x.png", "b/y.PNG"]):
        (tmp_path / place).write_bytes(encoded(i, "WEBP" if "webp" in place else "PNG"))
        (tmp_path / place).with_suffix(".txt").write_text(f" {SAID[i][0][0]}\n")
    check(read(str(tmp_path)), [(texts[:1], ()) for texts, _ in SAID])


@pytest.mark.parametrize("several", [False, True])
def test_webdataset(tmp_path, several):
    files = [
        ("d/0.png", encoded(0)),
        ("d/0.txt", b"a fox"),
        ("d/1.json", json.dumps({"caption": ["a fox", "an animal"], "negative": "a cat"}).encode()),
        ("d/1.webp", encoded(1, "WEBP")),
        ("d/readme.txt", b"no picture"),
        ("2.json", json.dumps({"text": "of the json", "negative": ["a", "b"]}).encode()),
        ("2.txt", "snow \u2028 fox".encode()),
        ("2.png", encoded(2)),
    ]
    for name, part in (("a.tar", files[:4]), ("b.tar", files[4:])) if several else [("a.tar", files)]:
        with tarfile.open(tmp_path / name, "w") as tar:
            for member, data in part:
                info = tarfile.TarInfo(member)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    check(read(str(tmp_path if several else tmp_path / "a.tar")))


class Rows:
    """Of the package `datasets`, as far as it is called."""

    def __init__(self, rows: list[dict], features: dict):
        self.rows, self.features, self.column_names = rows, features, list(features)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return {name: self.rows[i].get(name) for name in self.column_names}

    def select_columns(self, names):
        return Rows(self.rows, {name: self.features[name] for name in names})


def stub(monkeypatch, rows: list[dict], **features):
    def load_dataset(name, split):
        assert name == "me/foxes"
        return Rows(rows, features) if split else {"train": Rows(rows, features), "test": None}

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))


def test_data_set(monkeypatch):
    image = type("Image", (), {})()
    rows = [{"image": picture(i), "text": list(SAID[i][0]), "negative": list(SAID[i][1])} for i in range(3)]
    stub(monkeypatch, rows, id=None, text=None, image=image, negative=None)
    check(read("me/foxes:train"))
    with pytest.raises(ValueError, match="several splits, give one as me/foxes:SPLIT: train, test"):
        read("me/foxes")
    stub(monkeypatch, rows, text=None)
    with pytest.raises(ValueError, match="no column of pictures, there are text"):
        read("me/foxes:train")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match="takes the package datasets"):
        read("me/foxes:train")


@pytest.mark.parametrize(
    "row, message",
    [
        ({"file_name": "3.png", "text": "a"}, r"metadata.jsonl' line 1: no picture '3.png'"),
        ({"file_name": "../0.png", "text": "a"}, "no picture '../0.png'"),
        ({"file_name": "0.png"}, "line 1 has no caption: there is nothing under text, caption"),
        ({"file_name": "0.png", "text": ["", " "]}, "has no caption"),
        ({"file_name": "0.png", "text": 3}, "'text' must be a string or a list of strings, got 3"),
        ({"text": "a"}, "must be an object with a `file_name`"),
    ],
)
def test_a_bad_line_is_named(tmp_path, row, message):
    with pytest.raises(ValueError, match=message):
        read(folder(tmp_path, [row]))


def test_what_is_no_source_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"no folder, \.tar file or id"):
        read("nothing/at/all")
    with pytest.raises(ValueError, match=r"holds no metadata\.jsonl"):
        read(str(tmp_path))
    (tmp_path / "a.png").write_bytes(encoded(0))
    with pytest.raises(ValueError, match=r"a\.png' has no caption: there is no \.txt"):
        read(str(tmp_path))
    (tmp_path / "a.tar").write_bytes(b"no tar")
    with pytest.raises(ValueError, match=r"a\.tar' cannot be read"):
        read(str(tmp_path))


def test_a_broken_picture_is_named(tmp_path):
    pictures = read(folder(tmp_path, ROWS))
    (tmp_path / "1.png").write_bytes(encoded(1)[:-40])
    with pytest.raises(ValueError, match=r"picture '.*1.png' cannot be read: "):
        pictures[1].image()


def test_pictures_are_upright_and_on_white(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned
    picture(0).save(tmp_path / "a.jpg", exif=exif)
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "b.png")
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(name)
    turned, clear = read(str(tmp_path))
    assert turned.size == turned.image().size == (8, 12)
    assert clear.image().getpixel((0, 0)) == (255, 255, 255)


def pick_a_pic(labels: list[tuple]) -> dict[str, list]:
    return {
        "caption": [f"prompt {i}" for i in range(len(labels))],
        "jpg_0": [encoded(i) for i in range(len(labels))],
        "jpg_1": [encoded(i + 10) for i in range(len(labels))],
        "label_0": [first for first, _ in labels],
        "label_1": [second for _, second in labels],
    }


@pytest.mark.parametrize("kind", ["parquet", "data set"])
def test_the_columns_of_pick_a_pic(tmp_path, monkeypatch, kind):
    import pyarrow
    import pyarrow.parquet

    columns = pick_a_pic([(1, 0), (0, 1), (0.5, 0.5), (None, None), (0, 1)])
    source = str(tmp_path / "p.parquet")
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.table(columns), source, row_group_size=2)
    else:
        source = "me/foxes:train"
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        stub(monkeypatch, rows, **dict.fromkeys(columns))
    votes = Votes([source])
    assert votes.prompts == ["prompt 0", "prompt 1", "prompt 2", "prompt 4"] and len(votes) == 8
    assert votes.tie.tolist() == [False, False, True, False]
    heights = [[votes[int(i)].size[1] for i in side] for side in (votes.chosen, votes.rejected)]
    assert heights == [[8, 19, 10, 22], [18, 9, 20, 12]]
    train, test = by_prompt(votes, 0)
    assert len(train) + len(test) in (3, 4) and not set(train) & set(test)


def test_a_table_of_something_else_is_said(tmp_path):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"caption": ["a"]}), tmp_path / "p.parquet")
    with pytest.raises(ValueError, match="has no column label_0, label_1, jpg_0, jpg_1: there are caption"):
        Votes([tmp_path / "p.parquet"])
    with pytest.raises(ValueError, match=r"no \.jsonl or \.parquet file"):
        Votes([tmp_path / "none.parquet"])
