"""`benchmarks.vlm_hosts`: docs/vlm_hosts.md lists what was run, all of it."""

import json
import re
from pathlib import Path

from benchmarks import vlm_hosts as benchmark

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "benchmarks" / "results" / "vlm_hosts.json"
HOSTS = benchmark.conformance("vlm_hosts").HOSTS


def test_docs_are_what_was_kept(capsys):
    page = (ROOT / "docs" / "vlm_hosts.md").read_text(encoding="utf-8")
    tables = re.search(r"<!-- vlm hosts: begin -->\n(.*?)\n<!-- vlm hosts: end -->", page, re.DOTALL)[1]
    benchmark.main(["--kept", str(KEPT), "--markdown"])
    assert capsys.readouterr().out.strip() == tables.strip()


def test_every_host_was_run_and_none_failed():
    report = json.loads(KEPT.read_text(encoding="utf-8"))
    assert [row["name"] for row in report["hosts"]] == list(HOSTS)
    assert report["hardware"] and not report["counts"]["failed"] and all(row["commit"] for row in report["hosts"])
    for row in report["hosts"]:
        host = HOSTS[row["name"]]
        assert (row["class"], row["changes"]) == (host.name, sorted(host.changes))
        assert (row["state"] == "refused") == bool(host.refused) and host.refused in row.get("words", "")


def test_hosts_are_run(capsys):
    benchmark.main(["--only", "Mllama", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["counts"] == {"supported": 0, "refused": 1, "failed": 0}
    assert report["hosts"][0]["words"].startswith("`model` mllama reads images by cross-attention")
