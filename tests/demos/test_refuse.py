"""Both pages as servers: nothing is fetched from an address for a visitor."""

import json

import gradio.processing_utils
import httpx
import pytest
import safehttpx
from PIL import Image
from small_lvlm import lvlm_weights
from study_folder import make

from demos.app import command as app
from demos.app.ask_page import Reader
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
    yield app.serve(page, "127.0.0.1", None, block=False)
    page.close()


@pytest.fixture
def study_page(ram, serve):
    return serve(make(ram / "study"), show_report=True)


@pytest.mark.parametrize("page", ["app_page", "study_page"])
def test_no_address_is_fetched_for_any_component(page, request, fetched):
    with httpx.Client(base_url=request.getfixturevalue(page), trust_env=False, timeout=120) as client:
        events = [event for event in client.get("/config").json()["dependencies"] if event["backend_fn"]]
        events = [event for event in events if event["inputs"]]
        assert len(events) > 3
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
