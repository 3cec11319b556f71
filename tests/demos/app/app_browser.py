"""The app served to a browser, for tests that use it as a person would."""

from pathlib import Path

import pytest
from small_lvlm import lvlm_weights

from demos.app import command as app
from demos.app.ask_page import Reader
from docs import screenshots
from tinyworld import lvlm

__all__ = ["address", "browser", "browser_marks", "lvlm_weights"]
OUT = Path(__file__).parents[2] / "outputs" / "screenshots"
STEPS = 6
browser_marks = [
    pytest.mark.browser,
    pytest.mark.skipif(screenshots.find_chromium() is None, reason="no Chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def browser():
    OUT.mkdir(parents=True, exist_ok=True)
    with screenshots.chromium() as browser:
        yield browser


@pytest.fixture
def address(host, lvlm_weights, tmp_path, monkeypatch):
    page = app.build(host, Reader(*lvlm.load(lvlm_weights / "lvlm"), lvlm.MAX_NEW_TOKENS))
    yield app.serve(page, "127.0.0.1", None)[0]
    page.close()


def set_steps(page, steps):
    field = page.locator("#steps input[type=number]")
    field.fill(str(steps))
    field.press("Tab")


def picture_of(page, side):
    """Of one side of the stage, once it is there: its file's address."""
    page.locator(f"#stage .shot.{side} .links").wait_for()
    return page.locator(f"#stage .shot.{side} .open img").get_attribute("src")
