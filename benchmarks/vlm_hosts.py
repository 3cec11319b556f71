"""Which vision-language models can be pruned: every class of ``tests/pipelines/prune/vlm_hosts.py`` is run, tiny and
with random weights, and what was verified becomes the table of docs/vlm_hosts.md.

    online-guidance benchmark vlm-hosts --json > benchmarks/results/vlm_hosts.json
    online-guidance benchmark vlm-hosts --only Qwen3VL Glm4v --markdown

A class that is supported passed every check of ``vlm_checks.py``; one that is refused said so in the words of the
table. None is listed that was not run; a check that failed is listed as such and ends the run with exit code 1.
"""

import gc
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from tqdm.auto import tqdm

from commands.parser import Parser
from training.loop import hardware

from .hosts import FAILED, REFUSED, STATES, SUPPORTED, conclude, table
from .provenance import commit

FOLDER = Path(__file__).parents[1] / "tests" / "pipelines" / "prune"


def conformance(name: str) -> Any:
    """A module of the tests, which are not installed."""
    if str(FOLDER) not in sys.path:
        sys.path.insert(0, str(FOLDER))
    return importlib.import_module(name)


def verify(name: str) -> dict[str, Any]:
    """Runs every check of a class; returns its row of the table."""
    checks, hosts = conformance("vlm_checks"), conformance("vlm_hosts")
    host = hosts.HOSTS[name]
    row = {"name": name, "class": host.name, "state": FAILED, "changes": sorted(host.changes), "commit": commit()}
    try:
        if host.refused:
            row |= {"words": checks.is_refused(name), "state": REFUSED}
        else:
            checks.is_supported(name)
            decoder = checks.find_host(hosts.build(name), name)[1]
            row |= {"decoder": type(decoder.layers[0]).__name__, "state": SUPPORTED}
    except (Exception, checks.pytest.fail.Exception) as error:  # whatever it is, it is reported, and the others are run
        row["words"] = " ".join(f"{type(error).__name__}: {error}".split())
    hosts.build.cache_clear()
    gc.collect()
    return row


def measure(names: list[str]) -> dict[str, Any]:
    """Everything that ``--json`` prints."""
    transformers.utils.logging.set_verbosity_error()
    rows = []
    for name in tqdm(names, mininterval=5):
        rows.append(verify(name))
        if rows[-1]["state"] == FAILED:
            tqdm.write(f"{name}: {rows[-1]['words']}", file=sys.stderr)
    counts = {state: sum(row["state"] == state for row in rows) for state in STATES}
    versions = {module.__name__: module.__version__ for module in (torch, transformers)}
    return {"hosts": rows, "counts": counts, "hardware": hardware()} | versions


def markdown(report: dict[str, Any]) -> str:
    """The tables of docs/vlm_hosts.md."""
    by_state = {state: [row for row in report["hosts"] if row["state"] == state] for state in STATES}
    counted = ", ".join(f"{len(rows)} {state}" for state, rows in by_state.items())
    commits = ", ".join(sorted({str(row["commit"]) for row in report["hosts"]}))
    versions = ", ".join(f"{name} {report[name]}" for name in ("transformers", "torch"))
    lines = [f"{len(report['hosts'])} classes were run: {counted}. {versions}; commit {commits}."]
    if rows := by_state[SUPPORTED]:
        cells = [(f"`{r['name']}`", r["class"], r["decoder"], ", ".join(f"`{c}`" for c in r["changes"])) for r in rows]
        lines += ["", "### Supported", "", *table(("host", "class", "decoder layer", "set by hand"), cells)]
    for state, title in ((REFUSED, "Refused"), (FAILED, "Failed")):
        if rows := by_state[state]:
            words = [(f"`{r['name']}`", r["class"], r["words"]) for r in rows]
            lines += ["", f"### {title}", "", *table(("host", "class", "in its words"), words)]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = Parser("benchmark vlm-hosts", __doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="run these classes; default all of them")
    parser.add_argument("--kept", type=Path, metavar="FILE", help="what --json printed: nothing is run")
    parser.add_argument("--json", action="store_true", help="print everything, as JSON")
    parser.add_argument("--markdown", action="store_true", help="print the tables of docs/vlm_hosts.md")
    args = parser.parse_args(argv)
    names = list(conformance("vlm_hosts").HOSTS)
    if unknown := set(args.only or ()) - set(names):
        parser.error(f"argument --only: there is no host {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    if args.kept:
        report = json.loads(args.kept.read_text(encoding="utf-8"))
    else:
        report = measure([name for name in names if not args.only or name in args.only])
    conclude(args, report, markdown, lambda row: f"{row['name']:<24} {row.get('words', '')}")


if __name__ == "__main__":
    main()
