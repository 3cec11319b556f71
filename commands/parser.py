"""The parser of every sub-command: one line of error, defaults and examples in the help."""

import argparse
import re
import sys
import textwrap
from typing import Any, NoReturn

COMMAND = "online-guidance"
INTERRUPTED = 130  # exit code after Ctrl-C, as that of a shell


def stop(message: str) -> NoReturn:
    """Ends after Ctrl-C, with one line."""
    print(f"\n{message}", file=sys.stderr)  # the terminal has ^C, or a bar, on its line
    raise SystemExit(INTERRUPTED)


class Parser(argparse.ArgumentParser):
    """Errors are one line, without the usage; the exit code is 2.

    Args:
        name: of the sub-command, as ``"train reward"``.
        doc: the module's docstring. Its first paragraph is the description; the indented block in which lines begin
            with the command are the examples.
    """

    def __init__(self, name: str, doc: str | None, **kwargs: Any) -> None:
        first, *rest = re.split(r"\n\s*\n", doc or "")
        examples = [block for block in rest if block.lstrip().startswith(f"{COMMAND} {name}")]
        super().__init__(
            prog=f"{COMMAND} {name}",
            description=" ".join(first.split()),
            epilog="examples:\n" + textwrap.indent(textwrap.dedent(examples[0]), "  ") if examples else None,
            formatter_class=Help,
            **kwargs,
        )

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {' '.join(message.split())}\n")


class Help(argparse.RawDescriptionHelpFormatter):
    """Says every default that is one, unless the help text does in words of its own."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text, default = action.help or "", action.default
        if "default" in text or default is None or default is argparse.SUPPRESS or isinstance(default, bool):
            return text
        shown = " ".join(map(str, default)) if isinstance(default, (list, tuple)) else default
        shown = str(shown).replace("%", "%%")
        return f"{text} (default: {shown})" if text else f"default: {shown}"

    def _format_action(self, action: argparse.Action) -> str:
        if not action.help:  # an argument without a text has its default there all the same
            action.help = self._get_help_string(action) or None
        return super()._format_action(action)
