"""`benchmarks.hosts`: the table of docs/hosts.md lists what was run, all of it, and a check that fails is told."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from hosts import HOSTS

from benchmarks import hosts as benchmark

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "benchmarks" / "results" / "hosts.json"


def tables():
    page = (ROOT / "docs" / "hosts.md").read_text(encoding="utf-8")
    return re.search(r"<!-- hosts: begin -->\n(.*?)\n<!-- hosts: end -->", page, re.DOTALL)[1]


def listed(title):
    """The names in one of the tables of docs/hosts.md."""
    part = re.search(rf"^### {title}\n(.*?)(?=^### |\Z)", tables(), re.DOTALL | re.MULTILINE)
    return re.findall(r"^\| `([^`]+)` \|", part[1], re.MULTILINE) if part else []


def test_docs_list_exactly_the_hosts():
    assert sorted(listed("Supported")) == sorted(host.name for host in HOSTS.values() if not host.refused)
    assert sorted(listed("Refused")) == sorted(host.name for host in HOSTS.values() if host.refused)
    assert not listed("Failed")


def test_docs_are_what_was_kept(capsys):
    report = json.loads(KEPT.read_text(encoding="utf-8"))
    assert report["hardware"] and not report["counts"]["failed"] and all(row["commit"] for row in report["hosts"])
    benchmark.main(["--kept", str(KEPT), "--markdown"])
    assert capsys.readouterr().out.strip() == tables().strip()


def test_what_is_kept_is_what_hosts_say():
    for row in json.loads(KEPT.read_text(encoding="utf-8"))["hosts"]:
        host = HOSTS[row["name"]]
        assert (tuple(row["shape"]), row["note"]) == (host.shape, host.note), host.name
        assert host.refused in row.get("words", ""), host.name
        assert row["state"] == "refused" or (row["bit_identical"], row["own_schedule"]) == (host.exact, host.changes)


def test_hosts_are_run(capsys):
    benchmark.main(["--only", "flux-fill", "flux-kontext", "--json"])
    report = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in report["hosts"]}
    assert report["counts"] == {"supported": 1, "refused": 1, "failed": 0}
    assert rows["flux-fill"]["words"].startswith("`pipe` FluxFillPipeline cannot be guided: it is distilled")
    kontext = rows["flux-kontext"]
    assert (kontext["pipeline"], kontext["layout"], kontext["noise"]) == ("FluxKontextPipeline", "picture", False)
    assert kontext["scheduler"] == "FlowMatchEulerDiscreteScheduler" and 0 <= kontext["candidates_off_by"] < 1e-3


@pytest.mark.parametrize("changed, words", [({"refused": "of its colour"}, "cannot be guided"), ({"refused": ""}, "")])
def test_a_failed_check_is_told(changed, words, monkeypatch, capsys):
    monkeypatch.setitem(HOSTS, "flux-fill", dataclasses.replace(HOSTS["flux-fill"], **changed))
    with pytest.raises(SystemExit) as stop:
        benchmark.main(["--only", "flux-fill", "--markdown"])
    said = capsys.readouterr()
    assert stop.value.code == 1 and "1 failed" in said.out and "### Supported" not in said.out
    assert words in said.out.split("### Failed")[1] and words in said.err


def test_a_host_is_run_anew_among_those_that_were_kept(tmp_path, capsys):
    rows = [{"name": name, "state": "failed", "words": "old", "commit": "0"} for name in ("gone", "flux-fill", "flux")]
    (tmp_path / "hosts.json").write_text(json.dumps(benchmark.report_of(rows)))
    with pytest.raises(SystemExit):  # one of those that were kept had failed
        benchmark.main(["--kept", str(tmp_path / "hosts.json"), "--only", "flux-fill", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert {row["name"]: row["words"] == "old" for row in report["hosts"]} == {"flux": True, "flux-fill": False}
    assert report["counts"] == {"supported": 0, "refused": 1, "failed": 1}


def test_an_unknown_host_is_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        benchmark.main(["--only", "nonesuch"])
    assert stop.value.code == 2 and "there is no host nonesuch; there are" in capsys.readouterr().err


@pytest.mark.parametrize("shape, expected", [((4, 8, 8), "picture"), ((4, 3, 8, 8), "video"), ((4, 1, 8), "sound")])
def test_layouts_have_names(shape, expected):
    assert benchmark.layout(shape) == expected
