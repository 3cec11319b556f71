"""How the app is started, and who gets in."""

import argparse
import http.client
import re
from types import SimpleNamespace
from urllib.parse import urlencode

import pytest
from small_lvlm import lvlm_weights

from demos import guard
from demos.app import command as app
from demos.app.ask_page import Reader
from tinyworld import lvlm

__all__ = ["lvlm_weights"]


def test_only_who_knows_the_password_gets_in(host, lvlm_weights):
    page = app.build(host, Reader(*lvlm.load(lvlm_weights / "lvlm"), lvlm.MAX_NEW_TOKENS))
    address, shared = app.serve(page, "127.0.0.1", None, password="open sesame")
    place = re.search(r"//(.+?)/?$", address)[1]

    def ask(method, path, body=None, cookie=""):
        connection = http.client.HTTPConnection(place, timeout=60)
        kind = {"Content-Type": "application/x-www-form-urlencoded"} if body else {}
        connection.request(method, path, body, {"Cookie": cookie, **kind})
        response = connection.getresponse()
        response.read()
        connection.close()
        return response

    try:
        assert shared is None and ask("GET", "/").status == 200  # where one logs in
        for path in ("/config", "/gradio_api/heartbeat/x", "/gradio_api/app_id"):
            assert ask("GET", path).status == 401
        assert ask("POST", "/login", urlencode({"username": "ann", "password": "sesame"})).status == 400
        login = ask("POST", "/login", urlencode({"username": "ann", "password": "open sesame"}))
        cookies = "; ".join(value.partition(";")[0] for value in login.headers.get_all("set-cookie"))
        assert login.status == 200 and ask("GET", "/config", cookie=cookies).status == 200
    finally:
        page.close()


@pytest.fixture
def nothing_loads(embedded, monkeypatch):
    """Whatever takes time is left out; a list of what `guard.serve` was asked."""
    asked = []

    def serve(page, host, port, access, **options):
        asked.append(options | {"password": access.password})
        return "http://127.0.0.1:7860/", None

    page = SimpleNamespace(close=lambda verbose: asked.append("closed"))
    for name in ("load_host", "load_reader", "load_study"):
        monkeypatch.setattr(app, name, lambda args: None)
    monkeypatch.setattr(app, "build", lambda *parts: page)
    monkeypatch.setattr(guard, "serve", serve)
    monkeypatch.delenv(app.PASSWORD, raising=False)

    def interrupt(event, seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(app.threading.Event, "wait", interrupt)
    return asked


def test_it_says_where_it_is_and_ends_with_a_line(nothing_loads, capsys):
    app.main(["--port", "0"])
    captured = capsys.readouterr()
    assert captured.out == (
        "Online guidance, with its embedded model on cpu\n  open      http://127.0.0.1:7860/\n  end       Ctrl+C\n"
    )
    assert captured.err == "\nended\n" and nothing_loads[-1] == "closed"


def test_a_share_that_fails_ends_it(nothing_loads, capsys):
    with pytest.raises(SystemExit) as stop:
        app.main(["--port", "0", "--share"])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "warning: --share without --password" in said
    assert "argument --share: there is no public link" in said and nothing_loads[-1] == "closed"


def test_password_is_from_the_environment(nothing_loads, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        app.main(["--port", "0", "--password"])  # no terminal to ask
    assert stop.value.code == 2 and app.PASSWORD in capsys.readouterr().err
    monkeypatch.setenv(app.PASSWORD, "open sesame")
    app.main(["--port", "0", "--password"])
    assert nothing_loads[0]["password"] and nothing_loads[0]["auth"]("ann", "open sesame")
    assert not nothing_loads[0]["auth"]("ann", "sesame")


def test_what_is_said_of_the_public():
    args = argparse.Namespace(host="0.0.0.0", model="my_sdxl", device="cuda", password=False)
    said = app.banner(args, "http://0.0.0.0:7860/", "https://x.gradio.live")
    assert "the model my_sdxl on cuda" in said and "https://x.gradio.live" in said
    assert "none: whoever reaches it gets in" in said
    args.password = True
    assert "password  asked" in app.banner(args, "http://0.0.0.0:7860/", None)


def test_a_judge_that_does_not_load_is_one_line(embedded, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tinyworld.asking.WEIGHTS", tmp_path)
    args = app.parse([])
    app.generate.check_late(args)
    with pytest.raises(SystemExit):
        app.load_host(args)
    line = capsys.readouterr().err
    assert line.startswith("error: ") and "cannot be loaded" in line and line.count("\n") == 1
