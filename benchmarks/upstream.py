"""diffusers' own pipeline tests on our classes: every call that they make is made guided, too, and compared.

    online-guidance benchmark upstream diffusers --only stable_diffusion_xl flux
    online-guidance benchmark upstream diffusers --keep records.jsonl --json

That is a checkout of their repository (``git clone --branch v0.40.0 https://github.com/huggingface/diffusers``).

A plugin of pytest puts the `DynamicGuidance…` classes, and such made of all other pipelines, in the place of diffusers'
own before tests import these. Each outermost call is made anew from the same state: by the stock class, by ours guided
at the pipeline's own scale, and by ours with another scale of its own, guided at the first. The outputs must be the
same bit for bit. Where a test leaves guidance off, both are called with a scale of 4. Nothing is downloaded: tokenizers
are made here, so that what tests expect of pictures does not hold. They need ``parameterized`` and ``requests_mock``.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import diffusers
import torch

from commands.parser import Parser
from pipelines.dynamic import CLASSES
from training.loop import hardware

from .hosts import ROOT, conformance, table
from .provenance import commit
from .upstream_plugin import COMMIT, DIFFERENT, FAILED, RECORDS, REFUSED, SAME, STATES, kept_of


def run_tests(checkout: Path, folders: list[str], records: Path, hub: Path) -> None:
    """The tests of some folders of ``tests/pipelines``; what they say of pictures does not matter."""
    variables = {
        RECORDS: str(records.resolve()),
        COMMIT: str(commit()),
        "HF_HUB_CACHE": str(hub),
        "HF_HUB_OFFLINE": "1",
    }
    variables["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    plugin = ["-p", "benchmarks.upstream_plugin", "-p", "no:cacheprovider", "-q", "--no-header", "--tb=no"]
    command = [sys.executable, "-m", "pytest", *plugin, *(f"tests/pipelines/{folder}" for folder in folders)]
    subprocess.run(command, cwd=checkout, env=os.environ | variables, stdout=2, check=False)


def report_of(rows: list[dict[str, Any]], checkout: Path) -> dict[str, Any]:
    """Everything that ``--json`` prints."""
    tests = re.search(r'version="([^"]+)"', (checkout / "setup.py").read_text(encoding="utf-8"))
    ended = [row for row in rows if "ended" in row]
    rows = [row for row in rows if "pipeline" in row]
    names = sorted({row["pipeline"] for row in rows})
    by_name = {name: Counter(row["state"] for row in rows if row["pipeline"] == name) for name in names}
    telling = [row for row in rows if row["state"] in (REFUSED, DIFFERENT, FAILED)]
    return {
        "counts": {state: sum(row["state"] == state for row in rows) for state in STATES},
        "replaced": sum(bool(row.get("replaced")) for row in rows),
        "of_our_classes": sum(row["state"] == SAME and row["pipeline"] in CLASSES for row in rows),
        "pipelines": by_name,
        "words": sorted({f"{row['pipeline']}: {row.get('words', row['test'])}" for row in telling}),
        "commits": sorted({row["ended"] for row in ended}),
        "files": dict(sorted(Counter(row["test"].split("::")[0] for row in ended).items())),
        "tests": tests[1] if tests else None,
        "hardware": hardware(),
    } | {module.__name__: module.__version__ for module in (torch, diffusers)}


def main(argv: list[str] | None = None) -> None:
    parser = Parser("benchmark upstream", __doc__)
    parser.add_argument("checkout", type=Path, metavar="DIFFUSERS", help="a checkout of diffusers' repository")
    parser.add_argument("--only", nargs="+", metavar="FOLDER", help="in tests/pipelines, a file too; default all")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="records of runs: what is there is not run again")
    parser.add_argument("--json", action="store_true", help="print everything, as JSON")
    args = parser.parse_args(argv)
    tests = args.checkout / "tests" / "pipelines"
    folders = args.only or sorted(path.parent.name for path in tests.glob("*/__init__.py"))
    if missing := [name for name in folders if not (tests / name).exists()]:
        parser.error(f"argument --only: there is no {', '.join(missing)} in {tests}")
    with tempfile.TemporaryDirectory() as temporary:
        records = args.keep or Path(temporary, "records.jsonl")
        records.touch()
        records.write_text("".join(json.dumps(row) + "\n" for row in kept_of(records)), encoding="utf-8")
        conformance("upstream_hub").write(hub := Path(temporary, "hub"))
        run_tests(args.checkout, folders, records, hub)
        rows = kept_of(records)
    report = report_of(rows, args.checkout)
    if args.json:
        print(json.dumps(report, indent=1))
    else:
        cells = [(name, *(str(found[state] or "") for state in STATES)) for name, found in report["pipelines"].items()]
        print("\n".join([*table(("pipeline", *STATES), cells), "", *report["words"]]))
    if report["counts"][DIFFERENT] or report["counts"][FAILED]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
