"""A study as a rater meets it, in Chromium: ten votes, the back button, keys, the report; on a desk and a phone.

Pictures of what was seen are kept in ``outputs/study_screens``.
"""

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from study_folder import make

from demos.study.votes import VOTES
from docs import screenshots

SCREENS = Path("outputs/study_screens")
PATIENCE = 120_000  # milliseconds
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(screenshots.find_chromium() is None, reason="no Chromium: apt-get install chromium"),
]


@pytest.fixture
def folder(ram):
    return make(ram / "study", methods=("dynamic", "static:4", "interval:5"), side=64)


@pytest.fixture
def address(folder, serve):
    return serve(folder, questions=("overall", "text"), check_every=0)


@pytest.fixture
def browser(tmp_path):
    api = pytest.importorskip("playwright.sync_api", reason='no Playwright: pip install -e ".[dev]"')
    with api.sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path / "profile",
            executable_path=screenshots.find_chromium(),
            headless=True,
            args=list(screenshots.FLAGS),
            viewport={"width": 1100, "height": 900},
        )
        context.set_default_timeout(PATIENCE)
        yield context
        context.close()


def votes(folder):
    with closing(sqlite3.connect(folder / VOTES)) as connection:
        query = "SELECT assignment || ':' || question, choice FROM votes"
        return dict(connection.execute(query).fetchall())


def shown(page):
    return page.eval_on_selector(".question", "question => question.dataset.shown")


def begin(page, address):
    """Opens the page and agrees."""
    page.goto(address)
    page.click("#study-start")
    page.wait_for_function("document.querySelector('#study-left')?.disabled === false")


def after(page, action):
    """Waits until something else is on the screen."""
    before = shown(page)
    action()
    page.wait_for_function("before => document.querySelector('.question').dataset.shown !== before", arg=before)
    return before


