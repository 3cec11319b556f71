import functools
from dataclasses import replace
from pathlib import Path

import pytest
from batch_runs import made, prompts
from embedded import embedded, weights
from study_folder import ram, serve

__all__ = ["embedded", "host", "made", "prompts", "ram", "serve", "weights"]


@functools.cache
def _load(weights: Path):  # once for all tests: nothing may leave a mark on it
    from demos import generate
    from demos.app import command as app

    args = app.parse([])
    generate.check_late(args)
    return app.load_host(args)


@pytest.fixture
def host(embedded, tmp_path, monkeypatch):
    """What visitors of the app share, on the stand-in for the embedded weights; none of them was here before."""
    from demos.app.turns import Turns
    from demos.app.visits import Visits

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    return replace(_load(embedded), turns=Turns(), visits=Visits())
