"""The app by a browser, as a person would use it: ``python -m pytest -m browser``. Screenshots go to
outputs/screenshots/, to be looked at."""

import re
import time

import pytest
from app_browser import OUT, STEPS, address, browser, browser_marks, lvlm_weights, set_steps
from app_inputs import Visitor
from PIL import Image

from demos.app import playground
from docs import screenshots
from tinyworld.pipeline import SCALES
from tinyworld.scenes import make_scene

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install -e '.[dev]'")
pytestmark = browser_marks
__all__ = ["address", "browser", "lvlm_weights"]


def step_of(page):
    return int(page.input_value("#step input[type=number]"))


def test_generate_see_the_plot_choose_a_step(browser, address):
    page = screenshots.visit(browser, address)
    broken: list[str] = []
    page.on("pageerror", lambda error: broken.append(str(error)))
    page.on("console", lambda line: line.type == "error" and broken.append(line.text))  # what the headers forbid
    page.get_by_label("Noise", exact=True).uncheck()
    page.get_by_label("Dynamic scale", exact=True).check()
    screenshots.generate(page, "three green triangles", STEPS)
    for side in ("left", "right"):
        assert page.locator(f"#stage .{side} img").evaluate("image => image.naturalWidth") == 64
    assert page.locator("#schedule .heatmaplayer .hm").count() == 4  # clip, discriminator, reward, combined
    legend = page.locator("#why div.legend")
    assert legend.is_visible() and "chosen" in legend.inner_text() and "by itself" in legend.inner_text()
    first = step_of(page)
    assert page.locator("#candidates .card").count() == len(SCALES)
    assert page.locator("#candidates .card mark").inner_text() == "chosen"
    screenshots.shoot(page, OUT / "playground.png")

    plot = page.locator("#schedule .nsewdrag").first
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    before = page.locator("#candidates").inner_html()
    plot.hover(position={"x": box["width"] * (2 - 0.4) / (STEPS + 0.2), "y": box["height"] / 2})  # over step 2
    page.locator("#candidates mark").get_by_text("kept").wait_for()
    assert (step_of(page), first) == (2, 3)
    assert page.locator("#candidates").inner_html() != before
    line = page.evaluate("document.querySelector('#schedule .js-plotly-plot').layout.shapes[0].x0")
    assert line == 2

    seen = page.evaluate("""async () => {
      const plot = document.querySelector('#schedule .js-plotly-plot');
      const input = document.querySelector('#step input[type=number]');
      const point = (kind, step) => plot.emit(kind, {points: [{x: step}]});
      const chosen = [];
      input.addEventListener('change', () => chosen.push(Number(input.value)));
      for (const step of [3, 4, 5, 6]) point('plotly_hover', step);
      chosen.push('crossed');
      await new Promise((done) => setTimeout(done, 1000));
      point('plotly_hover', 5);
      plot.emit('plotly_unhover', {});
      await new Promise((done) => setTimeout(done, 1000));
      point('plotly_click', 2);
      chosen.push('clicked');
      return chosen;
    }""")
    assert seen == ["crossed", 6, 2, "clicked"]  # where the pointer rests, and at once where it clicks

    page.locator("#step input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    page.locator("#candidates mark").get_by_text("chosen").wait_for()
    assert step_of(page) == 3
    assert broken == []


def test_dark_and_on_a_phone(browser, address):
    page = screenshots.visit(browser, address, screenshots.PHONE, "dark")
    screenshots.generate(page, "a pink heart", STEPS)
    screenshots.shoot(page, OUT / "playground_phone_dark.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= screenshots.PHONE[0]
    ground, text = (
        page.evaluate(f"getComputedStyle(document.querySelector('{where}')).{what}").removeprefix("rgb(").split(",")[0]
        for where, what in (("body", "backgroundColor"), ("#schedule .xtitle, #schedule text", "fill"))
    )
    assert int(ground) < 60 < 180 < int(text)  # light letters on dark ground, in the plot too


def test_cancel_then_generate_again(browser, address, monkeypatch):
    run = playground.run

    def slowly(*work):  # else a quiet machine is done before the click
        *given, report = work
        return run(*given, lambda progress: (time.sleep(0.05), report(progress))[1])

    monkeypatch.setattr(playground, "run", slowly)
    page = screenshots.visit(browser, address)
    page.fill("#prompt textarea", "a yellow star")
    set_steps(page, 100)
    page.click("#generate")
    page.get_by_text(re.compile(r"step \d+ of 100")).wait_for()
    page.click("#cancel")
    page.get_by_text("Cancelled.").wait_for()
    monkeypatch.undo()
    screenshots.generate(page, "a yellow star", STEPS)
    assert page.get_by_text("of 100").count() == 0


def test_errors_are_messages(browser, address):
    page = screenshots.visit(browser, address)
    page.fill("#prompt textarea", " ")
    page.click("#generate")
    page.get_by_text("Prompt must not be blank").wait_for()
    assert "Traceback" not in page.content()


def test_explore_with_a_prompt_that_is_html(browser, address):
    page = screenshots.visit(browser, address)
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    screenshots.open_tab(page, "Explorer")
    prompt = "<img src=x onerror=alert(1)><b>a fox</b>"
    page.fill("#prompts textarea", f"a red circle\n{prompt}")
    screenshots.explore(page)
    page.locator("#pictures figcaption").get_by_text(prompt).wait_for()
    assert page.locator("#pictures img").count() == 2
    assert page.locator("#schedules .js-plotly-plot").get_by_text("one object (1)").count() == 1
    screenshots.shoot(page, OUT / "explorer.png")
    assert dialogs == [] and page.locator("img[src='x']").count() == 0


def test_ask_a_question(browser, address, tmp_path):
    Image.fromarray(make_scene(0).image).save(tmp_path / "scene.png")
    page = screenshots.visit(browser, address)
    screenshots.open_tab(page, "Ask")
    page.set_input_files("#picture input[type=file]", tmp_path / "scene.png")
    page.locator("#picture img").wait_for()
    page.fill("#question textarea", "how many red circles?")
    page.click("#ask")
    page.locator("#answer .card").first.wait_for()
    assert page.locator("#answer .card").count() == 3
    assert page.locator("#answer .card").last.inner_text().endswith("32 of 256 tokens")
    screenshots.shoot(page, OUT / "ask.png")


def test_what_is_no_picture(browser, address, tmp_path):
    (tmp_path / "text.png").write_text("text")
    page = screenshots.visit(browser, address)
    screenshots.open_tab(page, "Ask")
    page.set_input_files("#picture input[type=file]", tmp_path / "text.png")
    page.locator("#picture img").wait_for(state="attached")
    page.fill("#question textarea", "what?")
    page.click("#ask")
    page.get_by_text("Picture cannot be read").wait_for()
    screenshots.shoot(page, OUT / "no_picture.png")
    assert "Traceback" not in page.content()


def test_two_visitors_do_not_mix(browser, address, host):
    prompts = ("two red circles", "a blue star")
    pages = [screenshots.visit(browser, address) for _ in prompts]
    for page, prompt in zip(pages, prompts, strict=True):  # both wait in the queue at once
        page.fill("#prompt textarea", prompt)
        set_steps(page, STEPS)
    for page in pages:
        page.click("#generate")
    for page, prompt in zip(pages, prompts, strict=True):
        page.get_by_text("Same prompt, same noise").wait_for()
        page.locator("#schedule .js-plotly-plot .main-svg").first.wait_for()
        scales = page.evaluate("document.querySelector('#schedule .js-plotly-plot').data[0].y")
        _, made = Visitor(host).finish(prompt=prompt, seed=0, steps=STEPS, scales=host.settings.scales)
        assert list(scales) == pytest.approx(made.rows[0][0].trace.scales[:, 0].tolist())
        steps = page.locator("#candidates .card img").all()
        assert len(steps) == 1  # draws are chosen at one scale
        assert all(step.get_attribute("src").startswith("data:image/png;base64,") for step in steps)
