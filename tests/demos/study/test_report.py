"""The report: who counts, what is written, and that nothing in it is taken for markup or a formula."""

import json
import sqlite3
from contextlib import closing

import pandas as pd
import pytest
from study_folder import PROMPTS, make

from commands.pairs import read_pairs
from commands.prompts import Prompt
from demos.study import command as study
from demos.study import report, report_page
from demos.study.votes import VOTES, Settings, VoteStore
from evaluators import LatentCLIP, load_evaluator
from guidance import GreedySearch
from pipelines import TinyWorldPipeline
from training import reward as train_reward


def vote(store, rater, prefer):
    """All pairs; `prefer` gets a task's two methods by their column in `study_folder` and says left, tie or right."""
    place = None
    while True:
        task, place = store.task(rater, place)
        if task is None:
            return
        store.vote(rater, task.assignment, task.question, prefer(task))
        place += 1


def first(task):
    """The first method, and the whole picture in a check."""
    if task.check:
        return "left" if task.check == "right" else "right"
    return "left" if task.left[-7] == "0" else "right"


@pytest.fixture
def folder(ram):
    folder = make(ram / "study")
    store = VoteStore(folder, Settings(("overall", "alignment"), check_every=2))
    for name in ("ann", "=HYPERLINK(1)", "<script>alert(2)</script>"):
        vote(store, store.invite(name), first)
    vote(store, store.new_rater(), lambda task: first(task) if task.check else "tie")
    careless = store.invite("careless")
    vote(store, careless, lambda task: task.check or ("left" if first(task) == "right" else "right"))
    store._connection.execute(
        "INSERT OR IGNORE INTO assignments (rater, pair, a_is_left, is_check, created) "
        "SELECT ?, id, 1, 1, 0 FROM pairs",
        (careless,),
    )
    vote(store, careless, lambda task: task.check or "tie")
    store.close()
    return folder


def test_summary(folder):
    votes = report.read_votes(folder)
    summary = report.summarize(votes)
    assert summary["excluded_raters"] == ["careless"] and summary["excluded_votes"] == 12
    assert (summary["votes"], summary["raters"], summary["prompts"]) == (4 * 12, 4, 3)
    for question in ("overall", "alignment"):
        (pair,) = summary["questions"][question]["pairs"]
        assert (pair["a"], pair["b"]) == ("dynamic", "static:4")
        assert (pair["a_wins"], pair["ties"], pair["b_wins"]) == (18, 6, 0)
        assert pair["decided"]["rate"] == 1 and pair["decided"]["p"] == pytest.approx(2 / 2**18)
        assert pair["with_ties"]["rate"] == pytest.approx(21 / 24)
        assert {name: part["votes"] for name, part in pair["categories"].items()} == {"count": 16, "text": 16}
        strengths = summary["questions"][question]["strengths"]
        assert [row["method"] for row in strengths] == ["dynamic", "static:4"]
    assert json.loads(json.dumps(summary)) == json.loads(json.dumps(summary, allow_nan=False))


def test_every_rater(folder):
    votes = report.read_votes(folder)
    rows = {row["rater"]: row for row in report.summarize(votes)["per_rater"]}
    assert set(rows) == {"ann", "=HYPERLINK(1)", "<script>alert(2)</script>", "r4", "careless"}
    assert rows["ann"]["votes"] == rows["careless"]["votes"] == 12
    assert rows["ann"]["ties"] == 0 and rows["r4"]["ties"] == 1 and rows["r4"]["left"] is None
    mine = votes[(votes["rater"] == "ann") & ~votes["is_check"]]
    assert rows["ann"]["left"] == pytest.approx((mine["choice"] == "left").mean())
    assert rows["ann"]["checks_passed"] == rows["ann"]["checks"]
    assert rows["careless"]["checks"] >= 6 and rows["careless"]["checks_passed"] == 0
    assert all(row["seconds"] >= 0 for row in rows.values())


def test_holm_is_over_all_pairs_and_questions_and_apart_over_categories(folder):
    summary = report.summarize(report.read_votes(folder))
    pairs = [found["pairs"][0] for found in summary["questions"].values()]
    assert [pair["decided"]["p_holm"] for pair in pairs] == pytest.approx([2 * pair["decided"]["p"] for pair in pairs])
    parts = [part["decided"] for pair in pairs for part in pair["categories"].values()]
    assert len(parts) == 4 and [part["p_holm"] for part in parts] == pytest.approx([4 * part["p"] for part in parts])
    page = report_page.page(summary)
    assert "dynamic is preferred to static:4" in page and page.count('class="line part"') == 4
    assert report_page.LOOKS in page


