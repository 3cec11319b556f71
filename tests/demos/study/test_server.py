"""What the page of a study asks the server, without a browser: who is shown what, and what is refused."""

import io
import re
import sqlite3
from contextlib import closing

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from starlette.applications import Starlette
from starlette.testclient import TestClient
from study_folder import make

from demos.manifest import Manifest
from demos.study import page as study_page
from demos.study import server
from demos.study.pictures import Album, bare, served
from demos.study.votes import VOTES, Settings, VoteStore


@pytest.fixture
def folder(ram):
    return make(ram / "study")


class Rater:
    """A browser that has opened a study's page; `address` is where it comes from."""

    def __init__(self, store, address="192.0.2.1", link=None):
        self.client = TestClient(Starlette(routes=server.routes(store)), client=(address, 1))
        self.rater, self.screen = link, {}

    def ask(self, what, expected=200, **said):
        body = {"rater": self.rater, "shown": self.screen.get("shown"), **said}
        answer = self.client.post(f"/study/{what}", json=body)
        assert answer.status_code == expected, answer.text
        if expected != 200:
            return answer.text
        self.screen = answer.json()
        self.rater = self.screen.get("rater", self.rater)
        return self.screen

    def begin(self):
        assert self.ask("enter")["screen"] == "intro"
        return self.ask("start", language="en")

    def pictures(self):
        answers = [self.client.get("/" + self.screen[side]) for side in ("left", "right")]
        assert all(answer.headers["content-type"] == "image/png" for answer in answers)
        return [Image.open(io.BytesIO(answer.content)) for answer in answers]


def test_a_pair_is_shown_without_names_or_metadata(folder):
    for path in (folder / "images").rglob("*.png"):
        info = PngInfo()
        info.add_text("settings", "dynamic")
        Image.open(path).save(path, pnginfo=info)
    rater = Rater(VoteStore(folder, Settings(check_every=0)))
    screen = rater.begin()
    left, right = rater.pictures()
    assert not left.info and not right.info
    assert not (np.asarray(left) == np.asarray(right)).all()
    assert not re.search(r"dynamic|static|\.png", str(screen))
    originals = {Image.open(path).tobytes() for path in (folder / "images").rglob("*.png")}
    assert {left.tobytes(), right.tobytes()} <= originals  # the very pixels


def test_it_is_agreed_to_before_anything_is_shown(folder):
    store = VoteStore(folder, Settings(("overall", "quality"), check_every=0))
    stranger = Rater(store)
    assert stranger.ask("enter") == {"screen": "intro", "pairs": 6, "minutes": 2, "consent": "consent"}
    assert stranger.ask("enter")["screen"] == "intro"
    with closing(sqlite3.connect(folder / VOTES)) as connection:
        assert connection.execute("SELECT count(*) FROM raters").fetchone() == (0,)  # who only looks is nobody
        assert "has not begun" in stranger.ask("vote", 400, shown="1:overall", choice="left")
        early = store.new_rater()  # known, and has not agreed
        assert "has not begun" in stranger.ask("vote", 400, rater=early, shown="1:overall", choice="left")
        assert stranger.ask("start", language="en")["screen"] == "pair"
        text, language = connection.execute("SELECT text, language FROM consents").fetchone()
    assert "voluntary" in text and language == "en"
    assert stranger.ask("enter")["screen"] == "pair"  # and not asked again
    assert "one of en" in stranger.ask("start", 400, language="tlh")


def test_a_vote_is_on_what_it_names_and_counts_once(folder):
    store = VoteStore(folder, Settings(check_every=0))
    rater = Rater(store)
    first = rater.begin()
    second = rater.ask("vote", choice="bad")
    assert second["shown"] != first["shown"] and (second["done"], second["pairs"]) == (1, 6)
    again = rater.ask("vote", shown=first["shown"], choice="bad")  # sent twice on a bad line
    assert (again["shown"], again["done"]) == (second["shown"], 1)
    back = rater.ask("back")
    assert (back["shown"], back["choice"], back["back"]) == (first["shown"], "bad", False)
    assert rater.ask("vote", choice="left")["shown"] == second["shown"]
    assert rater.ask("enter")["shown"] == second["shown"]  # back in the same browser
    for _ in range(5):
        rater.ask("vote", choice="tie")
    assert rater.screen["screen"] == "end" and rater.screen["done"] == 6
    last = rater.ask("back")
    assert last["screen"] == "pair" and last["choice"] == "tie"
    with closing(sqlite3.connect(folder / VOTES)) as connection:
        kept = dict(connection.execute("SELECT choice, count(*) FROM votes GROUP BY choice"))
    assert kept == {"left": 1, "tie": 5}