def test_ten_votes_back_and_the_report(folder, address, browser):
    SCREENS.mkdir(parents=True, exist_ok=True)
    errors = []
    page = browser.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: line.type == "error" and errors.append(line.text))  # what the headers forbid
    page.on("dialog", lambda dialog: errors.append(dialog.message))  # an alert from a prompt taken for markup
    page.goto(address)
    page.wait_for_selector("#study-start")
    page.screenshot(path=SCREENS / "introduction.png")
    begin(page, address)
    page.screenshot(path=SCREENS / "desk.png")

    expected = {}
    keys = {"left": "ArrowLeft", "tie": "t", "bad": "b", "right": "ArrowRight"}
    for number in range(10):
        choice = ("left", "right", "bad", "tie")[number % 4]
        if number % 2:
            expected[after(page, lambda key=keys[choice]: page.keyboard.press(key))] = choice
        else:
            expected[after(page, lambda side=choice: page.click(f"#study-{side}"))] = choice
        assert votes(folder) == expected  # on the disk before the next pair is on the screen

    here = after(page, lambda: page.click("#study-back"))
    page.wait_for_selector("#study-right.chosen")  # the tenth
    tenth = shown(page)
    assert expected[tenth] == "right"
    after(page, lambda: page.click("#study-tie"))
    expected[tenth] = "tie"
    assert votes(folder) == expected and shown(page) == here

    page.evaluate("() => { for (let i = 0; i < 3; i++) document.getElementById('study-right').click(); }")
    page.wait_for_function("before => document.querySelector('.question').dataset.shown !== before", arg=here)
    page.wait_for_timeout(1500)
    expected[here] = "right"
    assert votes(folder) == expected  # an impatient rater voted once

    page.reload()
    page.wait_for_function("document.querySelector('#study-left')?.disabled === false")
    assert shown(page) not in expected  # goes on where they were

    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(500)
    page.screenshot(path=SCREENS / "phone.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    boxes = [page.locator(f"#study-{side}").bounding_box() for side in ("left", "tie", "bad", "right")]
    assert len({box["y"] for box in boxes}) == 1 and all(box["height"] >= 44 for box in boxes)
    assert boxes[0]["y"] + boxes[0]["height"] < 844

    page.set_viewport_size({"width": 1100, "height": 900})
    page.get_by_role("tab", name="Report").click()
    page.wait_for_selector(".report table")
    page.screenshot(path=SCREENS / "report.png", full_page=True)
    assert page.inner_text(".report p").startswith(f"{len(expected)} votes of 1 rater ")
    page.emulate_media(color_scheme="dark")
    page.evaluate("document.body.classList.add('dark')")
    page.wait_for_timeout(500)
    page.screenshot(path=SCREENS / "report_dark.png", full_page=True)
    page.set_viewport_size({"width": 390, "height": 844})
    page.screenshot(path=SCREENS / "report_phone.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390  # wide tables scroll by themselves
    cells = page.eval_on_selector_all(".wide td", "cells => cells.map((cell) => getComputedStyle(cell).whiteSpace)")
    assert cells and set(cells) == {"nowrap"}
    assert errors == []


def test_behind_a_password(folder, serve, browser):
    page = browser.new_page()
    wrong = []
    page.on("console", lambda line: line.type == "error" and wrong.append(line.text))
    page.goto(serve(folder, password="open sesame"))
    page.locator("input").first.fill("ann")
    page.locator("input[type=password]").fill("open sesame")
    page.keyboard.press("Enter")
    page.click("#study-start")
    page.wait_for_function("document.querySelector('#study-left')?.disabled === false")
    after(page, lambda: page.click("#study-left"))
    assert wrong == [] and len(votes(folder)) == 1


def test_keys_that_scroll_are_no_votes(folder, address, browser):
    page = browser.new_page()
    page.set_viewport_size({"width": 800, "height": 260})
    begin(page, address)
    for key in ("ArrowDown", "PageDown", "End"):
        page.evaluate("scrollTo(0, 0)")
        page.keyboard.press(key)
        page.wait_for_function("scrollY > 0")
    page.keyboard.press("Space")
    page.wait_for_timeout(1000)
    assert votes(folder) == {}


@pytest.mark.parametrize("size", [(1366, 620), (1280, 600), (390, 664)])
def test_the_answers_are_on_the_screen_with_the_pictures(folder, address, browser, size):
    page = browser.new_page()
    page.set_viewport_size(dict(zip(("width", "height"), size, strict=True)))
    begin(page, address)
    for where in ("#study-left", "#study-tie", "#study-bad", "#study-right", ".pair img"):
        box = page.locator(where).first.bounding_box()
        assert box["y"] + box["height"] <= size[1], where
    assert page.locator(".pair img").first.bounding_box()["width"] >= 140


def test_a_tap_leaves_no_mark_on_the_next_pair(folder, address, browser):
    """Else the answer that was given last would stand out, which is no way to ask."""
    context = browser.browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    begin(page, address)
    assert not page.evaluate("matchMedia('(hover: hover)').matches"), "as on a phone"
    looks = """() => ['tie', 'bad'].concat(['left', 'right']).map((side) => {
      const look = getComputedStyle(document.getElementById('study-' + side));
      return [look.backgroundColor, look.color, look.borderColor, look.boxShadow, look.outlineStyle].join(' ');
    })"""
    for side in ("left", "tie", "bad", "right"):
        after(page, lambda side=side: page.tap(f"#study-{side}"))
        page.wait_for_timeout(800)  # colours change slowly
        assert len(set(page.evaluate(looks))) == 1
    context.close()


def test_nothing_tells_what_made_a_picture(folder, address, browser):
    page = browser.new_page()
    sent = []
    page.on("response", lambda response: sent.append(response.url))
    begin(page, address)
    html = page.content()
    assert "dynamic" not in html and "static:4" not in html and "images/" not in html
    assert not [url for url in sent if "file=" in url]
    sources = [picture.get_attribute("src") for picture in page.locator(".pair img").all()]
    opaque = re.compile(r"study/picture/\d+/(left|right)/[0-9a-f]{32}")
    assert len(sources) == 2 and all(map(opaque.fullmatch, sources))


def test_a_tap_enlarges_a_picture_and_votes_on_nothing(folder, address, browser):
    context = browser.browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    begin(page, address)
    page.tap("#study-zoom-right")
    page.wait_for_selector(".study-zoomed[open]")
    box = page.locator(".study-zoomed img").bounding_box()
    assert box["width"] == 390 and box["height"] == 844
    page.screenshot(path=SCREENS / "zoom.png")
    page.keyboard.press("ArrowLeft")  # the other one, in its place
    sources = [page.evaluate(f"document.querySelector('{of} img').src") for of in (".study-zoomed", "#study-zoom-left")]
    assert sources[0] == sources[1]
    page.keyboard.press("b")
    page.tap(".study-zoomed img")
    page.wait_for_selector(".study-zoomed", state="hidden")
    page.wait_for_timeout(500)
    assert votes(folder) == {}
    context.close()


def test_a_vote_that_does_not_arrive_is_tried_again(folder, address, browser):
    page = browser.new_page()
    begin(page, address)
    before = shown(page)
    page.route("**/study/vote", lambda route: route.abort())
    page.click("#study-bad")
    page.wait_for_selector(".study-failed button")
    assert votes(folder) == {} and shown(page) == before
    page.unroute("**/study/vote")
    after(page, lambda: page.click("#study-again"))
    assert votes(folder) == {before: "bad"}


def test_a_link_that_leads_to_nobody_is_one_rater(folder, address, browser):
    page = browser.new_page()
    begin(page, f"{address}?rater=cut-short")
    after(page, lambda: page.click("#study-left"))
    second = shown(page)
    for _ in range(2):
        page.reload()
        page.wait_for_function("document.querySelector('#study-left')?.disabled === false")
        assert shown(page) == second
    with closing(sqlite3.connect(folder / VOTES)) as connection:
        assert connection.execute("SELECT count(*) FROM raters").fetchone() == (1,)


def test_a_page_in_the_languages_of_its_raters(folder, serve, browser):
    from demos.study import texts

    german = {key: f"{key} auf Deutsch" for key in texts.ENGLISH}
    own = {
        "en": {"questions": {"hands": "Where are the hands better?"}},
        "de": german | {"questions": {"hands": "Wo sind die Hände besser?"}},
    }
    address = serve(folder, questions=("hands",), texts=own, check_every=0, show_report=False)
    context = browser.browser.new_context(locale="de-AT")
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("#study-start")
    assert page.inner_text("#study-start") == "start auf Deutsch"
    page.get_by_role("button", name="English").click()
    assert page.inner_text("#study-start") == texts.ENGLISH["start"]
    page.get_by_role("button", name="Deutsch").click()
    page.click("#study-start")
    page.wait_for_function("document.querySelector('#study-left')?.disabled === false")
    assert page.inner_text(".question h2") == "Wo sind die Hände besser?"
    assert page.inner_text("#study-bad") == "bad auf Deutsch"
    with closing(sqlite3.connect(folder / VOTES)) as connection:
        assert connection.execute("SELECT text, language FROM consents").fetchall() == [("consent auf Deutsch", "de")]
    context.close()
