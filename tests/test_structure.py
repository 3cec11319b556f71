"""The shape of the repository: which room may import which, no circles, and files that can be read in one sitting."""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINES = 320

EVALUATORS = ("evaluators", "evaluators.latent", "evaluators.token")
BELOW = (*EVALUATORS, "guidance", "pipelines", "commands")
# What a room may import besides itself; a module's room is the longest of these names that its own begins with.
ARROWS = {
    "commands": (),
    "evaluators": EVALUATORS,
    "evaluators.latent": ("evaluators",),
    "evaluators.token": ("evaluators",),
    "guidance": EVALUATORS,
    "pipelines": (*EVALUATORS, "guidance"),
    "training": BELOW,
    "tinyworld": BELOW,
    "tinyworld.recipes": (*BELOW, "training", "tinyworld"),
    "demos": (*BELOW, "tinyworld"),
    "benchmarks": (*BELOW, "training", "tinyworld", "tinyworld.recipes"),
}
# Names that a module offers and fetches from above only when they are asked for.
FETCHED = {("pipelines", "tinyworld.pipeline")}


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(file): file for name in ARROWS for file in sorted((ROOT / name.replace(".", "/")).rglob("*.py"))}
FILES = sorted({*MODULES.values(), *(file for name in ("tests", "docs") for file in (ROOT / name).rglob("*.py"))})


def imports(source: str, package: str) -> list[tuple[int, str]]:
    """The line and the full name, ``a.b`` of ``from a import b``, of everything that is imported, inside functions too.
    `package` is where relative names begin."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            start = parts[: len(parts) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
        else:
            continue
        found += [(node.lineno, name) for name in names]
    return sorted(found)


def package_of(module: str, file: Path) -> str:
    return module if file.name == "__init__.py" else module.rpartition(".")[0]


def room_of(name: str) -> str | None:
    """`None` of what is not ours."""
    rooms = [room for room in (*ARROWS, "tests") if f"{name}.".startswith(f"{room}.")]
    return max(rooms, key=len, default=None)


def upward(source: str, module: str, package: str) -> list[str]:
    """The imports of `source` that the table does not allow, as ``line: room → module``."""
    room = room_of(module)
    allowed = {None, room, *ARROWS[room]}
    wrong = [(line, name) for line, name in imports(source, package) if room_of(name) not in allowed]
    return [f"{line}: {room} → {name}" for line, name in wrong if (module, name) not in FETCHED]


def circle(sources: dict[str, tuple[str, str]]) -> list[str]:
    """Modules that import one another in turn; none where there are none. `sources` has text and package of each."""
    graph = {}
    for module, source in sources.items():
        names = {name if name in sources else name.rpartition(".")[0] for _, name in imports(*source)}
        graph[module] = (names & sources.keys()) - {module}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def too_long(source: str) -> bool:
    return source.count("\n") > LINES


def test_every_room_is_in_the_table():
    assert {file.parent.name for file in ROOT.glob("*/__init__.py")} == {room.split(".")[0] for room in ARROWS}
    assert all((ROOT / room.replace(".", "/") / "__init__.py").is_file() for room in ARROWS)


@pytest.mark.parametrize("module", MODULES)
def test_arrows_point_down(module):
    file = MODULES[module]
    wrong = upward(file.read_text(encoding="utf-8"), module, package_of(module, file))
    assert not wrong, "\n".join(f"{file.relative_to(ROOT)}:{arrow}" for arrow in wrong)


def test_there_is_no_circle():
    sources = {module: (file.read_text(encoding="utf-8"), package_of(module, file)) for module, file in MODULES.items()}
    assert not circle(sources), " → ".join(circle(sources))


@pytest.mark.parametrize("file", [file.relative_to(ROOT).as_posix() for file in FILES])
def test_files_can_be_read_in_one_sitting(file):
    assert not too_long((ROOT / file).read_text(encoding="utf-8")), f"{file} has more than {LINES} lines"


@pytest.mark.parametrize(
    "module, source, expected",
    [
        (
            "evaluators.latent.new",
            "def late():\n    from pipelines import guide",
            "2: evaluators.latent → pipelines.guide",
        ),
        ("evaluators.token.new", "from ..latent import clip", "1: evaluators.token → evaluators.latent.clip"),
        ("evaluators.latent.new", "import evaluators.token.raters", "1: evaluators.latent → evaluators.token.raters"),
        ("guidance.new", "\nimport guidance, pipelines.prune as p", "2: guidance → pipelines.prune"),
        ("pipelines.prune.new", "from ...training.loop import train", "1: pipelines → training.loop.train"),
        ("pipelines.new", "import_module('tinyworld.pipeline')", "1: pipelines → tinyworld.pipeline"),
        ("training.new", "from tinyworld.scenes import render", "1: training → tinyworld.scenes.render"),
        ("tinyworld.new", "from . import recipes", "1: tinyworld → tinyworld.recipes"),
        ("tinyworld.recipes.new", "if True:\n\n    import demos", "3: tinyworld.recipes → demos"),
        ("demos.app.new", "from tinyworld.recipes import data", "1: demos → tinyworld.recipes.data"),
        ("benchmarks.new", "from tests import tiny", "1: benchmarks → tests.tiny"),
        ("commands.new", "from guidance import SCHEDULES", "1: commands → guidance.SCHEDULES"),
    ],
)
def test_an_arrow_that_points_up_is_noticed(module, source, expected):
    assert upward(source, module, module.rpartition(".")[0]) == [expected]


def test_arrows_that_point_down_are_left_alone():
    source = "import torch\nimport pipelines\nfrom .. import scenes\nfrom . import data\nfrom training import loop"
    assert upward(source, "tinyworld.recipes.new", "tinyworld.recipes") == []


def test_circles_and_long_files_are_noticed():
    sources = {"guidance.a": ("from .b import x", "guidance"), "guidance.b": ("import evaluators.c", "guidance")}
    assert circle(sources | {"evaluators.c": ("", "evaluators")}) == []
    found = circle(sources | {"evaluators.c": ("def late():\n    from guidance import a", "evaluators")})
    assert set(found) == {"guidance.a", "guidance.b", "evaluators.c"}
    assert too_long("\n" * (LINES + 1)) and not too_long("\n" * LINES)
