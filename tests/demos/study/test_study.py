"""`demos.study` and its page, without a browser: what is served, what is shown, and what is refused."""

import re

import gradio as gr
import httpx
import pytest
from study_folder import make

from demos.study import command as study
from demos.study import page as study_page
from demos.study.votes import Settings, VoteStore
from demos.theme import CSS, THEME

ROUTES = ("/gradio_api/file=", "/file=", "/gradio_api/file/", "/gradio_api/proxy=", "/GRADIO_API/FILE=")


@pytest.fixture
def folder(ram):
    return make(ram / "study")


def test_as_a_tab_of_another_page(folder):
    page = study_page.build(folder)
    with gr.Blocks() as app, gr.Tab("Study"):
        page.render()
    (routes,) = [part.routes for part in app.blocks.values() if hasattr(part, "routes")]  # what `guard.serve` looks for
    assert {route.path for route in routes} > {"/study/enter", "/study/vote"}


@pytest.fixture
def served(folder, serve):
    return serve(folder, password="open sesame", show_report=False)


def test_nothing_is_served_but_the_page(served, folder):
    with httpx.Client(base_url=served, trust_env=False, timeout=120) as client:
        assert client.get("/config").status_code == 401  # a password is asked for
        assert client.post("/login", data={"username": "ann", "password": "wrong"}).status_code == 400
        assert client.post("/login", data={"username": "ann", "password": "open sesame"}).status_code == 200
        assert client.get("/config").status_code == 200
        image = next((folder / "images").rglob("*.png"))
        targets = [str(image), str(folder / "votes.sqlite"), str(folder / "manifest.sqlite"), "/etc/passwd"]
        targets += ["../../../../etc/passwd", "..%2f..%2f..%2fetc%2fpasswd", "https://example.org/", served]
        for target in targets:
            for route in (
                "/gradio_api/file=",
                "/file=",
                "/gradio_api/file/",
                "/gradio_api/proxy=",
                "/GRADIO_API/FILE=",
            ):
                answer = client.get(route + target)
                assert answer.status_code in (403, 404), (route, target)
                assert b"root:" not in answer.content and b"SQLite" not in answer.content
        for path in (
            "/static/..%2f..%2f..%2f..%2fetc/passwd",
            "/assets/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
            "/svelte/../../x",
        ):
            answer = client.get(path)
            assert answer.status_code in (403, 404) and b"root:" not in answer.content
        upload = client.post("/gradio_api/upload", files={"files": ("a.txt", b"x" * 10)})
        assert upload.status_code == 403
        names = client.get("/gradio_api/info").json()
        assert names["named_endpoints"] == {}


def test_it_looks_like_the_app(folder, serve):
    with httpx.Client(base_url=serve(folder), trust_env=False, timeout=120) as client:
        assert client.get("/theme.css").text == THEME._get_theme_css()
        assert CSS.strip() in client.get("/config").json()["css"]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_links_lead_to_where_the_page_is_served(folder, ram, capsys, monkeypatch, host):
    opened = []

    def visit_instead(page):  # of waiting for Ctrl-C
        *_, line = capsys.readouterr().out.strip().splitlines()
        name, link = line.split(": ")
        opened.append((name, link, httpx.get(link, trust_env=False, timeout=120).text))
        page.close()

    monkeypatch.setattr(gr.Blocks, "block_thread", visit_instead)
    for variable in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED"):
        monkeypatch.setenv(variable, str(ram))  # `main` sets them: puts them back
    study.main([str(folder), "--raters", "ann", "--host", host, "--port", "0"])
    ((name, link, text),) = opened
    assert name == "ann" and link.endswith(f"/?rater={VoteStore(folder).invite('ann')}")
    assert "Which picture is better?" in text
    assert not link.startswith(("http://0.0.0.0", "http://localhost"))


def test_links_of_a_shared_page_are_public(folder, ram, capsys, monkeypatch):
    monkeypatch.setattr("gradio.networking.setup_tunnel", lambda **_: "http://1234.gradio.live")
    monkeypatch.setattr(gr.Blocks, "block_thread", lambda page: page.close())
    for variable in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED"):
        monkeypatch.setenv(variable, str(ram))
    study.main([str(folder), "--raters", "ann", "bob", "--host", "0.0.0.0", "--port", "0", "--share"])
    store = VoteStore(folder)
    wanted = [f"{name}: https://1234.gradio.live/?rater={store.invite(name)}" for name in ("ann", "bob")]
    assert [line for line in capsys.readouterr().out.splitlines() if "?rater=" in line] == wanted


