"""`demos.study` and its page, without a browser: what is served, what is shown, and what is refused."""

import base64
import io
import re
from types import SimpleNamespace

import gradio as gr
import httpx
import numpy as np
import pytest
from PIL import Image
from study_folder import make

from demos.study import command as study
from demos.study import page as study_page
from demos.study.votes import VoteStore

ROUTES = ("/gradio_api/file=", "/file=", "/gradio_api/file/", "/gradio_api/proxy=", "/GRADIO_API/FILE=")


@pytest.fixture
def folder(ram):
    return make(ram / "study")


def pictures(body):
    sources = re.findall(r'src="data:image/png;base64,([^"]+)"', body)
    return [Image.open(io.BytesIO(base64.b64decode(source))) for source in sources]


def key_of(text):
    return re.search(r'data-shown="([^"]*)"', text)[1]


def visit(**query):
    return SimpleNamespace(query_params=query)


def test_the_page_shows_two_pictures_without_names_or_metadata(folder):
    sitting = study_page.Sitting(VoteStore(folder, check_every=0), named=False)
    rater, (state_rater, place), text, body, *_ = sitting.start(None, visit())
    assert rater == state_rater and place == 0
    left, right = pictures(body)
    assert not left.info and not right.info
    assert not (np.asarray(left) == np.asarray(right)).all()
    assert not re.search(r"dynamic|static|\.png", text + body)


def test_a_vote_counts_only_for_what_is_on_the_screen(folder):
    store = VoteStore(folder, check_every=0)
    sitting = study_page.Sitting(store, named=False)
    rater, state, text, *_ = sitting.start(None, visit())
    key = key_of(text)
    state, *body = sitting.vote("left", state, key)[:3]
    assert state == (rater, 1) and store.progress(rater) == (1, 6) and len(pictures(body[1])) == 2
    state, *again = sitting.vote("left", state, key)[:3]  # a second click, before the next pair was there
    assert state == (rater, 1) and store.progress(rater) == (1, 6) and again == body
    state, _, _, _, *buttons = sitting.back(state, key_of(body[0]))
    assert state == (rater, 0)
    assert [button.elem_classes for button in buttons[:3]] == [["chosen"], ["open"], ["open"]]
    assert sitting.start(rater, visit())[1] == (rater, 1)  # back in the same browser


def test_pictures_are_sent_once_for_all_questions(folder):
    store = VoteStore(folder, ("overall", "alignment"), check_every=0)
    sitting = study_page.Sitting(store, named=False)
    _, state, text, body, *_ = sitting.start(None, visit())
    assert len(pictures(body)) == 2
    for expected in (0, 2, 0):  # the second question, the next pair, its second question
        state, text, body, *_ = sitting.vote("tie", state, key_of(text))
        assert (len(pictures(body)) if isinstance(body, str) else 0) == expected
    state, text, body, *_ = sitting.back(state, key_of(text))
    assert not isinstance(body, str) and key_of(text).endswith("overall")
    assert len(pictures(sitting.back(state, key_of(text))[2])) == 2  # the pair before
    assert len(pictures(sitting.start(state[0], visit())[3])) == 2  # a new page


def test_prompts_are_escaped(folder):
    store = VoteStore(folder, check_every=0)
    bodies = [study_page.asked(store.task(store.new_rater())[0]) for _ in range(6)]
    assert not [body for body in bodies if "<script" in body]
    assert sum("&lt;script&gt;alert(1)&lt;/script&gt; &amp; a star" in body for body in bodies) == 2


def test_an_attention_check_shows_a_picture_and_its_shuffled_tiles(folder):
    store = VoteStore(folder, check_every=1)
    task, _ = store.task(store.new_rater())
    spoilt, whole = (np.asarray(picture) for picture in pictures(study_page.pair(folder, task)))
    if task.check == "right":
        spoilt, whole = whole, spoilt
    assert (np.sort(spoilt.ravel()) == np.sort(whole.ravel())).all()
    assert abs(spoilt.astype(int) - whole).mean() > 30
    assert study_page.picture(folder / task.left) != study_page.picture(folder / task.left, spoilt=True)


def test_only_the_invited_vote_where_raters_are_named(folder):
    store = VoteStore(folder, check_every=0)
    sitting = study_page.Sitting(store, named=True)
    ann = store.invite("ann")
    assert sitting.start(None, visit(rater=ann))[1] == (ann, 0)
    for stranger in (None, "ann", store.new_rater()):
        _, state, text, body, *_ = sitting.start(stranger, visit())
        assert state is None and "By invitation" in text and not pictures(body)
        assert "not" in sitting.vote("left", state, "1:overall")[1].lower()


def test_a_manifest_that_points_outside_shows_nothing(folder, ram):
    from demos.manifest import Manifest

    Image.new("RGB", (8, 8)).save(ram / "secret.png")
    with Manifest(folder) as manifest:
        manifest.connection.execute("UPDATE images SET file = '../secret.png'")
    store = VoteStore(folder, check_every=0)
    with pytest.raises(ValueError, match="secret"):
        study_page.pair(folder, store.task(store.new_rater())[0])


def test_as_a_tab_of_another_page(folder):
    page = study_page.build(folder)
    with gr.Blocks() as app, gr.Tab("Study"):
        page.render()
    assert sum((app._id, "load") in event.targets for event in app.fns.values()) == 2  # the first pair, and the keys


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
    monkeypatch.setattr(study_page, "build", lambda *args: built.append(args[1:4]) or build(*args))

    def start(*arguments):
        study.main([str(folder), "--port", "0", *arguments])
        questions, check_every, named = built[-1]
        return tuple(questions), check_every, named

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


def test_questions_have_one_list():
    from demos.study.votes import QUESTIONS

    assert tuple(QUESTIONS) == study.QUESTIONS
