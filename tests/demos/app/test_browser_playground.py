"""What makes the Playground quick to use, by a browser."""

import json
import re
import urllib.request

import pytest
from app_browser import OUT, STEPS, address, browser, browser_marks, lvlm_weights, picture_of, set_steps
from PIL import Image

from docs import screenshots

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install -e '.[dev]'")
pytestmark = browser_marks
__all__ = ["address", "browser", "lvlm_weights"]


def choose(page, *labels):
    """Ways of guidance, and no others."""
    for wanted in (False, True):  # never three at once
        for box in page.locator("#methods label").all():
            if (box.inner_text().strip() in labels) == wanted:
                box.locator("input").set_checked(wanted)


def make(page, prompt):
    """A picture, and no more."""
    page.fill("#prompt textarea", prompt)
    page.click("#generate")
    page.get_by_alt_text(re.compile(f"^{prompt}, by .*, seed")).first.wait_for()


def test_keys_start_it(browser, address):
    page = screenshots.visit(browser, address)
    set_steps(page, 2)
    page.fill("#prompt textarea", "a pink heart")
    page.locator("#prompt textarea").press("Enter")
    page.get_by_alt_text("a pink heart, by Noise, seed 0").wait_for()
    page.locator("#seed input").fill("5")
    page.locator("#seed input").press("Control+Enter")
    page.get_by_alt_text("a pink heart, by Static, seed 5").wait_for()


def test_one_who_waits_is_told_and_leaves_at_once(browser, address, host):
    pages = [screenshots.visit(browser, address) for _ in range(2)]
    with host.turns.turn(cost=50):
        pages[0].click("#generate")
        pages[0].get_by_text("1 before you").wait_for()
        pages[1].click("#generate")
        pages[1].get_by_text("2 before you").wait_for()
        pages[0].click("#cancel")
        pages[0].get_by_text("Cancelled.").wait_for(timeout=5_000)
        pages[1].get_by_text("1 before you").wait_for()
        pages[1].click("#generate")  # anew: the one before is gone
        pages[1].get_by_text("1 before you").wait_for()
        pages[1].click("#cancel")
        pages[1].get_by_text("Cancelled.").wait_for(timeout=5_000)


def test_on_a_phone_the_page_goes_to_the_result(browser, address):
    page = screenshots.visit(browser, address, screenshots.PHONE)
    set_steps(page, 2)
    page.evaluate("scrollTo(0, 0)")
    assert page.locator("#stage").bounding_box()["y"] > screenshots.PHONE[1]
    page.locator("#generate").click()
    page.wait_for_function("document.getElementById('stage').getBoundingClientRect().top < innerHeight / 2")
    picture_of(page, "right")


def test_methods_seeds_and_several_pictures(browser, address):
    page = screenshots.visit(browser, address)
    set_steps(page, STEPS)
    choose(page, "Noise", "Best of two")
    page.locator("#methods label").get_by_text("Budget").click()  # a third: the one before the last goes
    checked = page.locator("#methods label:has(input:checked)")
    page.locator("#methods label", has_text="Noise").locator("input:not(:checked)").wait_for()
    assert [box.strip() for box in checked.all_inner_texts()] == ["Best of two", "Budget"]
    page.get_by_text("two whole pictures that way").wait_for()
    page.click("#random")
    page.wait_for_function("document.querySelector('#seed input').value !== '0'")
    seed = int(page.input_value("#seed input"))
    count = page.locator("#count input[type=number]")
    count.fill("2"), count.press("Tab")
    page.click("#generate")
    first = picture_of(page, "right")
    page.locator("#stage .strip button").get_by_text(f"seed {seed + 1}").click()
    page.get_by_alt_text(f"by Budget, seed {seed + 1}").wait_for()
    assert picture_of(page, "right") != first
    screenshots.shoot(page, OUT / "playground_several.png")
    page.locator("#seed input").fill("0")
    page.click("#last")
    page.wait_for_function(f"document.querySelector('#seed input').value === '{seed + 1}'")
    page.locator("#fresh input").check()
    page.click("#generate")
    page.wait_for_function(f"!['0', '{seed}', '{seed + 1}'].includes(document.querySelector('#seed input').value)")


def test_reload_history_and_reuse(browser, address):
    page = screenshots.visit(browser, address)
    set_steps(page, 2)
    choose(page, "Static")
    make(page, "a yellow star")
    choose(page, "Static", "Budget")
    make(page, "a blue ring")
    last = picture_of(page, "right")
    page.fill("#prompt textarea", "a green cross")
    until_kept(page, "playground")
    page.reload()
    assert picture_of(page, "right") == last
    page.wait_for_function("document.querySelector('#prompt textarea').value === 'a green cross'")
    assert page.input_value("#steps input[type=number]") == "2"
    page.locator("#history button", has_text="a yellow star").click()
    page.get_by_alt_text("a yellow star, by Static, seed 0").first.wait_for()
    screenshots.shoot(page, OUT / "playground_history.png")
    page.click("#reuse")
    page.wait_for_function("document.querySelector('#prompt textarea').value === 'a yellow star'")
    assert page.locator("#methods label:has(input:checked)").all_inner_texts() == ["Static"]


