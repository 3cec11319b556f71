"""`demos.batch`: what it is told, in a file or on the command line, and what it refuses."""

from dataclasses import fields

import pytest
from batch_runs import run

from commands import arguments
from demos.batch import main
from demos.manifest import MANIFEST, Manifest
from guidance import SCHEDULES


def test_other_settings_are_refused(made, prompts, ram, capsys):
    run(prompts, ram / "study", "--steps", "3")
    made.clear()
    with pytest.raises(SystemExit):
        run(prompts, ram / "study", "--steps", "4", "--seeds", "77")
    expected = f"error: argument --steps: the study in {str(ram / 'study')!r} was made with 3, not 4\n"
    assert capsys.readouterr().err.endswith(expected)
    assert made == []


def test_yaml_and_the_command_line_on_top_of_it(made, prompts, ram):
    file = ram / "study.yaml"
    file.write_text(f"prompts: {prompts}\nmethods: [static:1, cosine:6]\nseeds: 1:3\nsteps: 5\nout: {ram / 'a'}\n")
    main(["--study", str(file), "--steps", "2"])
    assert {(scale, seed) for scale, _, seed in made} == {(1.0, 1), (1.0, 2), (6.0, 1), (6.0, 2)}
    with Manifest(ram / "a", read_only=True) as manifest:
        assert manifest.settings()["steps"] == 2


def test_names_of_schedules():
    assert list(arguments.SCHEDULES) == list(SCHEDULES)
    for name, values in arguments.SCHEDULES.items():
        takes = [field.name.removeprefix("guidance_").upper() for field in fields(SCHEDULES[name])]
        assert takes == list(values)


def test_one_spelling_of_a_method():
    for text, spelt in {
        "interval:5.0:0.20:1": "interval:5:0.2:1",
        "exponential:4:0.2": "exponential:4:0.2",
        "interval:5": "interval:5",
        "budget": "budget",
        " budget:.10": "budget:0.1",
        "noise": "noise",
        "noise:04": "noise:4",
    }.items():
        assert arguments.method(text) == spelt


BAD = {
    "no prompts": (["--methods", "dynamic"], "prompts"),
    "no methods": (["{tmp}/prompts.txt"], "--methods"),
    "unknown method": (["{tmp}/prompts.txt", "--methods", "static:2", "magic"], "magic"),
    "method without a scale": (["{tmp}/prompts.txt", "--methods", "static"], "--methods"),
    "scale": (["{tmp}/prompts.txt", "--methods", "static:nan"], "--methods"),
    "too many values": (["{tmp}/prompts.txt", "--methods", "linear:2:3"], "--methods"),
    "window": (["{tmp}/prompts.txt", "--methods", "interval:2:0.9:0.1"], "interval:2:0.9:0.1"),
    "rate": (["{tmp}/prompts.txt", "--methods", "exponential:2:0"], "exponential:2:0"),
    "draws": (["{tmp}/prompts.txt", "--methods", "noise:1"], "at least 2 draws"),
    "draws in parts": (["{tmp}/prompts.txt", "--methods", "noise:2.5"], "--methods"),
    "tolerance": (["{tmp}/prompts.txt", "--methods", "budget:-1"], "--methods"),
    "seeds": (["{tmp}/prompts.txt", "--methods", "static:2", "--seeds", "4:4"], "--seeds"),
    "seed": (["{tmp}/prompts.txt", "--methods", "static:2", "--seeds", "-1"], "--seeds"),
    "more seeds than memory": (["{tmp}/prompts.txt", "--methods", "static:2", "--seeds", "0:99999999999"], "--seeds"),
    "no file": (["{tmp}/none.txt", "--methods", "static:2"], "prompts"),
    "other file": (["{tmp}/prompts.xlsx", "--methods", "static:2"], "prompts"),
    "disk": (["{tmp}/prompts.txt", "--methods", "static:2", "--limit-disk", "0GB"], "--limit-disk"),
    "scales without search": (["{tmp}/prompts.txt", "--methods", "static:2", "--scales", "1,2"], "--scales"),
    "no study file": (["--study", "{tmp}/none.yaml"], "--study"),
    "study file is a list": (["--study", "{tmp}/list.yaml"], "--study"),
    "study file is code": (["--study", "{tmp}/code.yaml"], "--study"),
    "unknown key": (["--study", "{tmp}/key.yaml"], "--colour"),
    "device": (["{tmp}/prompts.txt", "--methods", "static:2", "--device", "abacus"], "--device"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(made, prompts, ram, capsys, case):
    (ram / "prompts.xlsx").write_text("")
    (ram / "list.yaml").write_text("- a\n")
    (ram / "code.yaml").write_text("out: !!python/object/apply:os.system [{a: b}]\n")
    (ram / "key.yaml").write_text("colour: red\n")
    given, named = BAD[case]
    with pytest.raises(SystemExit) as stop:
        main([*(a.replace("{tmp}", str(ram)) for a in given), "--out", str(ram / "study")])
    captured = capsys.readouterr()
    assert stop.value.code == 2
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert named in captured.err
    assert made == [] and not (ram / "study" / MANIFEST).exists()
