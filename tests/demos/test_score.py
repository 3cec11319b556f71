"""`demos.score`: judges of pictures beside the people of a study."""

import argparse
import sqlite3
from contextlib import closing

import numpy as np
import pandas as pd
import pytest
import small_judges
import torch
from PIL import Image
from study_folder import METHODS, PROMPTS, make

from demos import panel, score
from demos.study import command as study
from demos.study import judges, preference, report
from demos.study.scores import SCORES, ScoreStore, read_scores
from demos.study.votes import Settings, VoteStore


class Bright:
    """Prefers the brighter left half; of one prompt it cannot tell, and one other it does not answer."""

    name, space = "open_clip", "pixels"

    def __init__(self):
        self.seen = []

    def __call__(self, candidates, context):
        self.seen += context.prompt * candidates.shape[1]
        scores = candidates[..., :8].mean(dim=(2, 3, 4))
        if context.prompt == [PROMPTS[1].text]:
            return torch.zeros_like(scores)
        return scores * float("nan") if context.prompt == [PROMPTS[2].text] else scores


@pytest.fixture
def folder(ram):
    """Of each prompt two seeds; the first method's pictures are dark on the left, the second's at the bottom."""
    return make(ram / "study")


@pytest.fixture
def bright(monkeypatch):
    judge = Bright()
    monkeypatch.setattr(panel, "load", lambda args, pipe: [judge])
    return judge


def vote(folder, wanted):
    """Each of two raters on every pair, for the method that `wanted` says of rater and prompt."""
    store = VoteStore(folder, Settings(check_every=0))
    for name in ("ann", "bob"):
        rater, place = store.invite(name), None
        while True:
            task, place = store.task(rater, place)
            if task is None:
                break
            column = METHODS.index(wanted(name, task.prompt))
            side = "left" if task.left[-7] == str(column) else "right"
            store.vote(rater, task.assignment, task.question, side)
            place += 1
    store.close()


def test_scores_of_every_picture_once(folder, bright, monkeypatch, capsys):
    score.main([str(folder), "--judges", "open_clip", "--batch-size", "3", "--device", "cpu"])
    captured = capsys.readouterr()
    assert "nobody has voted yet" in captured.err
    assert captured.out.splitlines()[-1] == str(folder / "scores.csv")
    assert sorted(bright.seen) == sorted(prompt.text for prompt in PROMPTS for _ in range(4))
    table = pd.read_csv(folder / "scores.csv").set_index(["prompt", "method", "seed"])["open_clip"]
    assert len(table) == 12 and table[PROMPTS[2].text].isna().all() and (table[PROMPTS[1].text] == 0).all()
    for column, method in enumerate(METHODS):
        picture = Image.open(folder / f"images/0/{column}_1.png").crop((0, 0, 8, 32))
        pixels = np.asarray(picture).mean() / 255
        assert table[PROMPTS[0].text, method, 1] == pytest.approx(pixels, abs=1e-5)

    def not_again(args, pipe):
        raise AssertionError("there is nothing to score")

    bright.seen.clear()
    monkeypatch.setattr(panel, "load", not_again)
    score.main([str(folder), "--judges", "open_clip", "--device", "cpu"])
    assert bright.seen == []