@pytest.mark.parametrize(
    "rate, low, high, p, adjusted, said",
    [
        (0.571, 0.53, 0.611, 0.001, 0.001, "a is preferred to b: 57.1 %, 95 % 53.0–61.1, p = 0.0010, "),
        (
            0.429,
            0.389,
            0.47,
            0.001,
            0.003,
            "b is preferred to a: 57.1 %, 95 % 53.0–61.1, p = 0.0010 (by Holm 0.0030), ",
        ),
        (
            0.571,
            0.5,
            0.64,
            0.04,
            0.12,
            "a is not shown to be preferred to b: 57.1 %, 95 % 50.0–64.0, p = 0.0400 (by Holm 0.1200",
        ),
        (None, None, None, None, None, "a and b were never told apart: 560 votes, 0 ties, by 1 rater"),
    ],
)
def test_a_pair_in_a_sentence(rate, low, high, p, adjusted, said):
    decided = {"rate": rate, "low": low, "high": high, "p": p, "p_holm": adjusted}
    pair = {"a": "a", "b": "b", "votes": 560, "ties": 0, "bad": 0, "raters": 1, "decided": decided}
    assert report_page.sentence(pair).startswith(said)
    assert report_page.sentence(pair).endswith("560 votes, 0 ties, by 1 rater")
    assert report_page.sentence(pair | {"bad": 3}).endswith("560 votes, 0 ties, 3 for both bad, by 1 rater")


def test_both_bad_counts_in_no_rate_and_trains_nothing(ram):
    folder = make(ram / "study")
    store = VoteStore(folder, Settings(check_every=0))
    vote(store, store.invite("ann"), lambda task: "bad" if "sign" in task.prompt else first(task))
    vote(store, store.invite("bob"), lambda task: "tie" if "sign" in task.prompt else first(task))
    votes = report.read_votes(folder)
    assert (votes["preferred"] == "bad").sum() == 2
    summary = report.summarize(votes)
    (pair,) = summary["questions"]["overall"]["pairs"]
    assert [pair[key] for key in ("votes", "a_wins", "ties", "b_wins", "bad")] == [12, 8, 2, 0, 2]
    assert pair["decided"]["rate"] == 1 and pair["decided"]["p"] == pytest.approx(2 / 2**8)
    assert pair["with_ties"]["rate"] == pytest.approx(9 / 10)  # ten votes: two of them ties
    without = report.summarize(votes[votes["preferred"] != "bad"])["questions"]["overall"]
    assert without["strengths"] == summary["questions"]["overall"]["strengths"]
    assert without["alpha"] != summary["questions"]["overall"]["alpha"]  # but that they differ from ties is known
    rows = {row["rater"]: row for row in summary["per_rater"]}
    assert rows["ann"]["bad"] == pytest.approx(1 / 3) and rows["ann"]["ties"] == 0 == rows["bob"]["bad"]
    pairs = report.pairs_of(votes)
    assert len(pairs) == 10 and sum(pair.tie for pair in pairs) == 2
    assert "10 votes" not in report_page.text(summary) and "2 for both bad" in report_page.text(summary)
    all_bad = report.summarize(votes[votes["preferred"] == "bad"])
    assert "were never told apart: 2 votes, 0 ties, 2 for both bad" in report_page.text(all_bad)
    report_page.page(all_bad)


def test_where_the_intervals_lie():
    def row(rate, low, high):
        return {"decided": {"rate": rate, "low": low, "high": high}}

    pair = {"a": "x", "b": "y", **row(0.6, 0.45, 0.72), "categories": {"count": row(0.3, 0.21, 0.55)}}
    tied = {"a": "x", "b": "z", **row(None, None, None), "categories": {}}
    plot = report_page.forest([pair, tied])
    assert (plot["first"], plot["last"], plot["half"]) == (20, 80, 50)
    assert plot["rows"] == [
        {"name": "x against y", "part": False, "rate": 66.67, "low": 41.67, "width": 45},
        {"name": "count", "part": True, "rate": 16.67, "low": 1.67, "width": pytest.approx(56.66)},
    ]
    assert report_page.forest([tied]) is None


