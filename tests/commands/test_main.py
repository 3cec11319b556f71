"""The one command: what it lists, runs and refuses, and what it does not load."""

import importlib
import subprocess
import sys
import types
from importlib import metadata

import pytest

from commands import main as command
from commands.parser import Parser


def test_the_overview_lists_every_command(capsys):
    command.main([])
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown and about in shown for name, (_, about) in command.COMMANDS.items())
    command.main(["train"])
    shown = capsys.readouterr().out
    assert "train reward" in shown and "generate " not in shown


def test_help_and_version_load_nothing_heavy():
    """Nor does the help of what a newcomer runs first."""
    code = (
        "import sys; from commands.main import main; main(['--help']); main(['--version'])\n"
        "try: main(['generate', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'diffusers', 'transformers', 'gradio'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"online-guidance {metadata.version('online-guidance')}" in done.stdout


@pytest.mark.parametrize("name", command.COMMANDS)
def test_help_shows_examples_and_defaults(name, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main([*name.split(), "--help"])
    shown = capsys.readouterr().out
    assert stop.value.code == 0 and shown.startswith(f"usage: online-guidance {name} ")
    examples = shown.partition("examples:\n")[2]
    assert examples.count(f"online-guidance {name}") >= 2 and "default" in shown
    assert callable(importlib.import_module(command.COMMANDS[name][0]).main)


def test_defaults_are_told_once():
    parser = Parser("x", "Does x.\n\n    online-guidance x 1\n")
    parser.add_argument("--bare", default=3)
    parser.add_argument("--told", default=4, help="of all; default four")
    parser.add_argument("--many", default=[1, 2], help="50 %% of them")
    parser.add_argument("--flag", action="store_true", help="a switch")
    shown = parser.format_help()
    assert "default: 3" in shown and "50 % of them (default: 1 2)" in shown
    assert shown.count("default") == 3, "neither twice nor of a switch"


@pytest.mark.parametrize(
    "words, message",
    [
        (["generat"], "there is no command 'generat'; 'generate'?"),
        (["train", "rewards"], "there is no command 'train rewards'; 'train reward'?"),
        (["zzz"], "there is no command 'zzz'; `online-guidance --help` lists them"),
    ],
)
def test_an_unknown_command_is_one_line(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(words)
    assert stop.value.code == 2 and capsys.readouterr().err == f"error: {message}\n"


def test_what_is_not_installed_is_said(monkeypatch, capsys):
    monkeypatch.setitem(command.COMMANDS, "absent", ("no_such_room.module", "nothing"))
    with pytest.raises(SystemExit):
        command.main(["absent"])
    assert "runs from a checkout: no_such_room is not installed" in capsys.readouterr().err


def test_a_colliding_distribution_is_named(monkeypatch, capsys):
    """PyPI has a `guidance` of other people's; whichever was installed last is imported."""
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0.3.0" if name == "guidance" else version(name))
    command.main(["--version"])
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "guidance 0.3.0" in err and "pip uninstall guidance" in err


def test_ctrl_c_is_one_line(monkeypatch, capsys):
    def interrupted(name):
        def main(arguments):
            raise KeyboardInterrupt

        return types.SimpleNamespace(main=main)

    monkeypatch.setattr(importlib, "import_module", interrupted)
    with pytest.raises(SystemExit) as stop:
        command.main(["generate", "a fox"])
    assert stop.value.code == 130 and capsys.readouterr().err == "\nstopped\n"
