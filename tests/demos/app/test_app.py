"""The app as a server: what it serves, what it does not, and how it is started."""

import http.client
import io
import json
import re
import uuid

import pytest
from app_inputs import Visitor
from PIL import Image
from small_lvlm import lvlm_weights
from starlette.applications import Starlette
from starlette.testclient import TestClient
from study_folder import make

from demos.app import command as app
from demos.app.ask_page import Asking, Reader
from demos.app.explorer import Explorer
from demos.app.live import Stop
from demos.study.votes import Settings, VoteStore
from tinyworld import lvlm

__all__ = ["lvlm_weights"]
SECRET = "not for visitors"


@pytest.fixture
def reader(lvlm_weights):
    return Reader(*lvlm.load(lvlm_weights / "lvlm"), lvlm.MAX_NEW_TOKENS)


@pytest.fixture
def served(host, reader, tmp_path, monkeypatch):
    """The app's host and port, started in a folder with a secret in it."""
    (tmp_path / "secret.txt").write_text(SECRET)
    (tmp_path / "cache").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    page = app.build(host, reader)
    address, _ = app.serve(page, "127.0.0.1", None)
    yield re.search(r"//(.+?)/?$", address)[1], page
    page.close()


def ask(address, method, path, body=None, headers=()):
    """Status and body; the path goes as it is, dots and all."""
    connection = http.client.HTTPConnection(address, timeout=300)
    connection.putrequest(method, path, skip_accept_encoding=True)
    for name, value in {"Content-Length": str(len(body or b"")), **dict(headers)}.items():
        connection.putheader(name, value)
    connection.endheaders(body)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, content


def upload(address, name, content):
    """What Gradio says to a file of this name."""
    head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\nContent-Type: image/png\r\n\r\n'
    body = head.encode() + content + b"\r\n--x--\r\n"
    return ask(address, "POST", "/gradio_api/upload", body, {"Content-Type": "multipart/form-data; boundary=x"})


def call(address, page, data):
    """The events of the queue for a question to the Ask tab."""
    (button,) = [number for number, block in page.blocks.items() if block.elem_id == "ask"]
    (begin,) = [f._id for f in page.fns.values() if (button, "click") in f.targets]
    (run,) = [f._id for f in page.fns.values() if {"picture", "question"} <= {block.elem_id for block in f.inputs}]
    session, secret = uuid.uuid4().hex, "x" * 22
    for path, values, fn in (("run/predict", [None], begin), ("queue/join", [None, secret, *data], run)):
        body = json.dumps({"data": values, "fn_index": fn, "session_hash": session}).encode()
        status, content = ask(address, "POST", f"/gradio_api/{path}", body, {"Content-Type": "application/json"})
        assert status == 200, content
    return ask(address, "GET", f"/gradio_api/queue/data?session_hash={session}")[1].decode()


TRAVERSAL = (
    "/gradio_api/file={path}",
    "/gradio_api/file=secret.txt",
    "/gradio_api/file=./secret.txt",
    "/gradio_api/file={cache}/../secret.txt",
    "/gradio_api/file={cache}/%2e%2e/secret.txt",
    "/gradio_api/file={cache}/..%2fsecret.txt",
    "/file={path}",
    "/../secret.txt",
    "/static/../../../../../../../../..{path}",
    "/static/..%2f..%2f..%2f..%2f..%2f..%2f..%2f..{path}",
    "/assets/../../../../../../../../..{path}",
    "/assets/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e{path}",
    "/gradio_api/custom_component/x/client/component/..%2f..%2f..{path}",
    "/gradio_api/file=file://{path}",
)


def test_serves_the_page_and_nothing_else(served, tmp_path):
    (address, page), secret = served, tmp_path / "secret.txt"
    status, content = ask(address, "GET", "/")
    assert status == 200 and b"Online guidance" in content
    for pattern in TRAVERSAL:
        path = pattern.format(path=secret, cache=tmp_path / "cache")
        status, content = ask(address, "GET", path)
        assert SECRET.encode() not in content, path
        assert status in (400, 403, 404, 405) or b"<!doctype html>" in content.lower(), (path, status)
    for path in (
        "/gradio_api/file=http://example.org/",
        "/gradio_api/file=HTTPS://example.org/",
        "/gradio_api/proxy=x",
    ):
        assert ask(address, "GET", path) == (403, b"not served")

    # a picture that was uploaded is served, and only under the name that Gradio made for it
    data = io.BytesIO()
    Image.new("RGB", (4, 4)).save(data, "PNG")
    status, content = upload(address, "../../../escaped.png", data.getvalue())
    (stored,) = json.loads(content)
    assert stored.startswith(str(tmp_path / "cache")) and ".." not in stored
    assert not list(tmp_path.parent.rglob("escaped.png")) or all(
        str(p).startswith(str(tmp_path / "cache")) for p in tmp_path.parent.rglob("escaped.png")
    )
    assert ask(address, "GET", f"/gradio_api/file={stored}")[0] == 200
    assert upload(address, "big.png", bytes(9_000_000))[0] == 413

    # nor can a callback be made to read a file that was not uploaded
    question = ["what?", "random", ""]
    for path in (str(secret), "/etc/passwd", "secret.txt"):
        events = call(address, page, [{"path": path, "meta": {"_type": "gradio.FileData"}}, *question])
        assert '"success":false' in events.replace(" ", "") and SECRET not in events and "root:" not in events
    (text,) = json.loads(upload(address, "text.png", b"text")[1])
    assert "Picture cannot be read" in call(
        address, page, [{"path": text, "meta": {"_type": "gradio.FileData"}}, *question]
    )
    events = call(address, page, [{"path": stored, "meta": {"_type": "gradio.FileData"}}, *question])
    assert "256 of 256 tokens" in events


