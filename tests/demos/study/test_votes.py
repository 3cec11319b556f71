"""The store of votes: balance, durability, and many raters at once."""

import sqlite3
import threading
import time
from collections import Counter
from contextlib import closing

import pytest
from study_folder import METHODS, PROMPTS, make

from commands.prompts import Prompt
from demos.study.tasks import is_text
from demos.study.votes import OPEN, PACE, VOTES, Settings, VoteStore, kept


@pytest.fixture
def folder(ram):
    return make(ram / "study")


def rows(folder, query):
    with closing(sqlite3.connect(folder / VOTES)) as connection:
        return connection.execute(query).fetchall()


def everything(store, rater, choice="left"):
    """Votes until there is nothing left; returns the tasks."""
    tasks, place = [], None
    while True:
        task, place = store.task(rater, place)
        if task is None:
            return tasks
        store.vote(rater, task.assignment, task.question, choice)
        tasks.append(task)
        place += 1


def test_a_rater_sees_every_pair_once_on_random_sides(folder):
    store = VoteStore(folder, Settings(check_every=0))
    sides = Counter()
    for _ in range(12):
        tasks = everything(store, store.new_rater())
        assert sorted(task.prompt for task in tasks) == sorted(2 * [prompt.text for prompt in PROMPTS])
        for task in tasks:
            assert {task.left[-7], task.right[-7]} == {"0", "1"}  # one by each method
            sides[task.left[-7]] += 1
    assert 15 < sides["0"] < 57  # of 72: five standard deviations of a fair coin
    store.close()


def test_votes_are_on_disk_at_once_and_a_second_replaces_the_first(folder):
    store = VoteStore(folder, Settings(check_every=0))
    rater = store.new_rater()
    task, place = store.task(rater)
    store.vote(rater, task.assignment, "overall", "left")
    assert rows(folder, "SELECT choice FROM votes") == [("left",)]  # by another connection
    again, _ = store.task(rater, place)
    assert (again.assignment, again.choice) == (task.assignment, "left")
    store.vote(rater, task.assignment, "overall", "tie")
    assert rows(folder, "SELECT choice FROM votes") == [("tie",)]
    store.close()
    store = VoteStore(folder, Settings(check_every=0))  # the server starts again
    assert store.task(rater, place)[0].choice == "tie"
    following, where = store.task(rater)
    assert where == place + 1 and following.assignment != task.assignment
    store.close()


def test_nobody_votes_for_another(folder):
    store = VoteStore(folder)
    rater, other = store.new_rater(), store.new_rater()
    task, _ = store.task(rater)
    for arguments in ((other, task.assignment, "overall", "left"), (rater, 999, "overall", "left")):
        with pytest.raises(ValueError, match="not shown"):
            store.vote(*arguments)
    for arguments in ((rater, task.assignment, "taste", "left"), (rater, task.assignment, "overall", "both")):
        with pytest.raises(ValueError, match="must be one of"):
            store.vote(*arguments)
    assert rows(folder, "SELECT count(*) FROM votes") == [(0,)]


def test_names_are_values_and_not_sql(folder):
    store = VoteStore(folder)
    name = "'); DROP TABLE votes; --"
    rater = store.invite(name)
    assert store.invite(name) == rater and rater != store.invite("bob")
    assert store.knows(rater)
    assert not store.knows("' OR 1=1 --")
    nameless = store.new_rater()
    assert store.knows(nameless) and VoteStore(folder, Settings(named=True)).knows(rater)
    assert not VoteStore(folder, Settings(named=True)).knows(nameless)
    assert rows(folder, "SELECT count(*) FROM votes") == [(0,)]


def test_pairs_get_equal_numbers_of_votes(ram):
    folder = make(ram / "study", methods=(*METHODS, "linear:3"))
    store = VoteStore(folder, Settings(check_every=0))
    for _ in range(27):  # each votes on 2 of 18 pairs
        rater = store.new_rater()
        for _ in range(2):
            task, _ = store.task(rater)
            store.vote(rater, task.assignment, "overall", "right")
    votes = rows(folder, "SELECT count(*) FROM votes JOIN assignments ON id = assignment GROUP BY pair")
    assert votes == [(3,)] * 18


