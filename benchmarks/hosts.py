"""Which pipelines can be guided: every host of ``tests/conformance`` is run, tiny and with random weights, and what was
verified becomes the table of docs/hosts.md.

    online-guidance benchmark hosts --json > benchmarks/results/hosts.json
    online-guidance benchmark hosts --only flux-kontext wan --markdown

A host that is supported is a diffusers pipeline whose guided result at one scale was the stock pipeline's at that
scale, whose candidates were its scheduler's own steps, and with which a search, `Budget` and, where its sampler draws
noise, `NoiseSearch` ran. One that is refused said so before any denoising, in the words of the table. None is listed
that was not run; a check that failed is listed as such and ends the run with exit code 1.
"""

import argparse
import gc
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from tqdm.auto import tqdm

from commands.parser import Parser
from training.loop import hardware

from .provenance import commit

ROOT = Path(__file__).parents[1]
SUPPORTED, REFUSED, FAILED = STATES = ("supported", "refused", "failed")


def conformance(name: str) -> Any:
    """A module of ``tests/conformance``, which is not installed."""
    for folder in (ROOT / "tests", ROOT / "tests" / "conformance"):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    return importlib.import_module(name)


def layout(shape: tuple[int, ...]) -> str:
    """What the latents of one sample are, shaped as evaluators see them: ``(C, H, W)`` or ``(C, F, H, W)``."""
    return "video" if len(shape) == 4 else "sound" if shape[1] == 1 else "picture"


def verify(host: Any) -> dict[str, Any]:
    """Runs every check of a host; returns its row of the table."""
    checks = conformance("checks")
    row = {"name": host.name, "state": FAILED, "shape": host.shape, "note": host.note, "commit": commit()}
    try:
        pipe = host.make()
        row |= {"pipeline": type(pipe).__name__, "scheduler": type(pipe.scheduler).__name__}
        if host.refused:
            row |= {"words": checks.is_refused(host), "state": REFUSED}
        else:
            checks.is_chosen(host)
            row |= {"layout": layout(host.shape), "bit_identical": host.exact, "own_schedule": host.changes}
            row["candidates_off_by"] = checks.candidates_are_steps(host)
            row |= {"noise": checks.searches(host), "state": SUPPORTED}
    except Exception as error:  # whatever it is, it is reported, and the other hosts are run
        row["words"] = " ".join(f"{type(error).__name__}: {error}".split())
    gc.collect()
    return row


def measure(hosts: list[Any]) -> list[dict[str, Any]]:
    """The rows of `hosts`, each run."""
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    progress = tqdm(hosts, mininterval=5)
    rows = []
    for host in progress:
        progress.set_postfix_str(host.name)
        rows.append(verify(host))
        if rows[-1]["state"] == FAILED:
            tqdm.write(f"{host.name}: {rows[-1]['words']}", file=sys.stderr)
    return rows


def report_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Everything that ``--json`` prints."""
    versions = {module.__name__: module.__version__ for module in (torch, diffusers, transformers)}
    counts = {state: sum(row["state"] == state for row in rows) for state in STATES}
    return {"hosts": rows, "counts": counts, "hardware": hardware()} | versions


def result(row: dict[str, Any]) -> str:
    """How near a supported host is to the stock pipeline."""
    if row["own_schedule"]:
        return "bit-identical on its own schedule of scales"
    return "bit-identical" if row["bit_identical"] else "within rounding"


def table(titles: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """Lines of Markdown, cells escaped."""
    cells = [titles, ("---",) * len(titles), *rows]
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in cells]


def markdown(report: dict[str, Any]) -> str:
    """The tables of docs/hosts.md."""
    by_state = {state: [row for row in report["hosts"] if row["state"] == state] for state in STATES}
    versions = ", ".join(f"{name} {report[name]}" for name in ("diffusers", "transformers", "torch"))
    counted = ", ".join(f"{len(rows)} {state}" for state, rows in by_state.items())
    commits = ", ".join(sorted({str(row["commit"]) for row in report["hosts"]}))
    lines = [f"{len(report['hosts'])} hosts were run: {counted}. {versions}; commit {commits}."]
    if rows := by_state[SUPPORTED]:
        titles = ("host", "pipeline", "layout", "scheduler", "at one scale", "`NoiseSearch`", "note")
        cells = [
            (
                f"`{row['name']}`",
                row["pipeline"],
                row["layout"],
                row["scheduler"].removesuffix("Scheduler"),
                result(row),
                "ran" if row["noise"] else "draws nothing",
                row["note"],
            )
            for row in rows
        ]
        lines += ["", "### Supported", "", *table(titles, cells)]
    for state, title in ((REFUSED, "Refused"), (FAILED, "Failed")):
        if rows := by_state[state]:
            cells = [(f"`{row['name']}`", row.get("pipeline", ""), row["words"], row["note"]) for row in rows]
            lines += ["", f"### {title}", "", *table(("host", "pipeline", "in its words", "note"), cells)]
    return "\n".join(lines)


def conclude(
    args: argparse.Namespace,
    report: dict[str, Any],
    markdown: Callable[[dict[str, Any]], str],
    line: Callable[[dict[str, Any]], str],
) -> None:
    """Prints what ``--json`` and ``--markdown`` ask for, else a line a host, its state and `line`; the exit code
    is 1 where one failed."""
    if args.json:
        print(json.dumps(report, indent=1))
    if args.markdown:
        print(markdown(report))
    if not args.json and not args.markdown:
        for row in report["hosts"]:
            print(f"{row['state']:<10} {line(row)}")
    if report["counts"][FAILED]:
        raise SystemExit(1)


def main(argv: list[str] | None = None) -> None:
    parser = Parser("benchmark hosts", __doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="run these hosts; default all of them")
    parser.add_argument("--kept", type=Path, metavar="FILE", help="what --json printed: no host is run but --only")
    parser.add_argument("--json", action="store_true", help="print everything, as JSON")
    parser.add_argument("--markdown", action="store_true", help="print the tables of docs/hosts.md")
    args = parser.parse_args(argv)
    hosts = conformance("hosts").HOSTS
    if unknown := set(args.only or ()) - set(hosts):
        parser.error(f"argument --only: there is no host {', '.join(sorted(unknown))}; there are {', '.join(hosts)}")
    if args.kept:
        report = json.loads(args.kept.read_text(encoding="utf-8"))
        if args.only:  # in the place of what was kept of them
            rows = {row["name"]: row for row in report["hosts"] if row["name"] in hosts}
            rows |= {row["name"]: row for row in measure([hosts[name] for name in args.only])}
            report = report_of([rows[name] for name in hosts if name in rows])
    else:
        report = report_of(measure([host for host in hosts.values() if not args.only or host.name in args.only]))
    conclude(args, report, markdown, lambda row: f"{row['name']:<32} {row.get('words') or result(row)}")


if __name__ == "__main__":
    main()
