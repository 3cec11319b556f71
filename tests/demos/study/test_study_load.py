"""A hundred raters at once over HTTP, as the page speaks: no vote is lost, doubled or mixed up."""

import json
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from study_folder import make

from demos.study.votes import VOTES

RATERS, VOTES_EACH = 100, 20
PROGRAM = Path(__file__).parent / "raters.py"


@pytest.fixture
def folder(ram):
    return make(ram / "study", methods=("dynamic", "static:4", "interval:5", "linear:5"))  # 36 pairs


@pytest.fixture
def address(folder, serve):
    return serve(folder, check_every=0, raters_per_address=0, show_report=False)


@pytest.mark.parametrize("raters", [10, pytest.param(RATERS, marks=pytest.mark.slow)])
def test_many_raters_at_once(folder, address, raters):
    arguments = [sys.executable, str(PROGRAM), address, "--raters", str(raters), "--votes", str(VOTES_EACH)]
    *said, last = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout.splitlines()
    print(*said, sep="\n")
    given = json.loads(last)["given"]
    assert [len(votes) for votes in given] == [VOTES_EACH] * raters
    expected = {shown: choice for votes in given for shown, choice in votes.items()}
    assert len(expected) == raters * VOTES_EACH  # nobody was shown the pair of another
    with closing(sqlite3.connect(folder / VOTES)) as connection:
        kept = connection.execute(
            "SELECT assignment || ':' || question, choice, rater, pair FROM votes "
            "JOIN assignments ON assignments.id = assignment"
        ).fetchall()
        voted = dict(connection.execute("SELECT id, voted FROM pairs").fetchall())
    assert len(kept) == len(expected) and {shown: choice for shown, choice, _, _ in kept} == expected
    of = {shown: rater for shown, _, rater, _ in kept}
    assert all(len({of[shown] for shown in votes}) == 1 for votes in given)
    assert set(Counter(rater for _, _, rater, _ in kept).values()) == {VOTES_EACH}
    assert len({(rater, pair) for _, _, rater, pair in kept}) == len(kept)
    shares = Counter(pair for *_, pair in kept)
    assert shares == voted and len(shares) == 36 and max(shares.values()) - min(shares.values()) <= 6
