"""What loads with the package, and what only when it is asked for."""

import subprocess
import sys

import pytest

import guidance
import pipelines

LOADED = """
import sys
from diffusers import DiffusionPipeline
before = set(sys.modules)
import pipelines
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""


def test_nothing_loads_that_diffusers_pipelines_do_not_need():
    loaded = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True).stdout.split()
    assert {"evaluators", "guidance", "pipelines"} <= set(loaded)
    foreign = {"diffusers", "transformers", "torchvision", "kornia", "matplotlib", "pandas", "open_clip", "tinyworld"}
    assert not foreign & set(loaded)


@pytest.mark.parametrize("package", [guidance, pipelines], ids=lambda package: package.__name__)
def test_every_name_is_there(package):
    assert set(package.__all__) <= set(dir(package))
    assert all(getattr(package, name) is not None for name in package.__all__)
    with pytest.raises(AttributeError, match="'Nothing'"):
        package.Nothing  # noqa: B018


def test_prune_is_the_function_whatever_was_imported_before():
    code = "import pipelines.prune.decoder\nfrom pipelines import prune\nprint(type(prune).__name__)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "function\n"