def test_sides_do_not_matter(folder):
    votes = report.read_votes(folder)
    theirs = votes[~votes["rater"].isin(["r4", "careless"]) & ~votes["is_check"]]  # 18 pairs: all on one side never
    assert set(theirs["choice"]) == {"left", "right"} and set(theirs["preferred"]) == {"a"}


def test_files(folder, capsys):
    study.main([str(folder), "--report"])
    out = capsys.readouterr().out
    said = "dynamic is preferred to static:4: 100.0 %, 95 % 82.4–100.0, p < 0.0001"
    counts = "24 votes, 6 ties, by 4 raters; at any time 71.9–100.0 %"
    assert f"overall: {said} (by Holm < 0.0001), {counts}" in out.splitlines()
    assert report_page.LOOKS in out
    assert "left out: 12 votes of careless, who failed attention checks" in out.splitlines()
    page = (folder / "report.html").read_text()
    assert "<script" not in page and json.loads((folder / "report.json").read_text())["votes"] == 48
    table = pd.read_csv(folder / "votes.csv")
    assert "'=HYPERLINK(1)" in set(table["rater"])
    assert not table.astype(str).map(lambda cell: cell[:1] in "=+@").any(axis=None)
    exact = pd.read_parquet(folder / "votes.parquet")
    assert "=HYPERLINK(1)" in set(exact["rater"]) and len(exact) == len(table)
    pairs = read_pairs(folder / "pairs.jsonl")
    assert len(pairs) == 48 and {pair.question for pair in pairs} == {"overall", "alignment"}
    assert sum(pair.tie for pair in pairs) == 12
    assert all(pair.chosen[-7] == "0" and pair.rejected[-7] == "1" for pair in pairs if not pair.tie)
    assert {pair.prompt for pair in pairs} == {prompt.text for prompt in PROMPTS}


def test_secrets_of_raters_are_in_no_file(folder):
    report.write(folder)
    with closing(sqlite3.connect(folder / VOTES)) as connection:
        ids = [row[0] for row in connection.execute("SELECT id FROM raters")]
    for name in ("report.html", "report.json", "votes.csv", "votes.parquet", "pairs.jsonl"):
        content = (folder / name).read_bytes()
        assert not [rater for rater in ids if rater.encode() in content]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_guard(text):
    assert report.guard(text) == "'" + text
    assert report.guard(f"a{text}") == f"a{text}" and report.guard(-1.5) == -1.5


def test_no_votes_yet(ram, capsys):
    make(ram / "study")
    with pytest.raises(SystemExit) as stop:
        study.main([str(ram / "study"), "--report"])
    assert stop.value.code == 2 and "nobody has voted" in capsys.readouterr().err
    VoteStore(ram / "study").close()
    assert report.summarize(report.read_votes(ram / "study"))["votes"] == 0
    report.write(ram / "study")


def test_votes_become_a_reward_that_guides(ram, embedded, tmp_path):
    """What docs/run_a_study.md says of the reward, with no more arguments than there."""
    judged = ["--clip", str(embedded / "clip"), "--model", str(embedded / "text_to_image")]
    prompts = [Prompt(f"{count} red {shape}s", "count") for count in ("two", "three") for shape in ("star", "circle")]
    folder = make(ram / "study", prompts=prompts, side=64)
    store = VoteStore(folder, Settings(check_every=0))
    vote(store, store.invite("ann"), first)
    store.close()
    _, paths = report.write(folder)
    train_reward.main(
        ["--pairs", str(paths[-1]), *judged, "--out", str(tmp_path), "--steps", "60", "--batch-size", "8"]
    )
    made = json.loads((tmp_path / "report.json").read_text())
    assert (made["pairs"], made["test_pairs"]) == (8, 2)
    assert made["ranking_accuracy"]["0.02"] == 1  # ann likes the one gradient, of any prompt
    reward = load_evaluator("reward", tmp_path / "reward", clip=LatentCLIP.from_pretrained(embedded / "clip").eval())
    pipe = TinyWorldPipeline.from_pretrained()
    search = GreedySearch([reward], scales=(2.0, 8.0))
    trace = pipe("two red stars", num_inference_steps=2, guidance=search, output_type="latent").guidance_trace
    assert [name for name, scores in trace.steps[0]["scores"].items() if scores.std() > 0] == ["reward"]