@pytest.fixture
def opened(folder, ram, monkeypatch):
    """Serves the study as the command does; returns the page and whether the named alone may vote there."""
    pages = []
    monkeypatch.setattr(gr.Blocks, "block_thread", lambda page: (pages.append(page), page.close()))
    for variable in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED"):
        monkeypatch.setenv(variable, str(ram))
    built = []
    build = study_page.build

    def build_too(*arguments, **settings):
        built.append(settings)
        return build(*arguments, **settings)

    monkeypatch.setattr(study_page, "build", build_too)

    def start(*arguments):
        """The questions, how often checks are asked, and whether the named alone may vote."""
        study.main([str(folder), "--port", "0", *arguments])
        found = Settings(**built[-1])
        return found.questions, found.check_every, found.named

    return start


def test_a_study_for_the_invited_stays_theirs(folder, opened, capsys):
    """Also where whoever serves it next forgets to say so."""
    assert opened() == (("overall",), 12, False)
    asked = ("--questions", "text", "overall", "--no-checks")
    assert opened(*asked, "--raters", "ann") == (("text", "overall"), 0, True)
    capsys.readouterr()
    assert opened() == (("text", "overall"), 0, True)
    assert opened("--raters", "bob", "--check-every", "5") == (("text", "overall"), 5, True)
    links = [line for line in capsys.readouterr().out.splitlines() if "?rater=" in line]
    assert [line.split(":")[0] for line in links] == ["ann", "ann", "bob"]
    assert opened("--anyone") == (("text", "overall"), 5, False)
    assert opened() == (("text", "overall"), 5, False)


def test_a_link_that_cannot_be_made_is_the_end(folder, opened, capsys, monkeypatch):
    def no_network(**_):
        raise RuntimeError("no network")

    monkeypatch.setattr("gradio.networking.setup_tunnel", no_network)
    monkeypatch.setenv(study.PASSWORD, "open sesame")
    with pytest.raises(SystemExit) as stop:
        opened("--share", "--password", "--raters", "ann")
    captured = capsys.readouterr()
    assert stop.value.code == 2 and captured.err.startswith("error: argument --share: there is no public link")
    assert "?rater=" not in captured.out  # links that nobody could open
    address = re.search(r"http://127\.0\.0\.1:\d+", captured.out)[0]
    with pytest.raises(httpx.ConnectError):
        httpx.get(address, trust_env=False)


def test_a_public_link_without_a_password_is_warned_of(folder, opened, capsys, monkeypatch):
    monkeypatch.setattr("gradio.networking.setup_tunnel", lambda **_: "http://1234.gradio.live")
    monkeypatch.setenv(study.PASSWORD, "open sesame")
    opened("--share")
    assert "warning: --share without --password" in capsys.readouterr().err
    opened("--share", "--password")
    assert "warning: --share" not in capsys.readouterr().err


BAD = {
    "no study": ([], "study"),
    "both": (["{tmp}", "--votes-for", "60"], "--votes-for"),
    "no folder": (["{tmp}/none"], "no study"),
    "report of nothing": (["{tmp}", "--report"], "no study"),
    "question": (["{tmp}", "--questions", "taste"], "--questions"),
    "texts": (["{tmp}", "--texts", "{tmp}/none.yaml"], "--texts"),
    "limit": (["{tmp}", "--pairs-per-rater", "-1"], "--pairs-per-rater"),
    "question twice": (["{tmp}", "--questions", "text", "text"], "--questions"),
    "rater": (["{tmp}", "--raters", " "], "--raters"),
    "invited and anyone": (["{tmp}", "--raters", "ann", "--anyone"], "--anyone"),
    "checks": (["{tmp}", "--check-every", "0"], "--check-every"),
    "port": (["{tmp}", "--port", "70000"], "--port"),
    "half": (["--votes-for", "50"], "--votes-for"),
    "password": (["{tmp}", "--password"], "STUDY_PASSWORD"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(ram, capsys, monkeypatch, case):
    monkeypatch.delenv(study.PASSWORD, raising=False)
    given, named = BAD[case]
    with pytest.raises(SystemExit) as stop:
        study.main([argument.replace("{tmp}", str(ram)) for argument in given])
    captured = capsys.readouterr()
    assert stop.value.code == 2 and captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert named in captured.err
    assert list(ram.iterdir()) == []


def test_votes_for(capsys):
    study.main(["--votes-for", "80%"])
    assert capsys.readouterr().out == "23\n"  # 20 would do, 21 and 22 would not