def until_kept(page, where):
    """Waits for what the browser keeps of a tab's inputs, which cannot be read there, to change no more."""
    page.wait_for_function(
        """async (key) => {
          const before = localStorage.getItem(key);
          await new Promise((done) => setTimeout(done, 1000));
          return before !== null && before === localStorage.getItem(key);
        }""",
        arg=f"online-guidance-{where}",
    )


def test_the_other_tabs_are_as_they_were_left(browser, address, host):
    page = screenshots.visit(browser, address)
    screenshots.open_tab(page, "Explorer")
    page.fill("#prompts textarea", "a fox")
    page.locator("#explorer-steps input[type=number]").fill("3")
    page.locator("#explorer-steps input[type=number]").press("Tab")
    page.get_by_role("radio", name="Static").check()
    until_kept(page, "explorer")
    page.reload()
    page.get_by_role("tab", name="Explorer", selected=True).wait_for()
    page.wait_for_function("document.querySelector('#prompts textarea').value === 'a fox'")
    assert page.input_value("#explorer-steps input[type=number]") == "3"
    assert page.get_by_role("radio", name="Static").is_checked()

    screenshots.open_tab(page, "Ask")
    page.locator("#asked").get_by_text("what does the sign say?").click()
    page.locator("#picture img").wait_for()
    page.fill("#question textarea", "what color is it?")
    until_kept(page, "ask")
    (visit,) = host.visits.visits.values()
    while not visit.made.get("picture"):
        page.wait_for_timeout(100)
    page.reload()
    page.get_by_role("tab", name="Ask", selected=True).wait_for()
    page.wait_for_function("document.querySelector('#question :is(input, textarea)').value === 'what color is it?'")
    page.locator("#picture img").wait_for()


def test_take_home_and_drag_back_in(browser, address, tmp_path):
    page = screenshots.visit(browser, address)
    set_steps(page, 2)
    page.locator("#seed input").fill("7")
    screenshots.generate(page, "a pink heart")
    for link, name in (("Download the PNG of Static", "picture.png"), ("Download the Trace of Static", "trace.json")):
        with page.expect_download() as download:
            page.get_by_label(link).click()
        download.value.save_as(tmp_path / name)
    told = json.loads(Image.open(tmp_path / "picture.png").info["guidance"])
    assert (told["prompt"], told["seed"], told["guidance"]) == ("a pink heart", 7, "static")
    assert len(json.loads((tmp_path / "trace.json").read_text())["steps"]) == 2

    other = screenshots.visit(browser, address)
    content = list((tmp_path / "picture.png").read_bytes())
    other.evaluate(
        """(bytes) => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(bytes)], 'picture.png', {type: 'image/png'}));
          for (const kind of ['dragover', 'drop']) {
            document.body.dispatchEvent(new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}));
          }
        }""",
        content,
    )
    other.wait_for_function("document.querySelector('#prompt textarea').value === 'a pink heart'")
    assert (other.input_value("#seed input"), other.input_value("#steps input[type=number]")) == ("7", "2")


def test_slider_and_large(browser, address):
    page = screenshots.visit(browser, address)
    set_steps(page, 2)
    screenshots.generate(page, "a pink heart")
    page.get_by_role("button", name="Slider").click()
    left, right = (page.locator(f"#stage .{side} .open").bounding_box() for side in ("left", "right"))
    assert left == right  # one above the other
    cut = page.get_by_label("Where the left picture ends")
    cut.focus()
    page.keyboard.press("Home")
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    page.wait_for_function(  # it glides there
        "getComputedStyle(document.querySelector('#stage .right .open')).clipPath === 'inset(0px 0px 0px 10%)'"
    )
    screenshots.shoot(page, OUT / "playground_slider.png")
    page.get_by_role("button", name="Side by side").click()
    page.locator("#stage .left .open").click()
    box = page.locator("dialog.box")
    assert box.locator("img").get_attribute("alt") == "a pink heart, by Noise, seed 0"
    screenshots.shoot(page, OUT / "playground_large.png")
    page.keyboard.press("ArrowRight")
    assert box.locator("img").get_attribute("alt") == "a pink heart, by Static, seed 0"
    page.keyboard.press("Escape")
    assert not box.is_visible()


def test_examples_and_advice(browser, address):
    page = screenshots.visit(browser, address)
    page.fill("#prompt textarea", "a fox")
    page.get_by_text("never saw: fox").wait_for()
    page.get_by_role("button", name="three green triangles").click()
    page.locator("#advice .advice").wait_for(state="detached")
    assert page.input_value("#prompt textarea") == "three green triangles"
    screenshots.open_tab(page, "Explorer")
    page.locator("#sets").get_by_text("Signs").click()
    page.wait_for_function("document.querySelector('#prompts textarea').value.split('\\n').length === 3")
    screenshots.open_tab(page, "Ask")
    page.locator("#asked").get_by_text("what does the sign say?").click()
    page.locator("#picture img").wait_for()
    page.wait_for_function("document.querySelector('#question :is(input, textarea)').value.includes('sign')")


def test_files_are_served_to_who_knows_them(browser, address):
    page = screenshots.visit(browser, address)
    set_steps(page, 2)
    screenshots.generate(page, "a pink heart")
    source = picture_of(page, "left")
    with urllib.request.urlopen(f"{address}{source}") as answer:
        assert answer.headers["content-type"] == "image/png"
    folder = re.sub("/[^/]+$", "", source)
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"{address}{folder}")
