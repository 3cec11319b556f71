"""Makes the app's pictures in docs/: starts it on the embedded models and uses it by Chromium, as a visitor would.

python docs/screenshots.py                 into docs/
python docs/screenshots.py outputs/look    elsewhere; every tab, light and dark, wide and as on a phone
"""

import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

PATIENCE = 240_000  # milliseconds; the embedded model may share a slow CPU
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WIDE, PHONE = (1280, 900), (390, 844)


def find_chromium() -> str | None:
    """Where Chromium is, `None` where there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def chromium() -> Iterator[Any]:
    """A Playwright browser with a profile of its own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


def visit(browser: Any, address: str, size: tuple[int, int] = WIDE, theme: str = "light") -> Any:
    """The app in a new, empty session."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=theme)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(f"{address}?__theme={theme}")
    page.locator("#generate").wait_for()
    return page


def open_tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def generate(page: Any, prompt: str, steps: int | None = None) -> None:
    """Fills in the Playground and waits for the end."""
    page.fill("#prompt textarea", prompt)
    if steps is not None:
        field = page.locator("#steps input[type=number]")
        field.fill(str(steps))
        field.press("Tab")
    page.click("#generate")
    page.locator("#stage .links").first.wait_for()
    page.locator("#schedule .js-plotly-plot .main-svg").first.wait_for()
    page.locator("#candidates .card").first.wait_for()


def explore(page: Any) -> None:
    """Runs the Explorer as it stands and waits for the end."""
    open_tab(page, "Explorer")
    page.click("#explore")
    page.get_by_text(re.compile(r"^(\d+) of \1 pictures")).wait_for()
    page.locator("#schedules .js-plotly-plot .main-svg").first.wait_for()


def ask(page: Any, picture: Path, question: str) -> None:
    """Uploads a picture, asks about it and waits for the answer."""
    open_tab(page, "Ask")
    page.locator("#picture input[type=file]").set_input_files(picture)
    page.locator("#picture img").wait_for()
    page.fill("#question textarea", question)
    page.click("#ask")
    page.get_by_text("Answered.").wait_for()
    page.locator("#answer .card").first.wait_for()


def shoot(page: Any, path: Path) -> None:
    """The whole page, after a moment for what is on its way."""
    page.mouse.move(0, 0)
    page.wait_for_timeout(1500)
    page.screenshot(path=path, full_page=True, animations="disabled")
    print(path)


def main(folder: Path | None) -> None:
    from PIL import Image

    from demos.app import command as app
    from demos.generate import check_late
    from tinyworld.scenes import make_scene

    args = app.parse([])
    check_late(args)
    page = app.build(app.load_host(args), app.load_reader(args))
    address, _ = app.serve(page, "127.0.0.1", None)
    out = folder or Path(__file__).parent
    out.mkdir(parents=True, exist_ok=True)
    with chromium() as browser, TemporaryDirectory() as temporary:
        picture = Path(temporary) / "picture.png"
        Image.fromarray(make_scene(7).image).resize((256, 256)).save(picture)  # of three purple squares, and more
        for theme in ("light", "dark") if folder else ("light",):
            for name, size in (("wide", WIDE), ("phone", PHONE)) if folder else (("wide", WIDE),):
                ending = f"_{theme}_{name}.png" if folder else ".png"
                visitor = visit(browser, address, size, theme)
                generate(visitor, "two red circles above a blue square")
                shoot(visitor, out / f"playground{ending}")
                explore(visitor)
                shoot(visitor, out / f"explorer{ending}")
                ask(visitor, picture, "how many purple squares are there?")
                shoot(visitor, out / f"ask{ending}")
                visitor.context.close()
    page.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
