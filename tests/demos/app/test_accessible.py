"""axe-core finds nothing wrong with the app and the study, light and dark, wide and as on a phone."""

from pathlib import Path

import pytest
from app_browser import STEPS, address, browser, browser_marks, lvlm_weights, set_steps
from study_folder import make

from docs import screenshots

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install -e '.[dev]'")
axe = pytest.importorskip("axe_playwright_python", reason="axe-core is not installed: pip install -e '.[dev]'")
pytestmark = browser_marks
__all__ = ["address", "browser", "lvlm_weights"]
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]


def wrong(page) -> list[str]:
    """What breaks the rules on the page as it is, a line for each."""
    page.wait_for_timeout(1500)  # what is on its way has half its colours
    page.evaluate(f"{(Path(axe.__file__).parent / 'axe.min.js').read_text()}; 0")
    found = page.evaluate(f"axe.run(document, {{runOnly: {RULES}}})")
    return [f"{one['id']}: {node['html'][:200]}" for one in found["violations"] for node in one["nodes"]]


@pytest.mark.parametrize("size, theme", [(screenshots.WIDE, "light"), (screenshots.PHONE, "dark")])
def test_the_app(browser, address, size, theme):
    page = screenshots.visit(browser, address, size, theme)
    assert wrong(page) == []
    for name in ("Of the model", "Of the guidance"):
        page.get_by_role("button", name=name).first.click()
    set_steps(page, STEPS)
    for _ in range(2):
        screenshots.generate(page, "a fox")
    page.locator("#history button").first.wait_for()
    assert wrong(page) == []
    page.get_by_role("button", name="Slider").click()
    page.locator("#candidates .open").first.click()
    assert wrong(page) == []
    page.keyboard.press("Escape")
    for name in ("Explorer", "Ask"):
        screenshots.open_tab(page, name)
        assert wrong(page) == []


@pytest.mark.parametrize("size, theme", [(screenshots.WIDE, "light"), (screenshots.PHONE, "dark")])
def test_the_study(browser, ram, serve, size, theme):
    address = serve(make(ram / "study"), show_report=True)
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=theme)
    page = context.new_page()
    page.goto(f"{address}?__theme={theme}")
    page.locator("#study-start").wait_for()
    assert wrong(page) == []
    page.locator("#study-start").click()
    page.locator("#study-left").wait_for()
    assert wrong(page) == []
    page.get_by_role("tab", name="Report").click()
    assert wrong(page) == []
    context.close()
