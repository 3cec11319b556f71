"""Both pages as servers: who is answered, how much is taken, and that nothing is fetched from an address."""

import json
import re

import gradio
import gradio.processing_utils
import gradio.routes
import httpx
import pytest
import safehttpx
from PIL import Image
from small_lvlm import lvlm_weights
from study_folder import make

from demos import attempts, guard
from demos.app import command as app
from demos.app.ask_page import Reader
from demos.study import command as study
from tinyworld import lvlm

__all__ = ["lvlm_weights"]
FILE = {"path": "https://example.org/a.png", "meta": {"_type": "gradio.FileData"}}
STREAM = {**FILE, "is_stream": True, "url": "https://example.org/b.png", "orig_name": "a.png"}
SHAPES = (FILE, STREAM, [FILE], {"value": FILE}, {"a": [{"b": FILE}]}, {"path": FILE})


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    """The addresses that would have been asked for; everything that asks is replaced."""
    asked: list[str] = []
    Image.new("RGB", (4, 4)).save(tmp_path / "fetched.png")

    async def download(url, cache_dir):
        asked.append(url)
        return str(tmp_path / "fetched.png")

    async def get(url, *_, **__):
        asked.append(url)
        return httpx.Response(200, request=httpx.Request("GET", url))

    async def resolve(host):
        asked.append(host)
        raise ValueError("no network")

    monkeypatch.setattr(gradio.processing_utils, "async_ssrf_protected_download", download)
    monkeypatch.setattr(gradio.processing_utils, "async_ssrf_protected_get", get)
    monkeypatch.setattr(gradio.processing_utils, "save_url_to_cache", lambda url, cache_dir: asked.append(url))
    monkeypatch.setattr(safehttpx, "get", get)
    monkeypatch.setattr(safehttpx, "async_validate_url", resolve)
    return asked


