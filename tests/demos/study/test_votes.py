"""The store of votes: balance, durability, and many raters at once."""

import sqlite3
import threading
import time
from collections import Counter
from contextlib import closing

import pytest
from study_folder import METHODS, PROMPTS, make

from commands.prompts import Prompt
from demos.study.votes import OPEN, VOTES, VoteStore, is_text


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
    store = VoteStore(folder, check_every=0)
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
    store = VoteStore(folder, check_every=0)
    rater = store.new_rater()
    task, place = store.task(rater)
    store.vote(rater, task.assignment, "overall", "left")
    assert rows(folder, "SELECT choice FROM votes") == [("left",)]  # by another connection
    again, _ = store.task(rater, place)
    assert (again.assignment, again.choice) == (task.assignment, "left")
    store.vote(rater, task.assignment, "overall", "tie")
    assert rows(folder, "SELECT choice FROM votes") == [("tie",)]
    store.close()
    store = VoteStore(folder, check_every=0)  # the server starts again
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
    assert store.knows(rater, named=True)
    assert not store.knows("' OR 1=1 --")
    nameless = store.new_rater()
    assert store.knows(nameless) and not store.knows(nameless, named=True)
    assert rows(folder, "SELECT count(*) FROM votes") == [(0,)]


def test_pairs_get_equal_numbers_of_votes(ram):
    folder = make(ram / "study", methods=(*METHODS, "linear:3"))
    store = VoteStore(folder, check_every=0)
    for _ in range(27):  # each votes on 2 of 18 pairs
        rater = store.new_rater()
        for _ in range(2):
            task, _ = store.task(rater)
            store.vote(rater, task.assignment, "overall", "right")
    votes = rows(folder, "SELECT count(*) FROM votes JOIN assignments ON id = assignment GROUP BY pair")
    assert votes == [(3,)] * 18


def test_a_pair_that_was_only_opened_counts_for_a_while(folder, monkeypatch):
    store = VoteStore(folder, check_every=0)
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
    store = VoteStore(folder, ("overall", "text", "alignment"), check_every=0)
    tasks = everything(store, store.new_rater())
    asked = {prompt.text: [task.question for task in tasks if task.prompt == prompt.text] for prompt in PROMPTS}
    assert asked[PROMPTS[0].text] == 2 * ["overall", "alignment"]
    assert asked[PROMPTS[1].text] == 2 * ["overall", "text", "alignment"]
    assert is_text("a sign “Bar”") and not is_text('24" wide') and not is_text("it's a dog's")


def test_attention_checks(folder):
    store = VoteStore(folder, ("alignment", "overall"), check_every=2)
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
    stores = [VoteStore(folder, check_every=0) for _ in range(2)]  # as two servers would
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


def test_bad_studies(ram):
    with pytest.raises(ValueError, match="no study"):
        VoteStore(ram)
    with pytest.raises(ValueError, match="no two methods"):
        VoteStore(make(ram / "one", methods=("dynamic",)))
    with pytest.raises(ValueError, match="questions"):
        VoteStore(make(ram / "two"), ("taste",))
