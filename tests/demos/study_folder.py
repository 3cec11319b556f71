"""A study's folder with small pictures in it, made without a model."""

import tempfile
from pathlib import Path

import pytest
from PIL import Image as Picture

from commands.prompts import Prompt
from demos import manifest
from demos.study import command as study
from demos.study import page as study_page

PROMPTS = [
    Prompt("two red circles", "count"),
    Prompt('a sign saying "CAB"', "text"),
    Prompt("<script>alert(1)</script> & a star", "count; text"),
]
METHODS = ("dynamic", "static:4")


def make(folder: Path, prompts=PROMPTS, methods=METHODS, seeds=(0, 1), side: int = 32) -> Path:
    folder.mkdir(exist_ok=True)
    images = []
    for row, prompt in enumerate(prompts):
        for seed in seeds:
            for column, method in enumerate(methods):
                files = [f"images/{row}/{column}_{seed}{ending}" for ending in (".png", "_trace.json")]
                (folder / files[0]).parent.mkdir(parents=True, exist_ok=True)
                Picture.linear_gradient("L").resize((side, side)).rotate(90 * column).save(folder / files[0])
                (folder / files[1]).write_text("{}")
                images.append(manifest.Image(prompt.text, method, seed, *files, bytes=100))
    with manifest.Manifest(folder) as made:
        made.settle({"model": "embedded"})
        made.add(prompts, images)
    return folder


@pytest.fixture
def ram():
    """A folder in memory where the system has one: these tests wait for the disk a thousand times."""
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture
def serve(ram, monkeypatch):
    """Serves the page of a study until the test ends: from its folder and what `study_page.build` takes to its
    address."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(ram / "cache"))
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    pages = []

    def start(folder: Path, password: str | None = None, **options) -> str:
        pages.append(study_page.build(folder, **options))
        args = study.parse([str(folder), "--port", "0"])
        return study.serve(pages[-1], args, password, quiet=True)

    yield start
    for page in pages:
        page.close()