def test_a_study_is_a_tab(host, reader, ram):
    study = app.load_study(app.parse(["--study", str(make(ram / "study"))]))
    page = app.build(host, reader, study)
    labels = [getattr(block, "label", None) for block in page.blocks.values()]
    assert {"Playground", "Study", "Vote", "Report"} <= set(labels)
    inner = [f.fn for f in study.fns.values() if f.fn is not None]
    assert inner and {f.fn for f in page.fns.values()} >= set(inner), "its callbacks and loading came along"


def test_a_study_for_the_invited_is_theirs_in_the_app_too(ram):
    folder = make(ram / "study")
    store = VoteStore(folder, Settings(("overall", "text"), check_every=0, named=True))
    store.keep()
    study = app.load_study(app.parse(["--study", str(folder)]))
    (routes,) = [part.routes for part in study.blocks.values() if hasattr(part, "routes")]
    visitor = TestClient(Starlette(routes=routes))
    for rater, screen in ((None, "invited"), (store.new_rater(), "invited"), (store.invite("ann"), "intro")):
        assert visitor.post("/study/enter", json={"rater": rater}).json()["screen"] == screen
    assert "Report" not in [getattr(block, "label", None) for block in study.blocks.values()]
    VoteStore(folder, Settings(named=False)).keep()
    study = app.load_study(app.parse(["--study", str(folder)]))
    assert "Report" in [getattr(block, "label", None) for block in study.blocks.values()]


def test_every_callback_is_private_and_the_model_has_one_queue(host, reader):
    page = app.build(host, reader)
    fns = [f for f in page.fns.values() if f.fn is not None]
    assert {f.api_visibility for f in fns} <= {"private", "undocumented"}
    assert {f.concurrency_limit for f in fns} <= {None, "default"}  # visitors wait in lines that they can leave


BAD = {
    "model is no pipeline": (["--model", "{tmp}"], "--model"),
    "no evaluators": (["--model", "owner/name"], "--evaluators"),
    "unknown evaluator": (["--evaluators", "taste"], "taste"),
    "lvlm": (["--lvlm", "{tmp}"], "--lvlm"),
    "broken lvlm": (["--lvlm", "{tmp}/broken"], "--lvlm"),
    "no study": (["--study", "{tmp}/broken"], "--study"),
    "port": (["--port", "70000"], "--port"),
    "device": (["--device", "abacus"], "--device"),
    "host": (["--host", "256.0.0.1"], "--host"),
    "address of another": (["--host", "192.0.2.1"], "--host"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(embedded, tmp_path, capfd, case):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    arguments, named = BAD[case]
    with pytest.raises(SystemExit) as stop:
        app.main(["--port", "0", *(a.replace("{tmp}", str(tmp_path)) for a in arguments)])  # any free one
    captured = capfd.readouterr()
    assert stop.value.code == 2
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert named in captured.err
    assert not list((tmp_path.parent).glob("online-guidance-*"))


def test_every_tab_with_models_of_ones_own(folder, lvlm_weights, tmp_path, monkeypatch):
    from evaluators import LatentDiscriminator

    LatentDiscriminator(4).save_pretrained(tmp_path / "evaluator")
    arguments = ["--model", str(folder("sd")), "--evaluators", f"discriminator={tmp_path / 'evaluator'}"]
    args = app.parse([*arguments, "--lvlm", str(lvlm_weights / "lvlm")])
    app.generate.check_late(args)
    host = app.load_host(args)
    assert not host.embedded and list(host.default.evaluators) == ["discriminator"]
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    reader, visitor = app.load_reader(args), Visitor(host)
    app.build(host, reader)

    stop, said = Stop(), []
    for update in visitor.generate(stop, prompt="a fox", steps=50, scales=(2.0, 4.0)):
        said.append(update.get("line", ""))
        if "step 1 of 50" in said[-1]:
            stop.set()
    assert "Cancelled" in said[-1] and not any("step 50" in line for line in said)
    guidance = ("dynamic", "2, 4", 1, 2, 0.2, 1.0)
    *_, (cards, _, line) = Explorer(host).explore(Stop(), visitor.secret, "a fox\na cat", [], 1, 0, 2, *guidance)
    assert "2 of 2" in line and cards.count("<figure") == 2
    Image.new("RGB", (32, 32), "red").save(tmp_path / "red.png")
    asked = Asking(reader, host.visits).answer(Stop(), visitor.secret, tmp_path / "red.png", "what?", "random", "")
    assert "Answered" in [*asked][-1][0]

    _, made = visitor.finish(prompt="a fox", steps=2, scales=(2.0, 4.0))
    assert set(made.rows[0][0].trace.scales[:, 0].tolist()) <= {2.0, 4.0}
    assert made.rows[0][0].image.size == made.rows[0][1].image.size