@pytest.fixture
def app_page(host, lvlm_weights, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    page = app.build(host, Reader(*lvlm.load(lvlm_weights / "lvlm"), lvlm.MAX_NEW_TOKENS))
    yield app.serve(page, "127.0.0.1", None)[0]
    page.close()


@pytest.fixture
def study_page(ram, serve):
    return serve(make(ram / "study"), show_report=True)


@pytest.mark.parametrize("page", ["app_page", "study_page"])
def test_no_address_is_fetched_for_any_component(page, request, fetched):
    with httpx.Client(base_url=request.getfixturevalue(page), trust_env=False, timeout=120) as client:
        events = [event for event in client.get("/config").json()["dependencies"] if event["backend_fn"]]
        events = [event for event in events if event["inputs"]]
        assert events
        for number, shape in enumerate(SHAPES):
            for event in events:
                body = {
                    "data": [shape] * len(event["inputs"]),
                    "fn_index": event["id"],
                    "session_hash": f"visitor{number}",
                }
                assert client.post("/gradio_api/queue/join", json=body).status_code == 200
            answer = client.get(f"/gradio_api/queue/data?session_hash=visitor{number}").text
            messages = [json.loads(line.removeprefix("data: ")) for line in answer.splitlines() if line]
            done = [message for message in messages if message["msg"] == "process_completed"]
            assert len(done) == len(events)
            assert fetched == []
            assert all("addresses are not fetched" in message["output"]["error"] for message in done)
        for path in ("run/predict", "api/predict"):
            for event in events:
                body = {"data": [FILE] * len(event["inputs"]), "fn_index": event["id"], "session_hash": "direct"}
                assert client.post(f"/gradio_api/{path}", json=body).status_code in (404, 500)
    assert fetched == []


@pytest.fixture
def locked(ram, serve):
    """A study behind a password."""
    return serve(make(ram / "study"), password="open sesame", show_report=True)


def routes():
    """The methods and paths that Gradio answers, parameters filled in."""
    server = gradio.routes.App.create_app(gradio.Blocks())
    paths = {route.path: route.methods for route in server.routes if getattr(route, "methods", None)}
    for nested in (route.original_router for route in server.routes if hasattr(route, "original_router")):
        paths |= {route.path: route.methods for route in nested.routes}
    return sorted((method, re.sub(r"\{.+?\}", "x", path)) for path, methods in paths.items() for method in methods)


def test_without_the_password_there_is_only_the_login(locked):
    with httpx.Client(base_url=locked, trust_env=False, timeout=120) as client:
        asked = [*routes(), ("GET", "/openapi.json"), ("POST", "/gradio_api/reset"), ("GET", "/docs")]
        asked += [("POST", f"/study/{what}") for what in ("enter", "start", "vote", "back")]
        asked += [("GET", f"/study/picture/1/left/{'0' * 32}")]
        assert {path for _, path in asked} > {"/gradio_api/heartbeat/x", "/gradio_api/cancel", "/gradio_api/app_id"}
        for method, path in asked:
            if (method, path.rstrip("/")) == ("POST", "/login"):  # each is an attempt
                continue
            status = client.request(method, path).status_code
            is_login = path in guard.LOGIN or path.startswith(guard.LOGIN_FOLDERS)
            assert status in (401, 403) or is_login, (method, path, status)
        first = client.get("/")
        assert first.status_code == 200 and "auth_required" in first.text
        assert not re.search("study-left|Which picture is better|two red circles", first.text)
        for cookie in ("", "x=y", "access-token-unsecure-x=y", 'a="', "=;="):
            assert client.get("/gradio_api/app_id", headers={"cookie": cookie}).status_code == 401
        assert client.post("/login", data={"username": "ann", "password": "wrong"}).status_code == 400
        assert client.get("/gradio_api/app_id").status_code == 401
        assert client.post("/login", data={"username": "ann", "password": "open sesame"}).status_code == 200
        assert client.get("/gradio_api/app_id").status_code == 200 == client.get("/config").status_code
        assert "study-left" in client.get("/").text


def test_wrong_passwords_take_longer_and_longer(locked, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(attempts.time, "monotonic", lambda: now[0])

    def login(password, **headers):
        data = {"username": "ann", "password": password}
        answer = client.post("/login", data=data, headers=headers)
        return answer.status_code, re.findall(r"in (\d+) s", answer.text)

    with httpx.Client(base_url=locked, trust_env=False, timeout=120) as client:
        assert [login("wrong") for _ in range(3)] == 3 * [(400, [])]
        for seconds in (2, 4, 8, 16):
            assert login("wrong") == (400, [str(seconds)]) == login("open sesame")  # not even looked at
            now[0] += seconds - 0.5
            assert login("open sesame") == (400, ["1"])
            now[0] += 0.5
            assert login("wrong") == (400, [])
        assert login("open sesame", **{"x-forwarded-for": "192.0.2.7"}) == (200, [])  # another visitor
        now[0] += 32
        assert login("open sesame") == (200, [])
        assert [login("wrong") for _ in range(3)] == 3 * [(400, [])]  # forgiven


def test_attempts_end_somewhere(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(attempts.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(attempts, "MOST", 3)
    found = attempts.Attempts()
    for _ in range(2000):
        found.begin("a")
    assert found.wait("a") == attempts.LONGEST
    for who in "bcd":
        found.begin(who)
    assert set(found.wrong) == set("bcd")


@pytest.mark.parametrize(
    "host, allowed",
    [
        ("127.0.0.1:{port}", True),
        ("localhost:{port}", True),
        ("LOCALHOST.", True),
        ("[::1]:{port}", True),
        ("192.0.2.7", True),
        ("my.lab", True),
        ("evil.example:{port}", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("evil.example@localhost", True),
        ("[::1", False),
        ("", False),
    ],
)
def test_names_that_are_not_its_own_are_refused(ram, monkeypatch, host, allowed):
    """A page elsewhere can have its own name point to this machine, and read what is answered."""
    access = guard.Access(guard.names_of("0.0.0.0", ["My.Lab"]), ())
    assert access.is_ours(host.replace("{port}", "7860")) is allowed


def test_every_answer_has_its_headers_and_only_its_names_are_answered(study_page):
    with httpx.Client(base_url=study_page, trust_env=False, timeout=120) as client:
        for path in ("/", "/config", "/assets/none.js", "/gradio_api/upload"):
            headers = client.get(path).headers
            assert headers["x-frame-options"] == "DENY" and headers["x-content-type-options"] == "nosniff"
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
            assert headers["referrer-policy"] == "no-referrer"
            assert client.get(path, headers={"host": "evil.example"}).status_code == 421


def test_a_name_of_ones_own(ram):
    make(ram / "study")
    args = study.parse([str(ram / "study"), "--name", "study.lab", "lab"])
    assert guard.names_of(args.host, args.name) == {"localhost", "127.0.0.1", "study.lab", "lab"}
    assert app.parse(["--name", "study.lab"]).name == ["study.lab"]


def test_large_bodies_are_refused(study_page):
    event = b'{"data": ["' + b"x" * guard.MAX_BODY + b'"], "fn_index": 0, "session_hash": "a"}'

    def in_parts():
        yield from (event[i : i + 1_000_000] for i in range(0, len(event), 1_000_000))

    with httpx.Client(base_url=study_page, trust_env=False, timeout=120) as client:
        for path in ("/gradio_api/queue/join", "/gradio_api/run/predict"):
            for content in (event, in_parts()):  # without a length the latter
                headers = {"content-type": "application/json"}
                assert client.post(path, content=content, headers=headers).status_code == 413, path
        assert client.get("/config").status_code == 200


def test_uploads_have_a_quota_for_each_visitor(app_page, monkeypatch):
    monkeypatch.setattr(guard, "QUOTA", 500_000)
    now = [1000.0]
    monkeypatch.setattr(guard.time, "monotonic", lambda: now[0])

    def upload(size, **headers):
        files = {"files": ("a.png", bytes(size))}
        return client.post("/gradio_api/upload", files=files, headers=headers).status_code

    with httpx.Client(base_url=app_page, trust_env=False, timeout=120) as client:
        assert [upload(200_000) for _ in range(3)] == [200, 200, 429]
        assert upload(10) == 200 and upload(10) == 429  # small ones count, too
        assert upload(200_000, **{"x-forwarded-for": "192.0.2.7"}) == 200  # another, by a proxy of this machine
        assert client.get("/config").status_code == 200
        now[0] += guard.WINDOW + 1
        assert upload(200_000) == 200