def test_a_pair_that_was_only_opened_counts_for_a_while(folder, monkeypatch):
    store = VoteStore(folder, Settings(check_every=0))
    opened = [store.task(store.new_rater())[0] for _ in range(6)]
    assert len({(task.prompt, task.left[-5], task.right[-5]) for task in opened}) == 6
    later = time.time() + OPEN + 60
    monkeypatch.setattr(time, "time", lambda: later)
    voter = store.new_rater()
    task, _ = store.task(voter)
    store.vote(voter, task.assignment, "overall", "tie")
    following = [store.task(store.new_rater())[0].assignment for _ in range(5)]
    voted, *new = (
        rows(folder, f"SELECT pair FROM assignments WHERE id = {assignment}")[0]
        for assignment in (task.assignment, *following)
    )
    assert len(set(new)) == 5 and voted not in new


def test_questions_follow_one_another_and_text_is_asked_of_text(folder):
    store = VoteStore(folder, Settings(("overall", "text", "alignment"), check_every=0))
    tasks = everything(store, store.new_rater())
    asked = {prompt.text: [task.question for task in tasks if task.prompt == prompt.text] for prompt in PROMPTS}
    assert asked[PROMPTS[0].text] == 2 * ["overall", "alignment"]
    assert asked[PROMPTS[1].text] == 2 * ["overall", "text", "alignment"]
    assert is_text("a sign “Bar”") and not is_text('24" wide') and not is_text("it's a dog's")


def test_attention_checks(folder):
    store = VoteStore(folder, Settings(("alignment", "overall"), check_every=2))
    checks = []
    for _ in range(20):
        tasks = everything(store, store.new_rater())
        assert len({task.assignment for task in tasks if task.check is None}) == 6  # a check takes nobody's pair away
        checks += [task for task in tasks if task.check]
    assert len(checks) > 20
    assert {task.check for task in checks} == {"left", "right"}
    assert {task.question for task in checks} == {"overall"}
    assert all(task.left == task.right for task in checks)


def test_fifty_raters_at_once(ram):
    folder = make(ram / "study", prompts=[Prompt(f"prompt {i}") for i in range(25)], seeds=(0,))
    stores = [VoteStore(folder, Settings(check_every=0)) for _ in range(2)]  # as two servers would
    given, errors = Counter(), []
    start = threading.Barrier(50)

    def rate(number):
        store = stores[number % 2]
        rater = store.new_rater()
        start.wait()
        try:
            for _ in range(20):
                task, _ = store.task(rater)
                store.vote(rater, task.assignment, task.question, ("left", "tie", "right")[number % 3])
                given[rater, task.assignment] += 1
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=rate, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    kept = rows(folder, "SELECT rater, assignment FROM votes JOIN assignments ON id = assignment")
    assert len(kept) == 50 * 20 and Counter(kept) == given and set(given.values()) == {1}
    votes = rows(folder, "SELECT count(*) FROM assignments GROUP BY pair")
    assert max(votes)[0] - min(votes)[0] <= 3  # a rater's last pairs are what is left to them
    choices = dict(rows(folder, "SELECT choice, count(*) FROM votes GROUP BY choice"))
    assert choices == {"left": 17 * 20, "tie": 17 * 20, "right": 16 * 20}


def test_a_rater_and_a_pair_may_have_enough(folder):
    store = VoteStore(folder, Settings(check_every=0, pairs_per_rater=4, votes_per_pair=2))
    assert store.pairs == 4
    given = [len(everything(store, store.new_rater())) for _ in range(5)]
    assert given == [4, 4, 4, 0, 0]  # twice six pairs
    assert set(rows(folder, "SELECT voted FROM pairs")) == {(2,)}
    waiting = VoteStore(folder, Settings(check_every=0, votes_per_pair=3))
    opened = [waiting.task(waiting.new_rater())[0] for _ in range(8)]
    assert [task is None for task in opened] == 6 * [False] + 2 * [True]  # the rest is somebody's for a while