def test_what_is_no_vote_is_refused(folder):
    store = VoteStore(folder, Settings(check_every=0, answers=("left", "tie", "right")))
    rater, other = Rater(store), Rater(store)
    shown = rater.begin()["shown"]
    other.begin()
    assert "not shown this pair" in other.ask("vote", 400, shown=shown, choice="left")
    for choice in ("bad", 7, None, ["left"]):
        rater.ask("vote", 400, choice=choice)
    for wrong in ("1", None, 1, shown.replace("overall", "text")):
        rater.ask("vote", 400, choice="left", shown=wrong)
    for body in (b"[]", b"{", b"\xff"):
        assert rater.client.post("/study/vote", content=body).status_code == 400
    assert rater.client.post("/study/vote", content=b"{" + b" " * 20_000 + b"}").status_code == 413
    with closing(sqlite3.connect(folder / VOTES)) as connection:
        assert connection.execute("SELECT count(*) FROM votes").fetchone() == (0,)


def test_one_that_is_refused_takes_no_other_with_it(folder):
    store = VoteStore(folder, Settings(check_every=0))
    rater = store.new_rater()
    task, _ = store.task(rater)
    calls = [lambda n=n: store.vote(rater, task.assignment + n, "overall", "left") for n in (99, 0, 98)]
    first, second, third = store.together(calls)
    assert isinstance(first, ValueError) and isinstance(third, ValueError) and second is None
    assert store.task(rater, 0)[0].choice == "left"


def test_pictures_are_for_those_who_were_sent_there(folder):
    rater = Rater(VoteStore(folder, Settings(check_every=0)))
    left = "/" + rater.begin()["left"]
    number = rater.screen["shown"].split(":")[0]
    assert rater.client.get(left).status_code == 200
    for wrong in (left[:-1] + "x", left.replace("left", "right"), left.replace(f"/{number}/", "/99/"),
                  left.replace("left", "..%2f..%2fvotes.sqlite")):  # fmt: skip
        assert rater.client.get(wrong).status_code == 404


def test_an_attention_check_shows_a_picture_and_its_shuffled_tiles(folder):
    store = VoteStore(folder, Settings(check_every=1))
    rater = Rater(store)
    rater.begin()
    spoilt, whole = (np.asarray(picture.convert("L")) for picture in rater.pictures())
    if store.task(rater.rater, 0)[0].check == "right":
        spoilt, whole = whole, spoilt
    assert (np.sort(spoilt.ravel()) == np.sort(whole.ravel())).all()
    assert abs(spoilt.astype(int) - whole).mean() > 30


def test_only_the_invited_vote_where_raters_are_named(folder):
    store = VoteStore(folder, Settings(check_every=0, named=True))
    ann = Rater(store, link=store.invite("ann"))
    assert ann.begin()["screen"] == "pair"
    with closing(sqlite3.connect(folder / VOTES)) as connection:
        assert "name that you were invited by" in connection.execute("SELECT text FROM consents").fetchone()[0]
    everybody = VoteStore(folder, Settings(check_every=0))  # it is opened to all: the invited are still known by name
    assert Rater(everybody, link=everybody.invite("bob")).ask("enter")["consent"] == "consent_named"
    for link in (None, "ann", store.new_rater(), ["x"], 7):
        stranger = Rater(store, link=link)
        assert stranger.ask("enter") == {"screen": "invited"} == stranger.ask("start", language="en")
        assert "has not begun" in stranger.ask("vote", 400, shown=ann.screen["shown"], choice="left")


def test_a_link_that_leads_to_nobody_makes_one_rater_of_a_browser(folder):
    store = VoteStore(folder, Settings(check_every=0))
    first = Rater(store, link="cut short")
    first.begin()
    again = Rater(store, link="cut short")  # loaded again: the browser has kept who they became
    assert again.ask("enter", kept=first.rater)["shown"] == first.screen["shown"]
    assert again.ask("start", kept=first.rater, language="en")["rater"] == first.rater == again.rater
    with closing(sqlite3.connect(folder / VOTES)) as connection:
        assert connection.execute("SELECT id FROM raters").fetchall() == [(first.rater,)]
    ann = Rater(store, link=store.invite("ann"))  # a link that does lead to somebody goes before what is kept
    assert ann.ask("enter", kept=first.rater)["consent"] == "consent_named"
    assert ann.ask("start", kept=first.rater, language="en")["rater"] != first.rater
    assert Rater(store, link="cut short").ask("enter", kept=["x"])["screen"] == "intro"


