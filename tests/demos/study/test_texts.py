"""What the page says: the file of texts, and what is wrong with one."""

import re
from pathlib import Path

import pytest
from study_folder import make

from demos.study import command, texts
from demos.study.votes import Settings, VoteStore

DOCS = Path(__file__).parents[3] / "docs" / "run_a_study.md"
GERMAN = {key: f"{key}!" for key in texts.ENGLISH} | {"questions": {"hands": "Hände?"}}


def yaml(own):
    """JSON is YAML."""
    import json

    return json.dumps(own)


def test_the_file_in_the_docs(tmp_path):
    (found,) = re.findall(r"```yaml\n(en:.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "texts.yaml").write_text(found, encoding="utf-8")
    own = texts.read(tmp_path / "texts.yaml")
    args = command.parse([str(tmp_path), "--texts", str(tmp_path / "texts.yaml")])
    settings = command.asked(args, {"questions": ["overall"]})
    assert settings["questions"] == ("hands", "overall")
    whole = texts.whole(own, settings["questions"])
    assert list(whole) == ["en", "de"] and whole["en"]["tie"] == "Tie" and whole["de"]["tie"] == "Gleich"
    assert whole["en"]["purpose"].startswith("We compare")
    assert whole["de"]["questions"]["hands"] == "Auf welchem Bild sind die Hände natürlicher?"
    assert set(whole["de"]) == set(texts.ENGLISH) | {"questions"}


def test_own_questions_are_asked_and_kept(ram):
    folder = make(ram / "study")
    own = {"en": {"questions": {"hands": "Where are the hands better?"}}}
    store = VoteStore(folder, Settings(("hands", "overall"), check_every=0, texts=own))
    store.keep()
    rater = store.new_rater()
    for question in ("hands", "overall"):
        task, _ = store.task(rater)
        assert task.question == question
        store.vote(rater, task.assignment, question, "bad")
    from demos.study.votes import kept

    assert Settings(**kept(folder)) == store.settings  # served again


@pytest.mark.parametrize(
    "own, message",
    [
        ([], "must map languages"),
        ({"English": {}}, "must be a language"),
        ({"en": []}, "must map names to texts"),
        ({"en": {"titel": "x"}}, "has no text titel"),
        ({"en": {"title": " "}}, "en, title must be a text"),
        ({"en": {"title": ["x"]}}, "en, title must be a text"),
        ({"en": {"questions": {}}}, "questions must map"),
        ({"en": {"questions": {"Hands on": "x"}}}, "lower-case"),
        ({"en": {"questions": {"hands": ""}}}, "hands must be a text"),
        ({"en": {"time": "{hours}"}}, r"may hold \{minutes\}, \{pairs\}"),
        ({"en": {"progress": "{done"}}, "progress"),
        ({"de": {key: text for key, text in GERMAN.items() if key not in ("tie", "bad")}}, "lacks tie, bad"),
        ({"en": {}, "de": GERMAN}, "the same in en and de"),
    ],
)
def test_bad_texts(tmp_path, own, message):
    path = tmp_path / "texts.yaml"
    path.write_text(yaml(own), encoding="utf-8")
    with pytest.raises(ValueError, match=message) as error:
        texts.read(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_language_is_no_truth_value_and_a_broken_file_is_said(tmp_path):
    (tmp_path / "texts.yaml").write_text(
        "no:\n" + "".join(f"  {k}: x\n" for k in texts.ENGLISH) + "  questions: {a: b}\n"
    )
    assert list(texts.read(tmp_path / "texts.yaml")) == ["no"]
    (tmp_path / "texts.yaml").write_text("en: [")
    with pytest.raises(ValueError, match="cannot be read as YAML"):
        texts.read(tmp_path / "texts.yaml")


def test_a_question_without_a_text():
    with pytest.raises(ValueError, match="overall has no text in de; there are hands"):
        Settings(("overall",), texts={"de": GERMAN})
    with pytest.raises(ValueError, match="taste has no text in en; there are overall"):
        Settings(("taste",))