def test_agreement_with_the_votes(folder, bright, capsys):
    score.main([str(folder), "--judges", "open_clip", "--device", "cpu"])
    own = judges.preferences(read_scores(folder), "open_clip")
    assert len(own) == 4 and set(own["preferred"][own["prompt"] == PROMPTS[1].text]) == {"tie"}
    (theirs,) = set(own["preferred"][own["prompt"] == PROMPTS[0].text])
    likes, other = METHODS if theirs == "a" else METHODS[::-1]
    vote(folder, lambda name, prompt: likes if name == "ann" or prompt != PROMPTS[0].text else other)
    votes = report.read_votes(folder)
    found = judges.summarize(read_scores(folder), votes)
    (row,) = found["judges"]
    (pair,) = row["pairs"]
    assert (pair["pictures"], pair["ties"]) == (4, 2) and pair["rate"] == (0.75 if theirs == "a" else 0.25)
    # Of the first prompt ann's two votes and not bob's, of the second all four half; the third has no scores.
    assert row["agreement"]["overall"]["votes"] == 8
    assert row["agreement"]["overall"]["rate"] == pytest.approx((2 + 4 * 0.5) / 8)
    interval = preference.clustered_interval(
        pd.Series([1, 1, 0, 0, 0.5, 0.5, 0.5, 0.5]).to_numpy(), pd.Series([0] * 4 + [1] * 4).to_numpy()
    )
    assert row["agreement"]["overall"]["interval"] == pytest.approx(interval)
    assert found["people"] == {"overall": pytest.approx(4 / 6)}  # ann and bob differ on both pairs of one prompt

    capsys.readouterr()
    study.main([str(folder), "--report"])
    said = capsys.readouterr().out
    assert "open_clip: agrees with people (overall) in 50.0 %, 95 % " in said and "two raters agree in 66.7 %" in said
    assert f"open_clip: {likes} has the higher score than {other} in 75.0 %" in said
    page = (folder / "report.html").read_text()
    assert "agrees with people" in page and "<script" not in page
    table = pd.read_csv(folder / "votes.csv")
    scores = read_scores(folder).set_index(["prompt", "method", "seed"])["open_clip"]
    assert len(table) == 12
    for line in table[table["prompt"] == PROMPTS[0].text].itertuples():
        assert line.open_clip_a == pytest.approx(scores[line.prompt, line.method_a, line.seed])
        assert line.open_clip_b == pytest.approx(scores[line.prompt, line.method_b, line.seed])


def test_a_stop_loses_nothing(folder, bright, monkeypatch, capsys):
    add, calls = ScoreStore.add, []

    def stops(store, judge, scored):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(judge)
        add(store, judge, scored)

    monkeypatch.setattr(ScoreStore, "add", stops)
    with pytest.raises(SystemExit) as stop:
        score.main([str(folder), "--judges", "open_clip", "--device", "cpu"])
    assert stop.value.code == 130 and capsys.readouterr().err.endswith("stopped; the same command goes on\n")
    bright.seen.clear()
    monkeypatch.setattr(ScoreStore, "add", add)
    score.main([str(folder), "--judges", "open_clip", "--device", "cpu"])
    assert len(bright.seen) == 4
    with closing(sqlite3.connect(folder / SCORES)) as connection:
        assert connection.execute("SELECT count(*) FROM scores").fetchone() == (12,)


def test_a_real_judge_from_a_folder(folder, tmp_path, capsys):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        judge = small_judges.save_open_clip(tmp_path / "judge")
    score.main([str(folder), "--judges", f"open_clip={judge}", "--device", "cpu"])
    scores = read_scores(folder)
    assert scores["open_clip"].notna().all() and scores["open_clip"].std() > 0
    args = argparse.Namespace(evaluators={"open_clip": str(judge)}, model=None, calibration=None)
    (evaluator,) = panel.load(args, None)
    row = scores.iloc[0]
    with Image.open(folder / f"images/{[p.text for p in PROMPTS].index(row['prompt'])}/0_{row['seed']}.png") as picture:
        assert row["method"] == METHODS[0]
        image = torch.tensor(np.array(picture.convert("RGB"))).permute(2, 0, 1).float() / 255
    assert evaluator.judge(image[None], [row["prompt"]]).item() == pytest.approx(row["open_clip"], abs=1e-4)
    with pytest.raises(SystemExit):  # scores of another judge are not mixed with these
        score.main([str(folder), "--judges", "open_clip=ViT-B-32/openai", "--device", "cpu"])
    assert "was scored by open_clip from" in capsys.readouterr().err


BAD = {
    "no study": (["{tmp}/none", "--judges", "open_clip"], "no study"),
    "no judge": (["{tmp}/study"], "--judges"),
    "unknown": (["{tmp}/study", "--judges", "taste"], "taste judges no pictures"),
    "of latents": (["{tmp}/study", "--judges", "clip", "ocr"], "clip judges no pictures"),
    "twice": (["{tmp}/study", "--judges", "open_clip", "open_clip=x/y"], "distinct"),
    "does not load": (["{tmp}/study", "--judges", "open_clip={tmp}"], "open_clip cannot be loaded"),
    "device": (["{tmp}/study", "--judges", "open_clip", "--device", "abacus"], "--device"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(ram, folder, capsys, case):
    given, named = BAD[case]
    with pytest.raises(SystemExit) as stop:
        score.main([argument.replace("{tmp}", str(ram)) for argument in given])
    captured = capsys.readouterr()
    assert stop.value.code == 2 and captured.out == "" and named in captured.err
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert read_scores(folder) is None
