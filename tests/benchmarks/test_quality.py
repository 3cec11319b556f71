"""The quality benchmark: what it runs, keeps and refuses, on random weights."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tqdm.auto import tqdm

from benchmarks import embedded as embedded_model
from benchmarks import pictures, quality, rivals
from benchmarks.workers import Cell, filling
from evaluators.base import FunctionEvaluator
from guidance import GUIDERS, SCHEDULES, GreedySearch, Static
from tinyworld.captions import CATEGORIES, is_held_out, parse_caption
from tinyworld.recipes.data import captions_of


def test_held_out_prompts_are_held_out_balanced_and_fixed():
    prompts = quality.held_out_prompts(50)
    specs = [parse_caption(p) for p in prompts]
    assert all(is_held_out(spec) for spec in specs)
    assert [spec.category for spec in specs[:5]] == list(CATEGORIES)
    assert prompts == quality.held_out_prompts(50) and prompts != quality.held_out_prompts(50, seed=1)
    tuned_on = captions_of("train", 50, quality.VALIDATION_SEED)
    assert not any(is_held_out(parse_caption(p)) for p in tuned_on), "rivals are tuned on other combinations"


def test_what_is_finished_is_not_made_twice(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"correct": np.array([1, 0]), "images": np.zeros((2, 4, 4, 3), np.uint8)}

    first, second = (pictures.finished(tmp_path / "static_6" / "00000.npz", make) for _ in range(2))
    assert len(made) == 1
    assert first["correct"].tolist() == second["correct"].tolist() == [1, 0]


@pytest.fixture
def pipe(embedded):
    pipe = embedded_model.load()
    pipe.vae.to(memory_format=torch.channels_last)  # as the benchmark does
    return pipe


def test_rivals(pipe):
    """Every schedule and guider has a grid, and quick ones are those of the first results."""
    families = rivals.families(pipe.guidance)
    pytest.importorskip("kornia")
    assert set(families) >= {*SCHEDULES, *GUIDERS} - {"static"}
    assert all(len(grid) > 1 for grid in families.values())
    assert all(name.split(":")[0] == family for family, grid in families.items() for name in grid)
    names = [name for grid in families.values() for name in grid]
    names += [*rivals.ours(pipe.guidance, False), *rivals.static(False), *rivals.ablations(pipe.guidance)]
    assert len(names) == len(set(names))
    quick = rivals.ours(pipe.guidance, True) | rivals.static(True) | rivals.quick_rivals()
    schedules = ["interval:6", "linear:6", "cosine:6", "exponential:6"]
    assert list(quick) == ["dynamic", "budget:0.2", "static:2", "static:4.5", "static:8", "static:13", *schedules]


def test_ablations_change_one_thing(pipe):
    table = rivals.ablations(pipe.guidance)
    names = list(pipe.guidance.evaluators)
    unchanged = rivals.families(pipe.guidance)["noise_search"]["noise_search:3"]
    noise = unchanged.guidance
    for prefix, base in (("", pipe.guidance), ("noise:", noise)):
        assert {f"ablation:{prefix}only:{name}" for name in names} <= set(table)
        assert table[f"ablation:{prefix}every:4"].guidance.every == 4
        assert f"ablation:{prefix}every:{base.every}" not in table, "which is the search itself"
    assert "ablation:noise:with:counting" in table
    for count in (2, 16):
        scales = table[f"ablation:candidates:{count}"].guidance.scales
        assert len(scales) == count
        assert (scales[0], scales[-1]) == pytest.approx((min(pipe.guidance.scales), max(pipe.guidance.scales)))
        assert table[f"ablation:noise:draws:{count}"].guidance.noises == count
    for name, method in table.items():
        search, base = method.guidance, noise if name.startswith("ablation:noise") else pipe.guidance
        assert type(search) is type(base) and method.options == (unchanged.options if base is noise else {}), name
        settings = ("scales", "noises", "start", "stop", "every", "weights", "weighting", "pull")
        changed = [key for key in settings if getattr(search, key) != getattr(base, key)]
        panel = [(e.name, e.calibration, e.space) for e in search.evaluators.values()]
        if panel != [(e.name, e.calibration, e.space) for e in base.evaluators.values()]:
            changed = [key for key in changed if key != "weights"] + ["evaluators"]
        same = name in ("ablation:noise", "ablation:weights:fixed")  # nothing is calibrated here
        assert len(changed) == (0 if same else 1), (name, changed)
        assert all(e.space == "denoised" for e in search.evaluators.values()) == (name == "ablation:space:denoised")


@pytest.mark.parametrize(
    "name, nfe",
    [
        ("static:3", 8),
        ("interval:6:0.3:0.8", 2 + 2 + 2 + 1),
        ("best_of_2:3", 16),
        ("best_of_2_equal_nfe:3", 8),
        ("half_steps:3", 4),
        ("dynamic_half_steps:2", 4),
        ("dynamic_best_of_2_equal_nfe:1", 8),
        ("static:3:ancestral", 8),
        ("noise_search:3", 8),
        ("noise_search:4.5:scales", 8),
        ("noise_search_best_of_2:3", 16),
        ("noise_search_best_of_2_equal_nfe:3:scales", 8),
        ("feynman_kac_4:3:0.5", 32),
        ("feynman_kac_2_equal_nfe:3:0.5", 8),
        ("feynman_kac_4_equal_nfe:3:0.5", 8),
        ("best_of_2:3:ancestral", 16),
        ("cfg_plus_plus:0.6:ancestral", 8),
        ("foresight:0.6:3:2", 2 * 3 + 3 * 2),
        ("epsilon_greedy:3:0.4:0.15", 8),
        ("rollover_160:3:4:4", 2 * (4 + 4 * 3)),
        ("zero_order_4:3:0.3:1:3", 32),
        ("halving_4:3:0.2:0.6", 2 * (4 + 2 * 2 + 1)),
        ("noise_search_halving_4_equal_nfe:3:0.3:0.4", 2 * (4 + 1)),
        ("default:halving", 8),
    ],
)
def test_a_batch(pipe, name, nfe):
    """Denoiser passes per image at a fifth of the steps, and shapes."""
    table = rivals.ours(pipe.guidance, False) | rivals.static(False)
    for grid in rivals.families(pipe.guidance).values():
        table |= grid
    method = replace(table[name], steps=table[name].steps // 5)
    found = pictures.make(pipe, method, [("a red circle", 1)])
    assert found["nfe"].tolist() == [nfe] and method.passes >= nfe
    assert found["images"].shape == (1, 64, 64, 3) and found["images"].dtype == np.uint8
    assert found["scale"].shape == found["timestep"].shape == (1, method.steps)
    assert all(found[key].shape == (1,) for key in ("correct", "score"))
    assert found["latents"].shape == (1, 4, 16, 16)


@pytest.mark.parametrize("rungs", [None, (0.5,)])
def test_a_vision_language_model_keeps(pipe, monkeypatch, rungs):
    """The one that it scores best, which is another picture in another file."""
    rows, seen = [("a red circle", 1), ("two blue stars", 2)], []
    method = rivals.Method(Static(3.0), 4, True, 4, rungs=rungs)

    def darkest(candidates, context):
        seen.append(candidates.shape[:2])
        return -candidates.flatten(2).mean(2)

    monkeypatch.setattr(pictures, "asked", lambda device: FunctionEvaluator(darkest, "darkest", "pixels"))
    found = pictures.make(pipe, replace(method, asked=True), rows)
    assert seen[-1] == (2, 2 if rungs else 4)
    assert found["images"].mean() <= pictures.make(pipe, method, rows)["images"].mean()
    assert pictures.depends(pipe, replace(method, asked=True), rows) != pictures.depends(pipe, method, rows)


def test_methods_share_their_noise(pipe):
    """A search over one scale is that static scale: the same pictures, also as the first of several."""
    rows = [("a red circle", 1), ("two blue stars", 2)]
    one = rivals.Method(GreedySearch([], [3.0]), steps=3)
    static = pictures.make(pipe, replace(rivals.static(False)["static:3"], steps=3), rows)
    assert np.array_equal(static["images"], pictures.make(pipe, one, rows)["images"])
    first = pictures.make(pipe, replace(one, n=2), rows)
    assert np.abs(static["images"].astype(int) - first["images"]).max() <= 1


def test_run_goes_on_from_its_last_batch(pipe, tmp_path, monkeypatch):
    monkeypatch.setitem(pictures.BATCH, "cpu", 2)
    method, prompts, made = rivals.Method(GreedySearch([], [3.0]), steps=2), ["a red circle", "two blue stars"], []
    whole = pictures.run(pipe, method, prompts, range(2))
    stock = pictures.make

    def stop(pipe, method, rows):
        if made:
            raise KeyboardInterrupt
        made.append(rows)
        return stock(pipe, method, rows)

    monkeypatch.setattr(pictures, "make", stop)
    with pytest.raises(KeyboardInterrupt):
        pictures.run(pipe, method, prompts, range(2), tmp_path)
    monkeypatch.setattr(pictures, "make", lambda *args: made.append(args[2]) or stock(*args))
    again = pictures.run(pipe, method, prompts, range(2), tmp_path)
    assert [[text for text, _ in rows] for rows in made] == [[prompts[0]] * 2, [prompts[1]] * 2]
    assert made[0][0][1] != made[0][1][1], "another seed"
    assert all(np.array_equal(whole[key], again[key]) for key in whole)


def test_workers_make_what_one_process_would(tmp_path, monkeypatch):
    """In processes of their own, with the weights that ship; what is there already is left alone."""
    pipe, name, prompts = embedded_model.load(), "half_steps:3", ["a red circle", "two blue stars"]
    embedded_model.prepare(pipe, False)
    method = quality.by_name(pipe.guidance)[name]
    expected = pictures.run(pipe, method, prompts, range(1), tmp_path / "alone")
    monkeypatch.setitem(pictures.BATCH, "cpu", 1)
    cell, told = Cell(name, prompts, range(1), tmp_path / "shared"), tqdm(disable=False)
    pictures.run(pipe, method, prompts[:1], range(1), cell.folder)
    with filling(pipe, quality.by_name, 1, False) as fill:
        fill([cell], told)
    assert told.n == method.passes, "one of two was there"
    monkeypatch.setattr(pictures, "make", None)
    found = pictures.run(pipe, method, prompts, range(1), cell.folder)
    assert np.array_equal(found["correct"], expected["correct"])
    assert np.abs(found["images"].astype(int) - expected["images"]).max() <= 1


def test_comparisons():
    """The best rival costs no more; a static scale is compared within its sampler; an ablation with what it changes."""
    result = lambda right, nfe: {"correct": np.array(right), "nfe": np.full(4, nfe)}  # noqa: E731
    results = {
        "static:3": result([1, 0, 0, 0], 40.0),
        "static:6:ancestral": result([1, 0, 1, 0], 40.0),
        "interval:3": result([1, 1, 1, 0], 36.0),
        "best_of_4:3": result([1, 1, 1, 1], 160.0),
        "dynamic": result([1, 1, 1, 0], 40.0),
        "noise_search:3": result([0, 0, 0, 0], 160.0),
        "budget:0.2": result([0, 0, 0, 0], 30.0),
        "ablation:every:1": result([1, 1, 1, 0], 40.0),
        "ablation:noise:every:2": result([1, 1, 1, 0], 40.0),
    }
    noisy = ("static:6:ancestral", "noise_search:3", "ablation:noise:every:2")
    methods = {n: rivals.Method(None, options=rivals.ANCESTRAL if n in noisy else {}) for n in results}
    found = quality.comparisons(results, methods, ["static:3", "static:6:ancestral"])
    assert {row["best_static"] for row in found.values()} == {"static:6:ancestral"}
    assert {n: row["best_of_sampler"] for n, row in found.items()} == {
        name: "static:6:ancestral" if name in noisy else "static:3" for name in results
    }
    assert {n: row["best_rival"] for n, row in found.items()} == dict.fromkeys(results) | {
        "dynamic": "interval:3",
        "noise_search:3": "best_of_4:3",
        "ablation:every:1": "interval:3",
        "ablation:noise:every:2": "interval:3",
    }
    unchanged = {name: row["unchanged"] for name, row in found.items() if "unchanged" in row}
    assert unchanged == {"ablation:every:1": "dynamic", "ablation:noise:every:2": "ablation:noise"}


def test_quick_report(embedded, tmp_path, capsys, monkeypatch):
    """The keys that others read, and that a second run only reads."""
    noise = np.random.default_rng(0).integers(0, 255, (80, 64, 64, 3), np.uint8)
    monkeypatch.setattr(quality, "real_images", lambda n: noise)

    def shortened(table):
        return lambda *args: {name: replace(method, steps=2) for name, method in table(*args).items()}

    for name in ("ours", "static", "quick_rivals"):
        monkeypatch.setattr(rivals, name, shortened(getattr(rivals, name)))
    arguments = ["--quick", "--json", "-n", "5", "--seeds", "2", "--work", str(tmp_path / "work")]
    assert quality.main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report["methods"]) >= {"dynamic", "budget:0.2", "static:2", "static:4.5", "interval:6"}
    for row in report["methods"].values():
        assert {"accuracy", "frechet_distance", "categories", "nfe", "diversity", "win_rate"} <= set(row)
        assert set(row["categories"]) == set(CATEGORIES)
    assert report["best_static"] in report["methods"] and set(report["dynamic_minus_best_static"]) == {
        "of",
        "mean",
        "low",
        "high",
    }
    assert report["methods"][report["best_static"]]["win_rate"]["mean"] == 0.5
    assert report["methods"]["static:2"]["minus_best_rival"] is None
    assert report["methods"]["dynamic"]["minus_best_rival"]["of"] in rivals.static(True) | rivals.quick_rivals()
    assert len(report["timesteps"]) == 2 and report["ablations"] == {} and report["validation"] == {}
    monkeypatch.setattr(pictures, "make", None)
    assert quality.main(arguments) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["methods"] == report["methods"]
    monkeypatch.setattr(pictures, "weights_digest", str)  # other weights
    with pytest.raises(TypeError):
        quality.main(arguments)  # which have to be made, by `None`


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--prompts", "nowhere.txt"], "`--prompts` must be a text file"),
        (["-n", "0"], "`n` must be at least 1"),
        (["--seeds", "0"], "`seeds` must be at least 1"),
        (["--validation", "0"], "`validation` must be at least 1"),
        (["--only", "fdg", "fgd"], "got fgd"),
        (["--workers", "2"], "`--workers` must be 0, or processes that share the folder of `--work`; got 2"),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    assert quality.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_prompts_outside_the_grammar_are_named_before_anything_runs(tmp_path, capsys):
    file = tmp_path / "prompts.txt"
    file.write_text("a red circle\na dog\n")
    assert quality.main(["--prompts", str(file)]) == 2
    assert "a dog" in capsys.readouterr().err