def test_checks_are_none_of_a_raters_pairs(folder):
    store = VoteStore(folder, Settings(check_every=1, pairs_per_rater=3))
    tasks = everything(store, store.new_rater())
    assert sum(task.check is None for task in tasks) == 3 and any(task.check for task in tasks)


def test_the_time_that_a_question_takes(folder, monkeypatch):
    store = VoteStore(folder, Settings(check_every=0))
    now = [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    assert store.pace() == PACE
    for seconds in (3, 5, 20, 3000):
        rater, place = store.new_rater(), None
        for _ in range(6):
            task, place = store.task(rater, place)
            now[0] += seconds
            store.vote(rater, task.assignment, task.question, "tie")
            place += 1
    assert store.pace() == 20  # 15 gaps are below or at it, 20 at least are there


OLD = """
CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE raters (id TEXT PRIMARY KEY, name TEXT UNIQUE, created REAL NOT NULL);
CREATE TABLE pairs (
    id INTEGER PRIMARY KEY, prompt TEXT NOT NULL, seed INTEGER NOT NULL, method_a TEXT NOT NULL,
    method_b TEXT NOT NULL, is_there INTEGER NOT NULL, UNIQUE (prompt, seed, method_a, method_b)
);
CREATE TABLE assignments (
    id INTEGER PRIMARY KEY, rater TEXT NOT NULL REFERENCES raters, pair INTEGER NOT NULL REFERENCES pairs,
    a_is_left INTEGER NOT NULL, is_check INTEGER NOT NULL, created REAL NOT NULL, UNIQUE (rater, pair, is_check)
);
CREATE INDEX by_pair ON assignments (pair);
CREATE TABLE votes (
    assignment INTEGER NOT NULL REFERENCES assignments, question TEXT NOT NULL,
    choice TEXT NOT NULL CHECK (choice IN ('left', 'tie', 'right')), created REAL NOT NULL,
    PRIMARY KEY (assignment, question)
);
INSERT INTO settings VALUES ('questions', '["overall", "text"]'), ('check_every', '5'), ('named', 'false');
INSERT INTO raters VALUES ('r', NULL, 0);
INSERT INTO pairs VALUES (1, 'two red circles', 0, 'dynamic', 'static:4', 1), (2, 'gone', 0, 'a', 'b', 1);
INSERT INTO assignments VALUES (1, 'r', 1, 1, 0, 0), (2, 'r', 1, 0, 1, 0), (3, 'r', 2, 1, 0, 0);
INSERT INTO votes VALUES (1, 'overall', 'left', 5), (1, 'text', 'tie', 6), (2, 'overall', 'right', 7);
"""


def test_an_older_study_goes_on_as_it_was(folder):
    with closing(sqlite3.connect(folder / VOTES)) as connection:
        connection.executescript(OLD)
    settings = kept(folder)
    assert settings == {"answers": ("left", "tie", "right"), "questions": ["overall", "text"], "check_every": 5,
                        "named": False}  # fmt: skip
    for _ in range(2):  # a second time there is nothing to do
        store = VoteStore(folder, Settings(**settings))
        store.keep()
        assert store.task("r", 0)[0].choice == "left"
        store.close()
    assert rows(folder, "SELECT * FROM votes ORDER BY created") == [
        (1, "overall", "left", 5), (1, "text", "tie", 6), (2, "overall", "right", 7)]  # fmt: skip
    assert rows(folder, "SELECT id, voted FROM assignments ORDER BY id") == [(1, 1), (2, 1), (3, 0)]
    assert rows(folder, "SELECT voted FROM pairs WHERE prompt IN ('two red circles', 'gone') AND seed = 0 "
                "ORDER BY id") == [(1,), (0,)]  # fmt: skip
    store = VoteStore(folder)  # asked anew it may know that both are bad
    store.vote("r", 1, "overall", "bad")
    assert kept(folder)["answers"] == ["left", "tie", "right"]


def test_bad_studies(ram):
    with pytest.raises(ValueError, match="no study"):
        VoteStore(ram)
    with pytest.raises(ValueError, match="no two methods"):
        VoteStore(make(ram / "one", methods=("dynamic",)))
    with pytest.raises(ValueError, match="questions"):
        Settings(("taste",))