def test_a_network_has_a_quota_of_new_raters(folder, monkeypatch):
    store = VoteStore(folder, Settings(check_every=0, raters_per_address=2))
    app = Starlette(routes=server.routes(store))
    now = [1000.0]
    monkeypatch.setattr(server.time, "time", lambda: now[0])

    def begin(address):
        answer = TestClient(app, client=(address, 1)).post("/study/start", json={"rater": None, "language": "en"})
        return answer.json()["screen"]

    assert [begin("192.0.2.1") for _ in range(3)] == ["pair", "pair", "full"]
    assert begin("192.0.2.2") == "pair"
    assert [begin(f"2001:db8::{n}") for n in range(3)] == ["pair", "pair", "full"]  # of one household
    assert begin("2001:db8:0:1::1") == "pair"
    now[0] += server.DAY + 1
    assert begin("192.0.2.1") == "pair"
    with closing(sqlite3.connect(folder / VOTES)) as connection:
        assert connection.execute("SELECT count(*) FROM raters").fetchone() == (7,)
        assert "192.0.2" not in "".join(connection.iterdump())


def test_a_manifest_that_points_outside_shows_nothing(folder, ram):
    Image.new("RGB", (8, 8)).save(ram / "secret.png")
    with Manifest(folder) as manifest:
        manifest.connection.execute("UPDATE images SET file = '../secret.png'")
    rater = Rater(VoteStore(folder, Settings(check_every=0)))
    rater.begin()
    assert rater.client.get("/" + rater.screen["left"]).status_code == 404


def test_pictures_in_memory(folder, monkeypatch):
    album, paths = Album(), sorted((folder / "images").rglob("*.png"))[:3]
    whole = [served(path, False) for path in paths]
    monkeypatch.setattr("demos.study.pictures.IN_MEMORY", len(whole[0]) + len(whole[1]))
    for path, data in zip(paths, whole, strict=True):
        album.keep(path, False, data)
    assert [album.find(path, False) for path in paths] == [None, *whole[1:]]
    assert album.find(paths[1], True) is None
    paths[1].touch()
    assert album.find(paths[1], False) is None  # made again


def test_a_bare_picture_has_its_colours(tmp_path):
    info = PngInfo()
    info.add_text("prompt", "secret" * 10)
    image = Image.linear_gradient("L").convert("P")
    image.save(tmp_path / "a.png", pnginfo=info, transparency=3, icc_profile=b"profile")
    data = bare((tmp_path / "a.png").read_bytes())
    opened = Image.open(io.BytesIO(data))
    assert b"secret" not in data and b"prompt" not in data
    assert set(opened.info) == {"transparency", "icc_profile"}
    assert opened.convert("RGBA").tobytes() == Image.open(tmp_path / "a.png").convert("RGBA").tobytes()


def test_the_board_is_for_who_has_its_key(folder, monkeypatch):
    store = VoteStore(folder, Settings(("overall", "quality"), check_every=0))
    raters = [Rater(store) for _ in range(2)]
    for rater in raters:
        rater.begin()
        for number in range(12):
            rater.ask("vote", choice="bad" if number % 3 == 0 else "tie")
    client = raters[0].client
    monkeypatch.setattr(server.time, "monotonic", lambda: 1000.0)
    wrong = [client.get("/study/board", params=params).status_code for params in ({}, {"key": ""}, {"key": "x"})]
    assert wrong == [403, 403, 403]
    key = {"key": server.board_key(store)}
    assert client.get("/study/board", params=key).status_code == 429
    monkeypatch.setattr(server.time, "monotonic", lambda: 1002.0)
    answer = client.get("/study/board", params=key)
    assert answer.status_code == 200 and answer.headers["cache-control"] == "no-store"
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", answer.text, re.DOTALL)]
    assert "<h1>24 votes</h1>" in answer.text and "2 agreed" in " ".join(answer.text.split())
    assert ["dynamic, static:4", "24", "6"] in rows
    assert [row[:4] for row in rows if row and row[0] in ("overall", "quality")] == [
        ["overall", "12", "67 %", "33 %"],
        ["quality", "12", "67 %", "33 %"],
    ]
    assert not re.search(r"win|prefer(?!red is in the report)", answer.text)  # nothing to look at too early
    assert raters[0].rater not in answer.text
    empty = Rater(VoteStore(make(folder.parent / "empty")))
    key = server.board_key(VoteStore(folder.parent / "empty"))
    assert "<h1>0 votes</h1>" in empty.client.get("/study/board", params={"key": key}).text


def test_the_page_holds_no_prompt_and_no_name(folder):
    part = study_page.part(VoteStore(folder))
    assert not re.search(r"dynamic|static:4|red circles|alert\(", part.value + str(part.js_on_load))
