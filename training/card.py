"""Model cards: what a model is, and for every run that made it the command, hardware, time and measures."""

import json
from collections.abc import Mapping
from typing import Any

SKIPPED = {"command", "seed", "hardware", "minutes", "steps"}


def card(title: str, about: str, reports: Mapping[str, Mapping[str, Any]], front: Mapping[str, str]) -> str:
    """The text of a ``README.md``.

    Args:
        about: a paragraph or two.
        reports: name of a part to what `loop.fit` and its recipe found.
        front: what the hub reads at the top, as ``license``.
    """
    lines = ["---", *(f"{key}: {value}" for key, value in front.items()), "---", f"# {title}", "", about, ""]
    for part, report in reports.items():
        lines += [f"## {part}", f"- command: `{report['command']}` (seed {report['seed']})"]
        lines += [f"- hardware: {report['hardware']}", f"- time: {report['minutes']} minutes, {report['steps']} steps"]
        lines += [f"- {key}: {json.dumps(value)}" for key, value in report.items() if key not in SKIPPED]
    return "\n".join([*lines, ""])
