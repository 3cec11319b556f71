"""The calibration of any evaluator with any model: what is measured, kept, gone on with and refused."""

import json

import pytest
import torch
from diffusers import DiffusionPipeline
from small_judges import save_open_clip

from evaluators import Calibration, FunctionEvaluator, load_evaluators
from evaluators.pixel.preview import make_preview
from training import agreement, calibrate

PROMPTS = ["a red circle", "two blue squares"]
SCALES = (1.0, 4.0, 9.0)


def brightness(candidates, context):
    return candidates.flatten(2).mean(2)


def row(prompt, seed, final, scores, spread=(1.0, 2.0), name="a", **more):
    return {"prompt": prompt, "seed": seed} | {
        key: {"level": [0.9, 0.1], "spread": list(spread), "score": list(scores), "final": final}
        for key in (name, *more)
    }


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    torch.manual_seed(0)
    return save_open_clip(tmp_path_factory.mktemp("open_clip"))


@pytest.fixture
def arguments(folder, judge, tmp_path):
    """``arguments(host, *more)``: of a run with a judge of pictures alone."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS))

    def make(host, *more, evaluators=(f"open_clip={judge}",)):
        model = ["--model", str(folder(host)), "--prompts", str(prompts), "--steps", "2", "--device", "cpu"]
        return [*model, "--evaluators", *evaluators, *more]

    return make


# ------------------------------------------------------------------------------------------------------- what is said


def test_reliability_is_how_often_pairs_of_one_prompt_are_ranked_as_in_the_end():
    rows = [
        row("x", 0, 1.0, (5.0, 1.0)),
        row("x", 1, 2.0, (4.0, 2.0)),
        row("x", 2, 3.0, (4.0, 3.0)),
        row("y", 0, 9.0, (0.0, 9.0)),  # of another prompt: no pair with those
        row("z", 0, 1.0, (0.0, 0.0)),
        row("z", 1, 1.0, (1.0, 1.0)),  # ends alike: says nothing
    ]
    made = agreement.calibration(rows, "a")
    assert made.noise_level == (0.1, 0.9) or made.noise_level == (0.9, 0.1)
    assert made.at(0.1)[1] == 1.0
    assert made.at(0.9)[1] == pytest.approx(0.5 / 3, abs=1e-4)  # wrong, wrong, alike
    assert made.at(0.1)[0] == 2.0 and made.at(0.9)[0] == 1.0


def test_a_judge_says_which_finished_picture_is_better():
    rows = [row("x", seed, final, (seed, seed)) for seed, final in ((0, 1.0), (1, 2.0))]
    for one, better in zip(rows, (7.0, 3.0), strict=True):
        one["b"] = one["a"] | {"final": better}
    assert agreement.calibration(rows, "a").reliability == (1.0, 1.0)
    assert agreement.calibration(rows, "a", "b").reliability == (0.0, 0.0)
    assert agreement.calibration(rows, "b", "b").reliability == (0.0, 0.0)


def test_silence_and_what_is_not_finite_do_not_count():
    nan = float("nan")
    rows = [row("x", 0, 1.0, (nan, 1.0), (0.0, 2.0)), row("x", 1, 2.0, (1.0, 2.0), (nan, 4.0))]
    made = agreement.calibration(rows, "a")
    assert (made.noise_level, made.spread, made.reliability) == ((0.1,), (3.0,), (1.0,))
    with pytest.raises(ValueError, match="tells no candidates apart"):
        agreement.calibration([row("x", i, i, (0.0, 0.0), (0.0, 0.0)) for i in range(2)], "a")
    with pytest.raises(ValueError, match="tells no two finished pictures"):
        agreement.calibration([row("x", i, 1.0, (0.0, 0.0)) for i in range(2)], "a")


# --------------------------------------------------------------------------------------------------- what is measured


def test_a_measurement_is_of_the_pipeline_at_its_own_scale_and_of_the_picture_it_makes(stock):
    """The same picture as without anybody watching; its score in the end is that of the decoded picture."""
    pipe = stock("sd")
    seen = FunctionEvaluator(brightness, "seen", "pixels", every=2)
    latent = FunctionEvaluator(brightness, "latent", "noisy")
    jobs = [(PROMPTS[0], 3), (PROMPTS[1], 4)]
    rows = agreement.measure(pipe, [seen, latent], jobs, SCALES, steps=3, guidance_scale=6.0, preview="linear")
    generators = [torch.Generator().manual_seed(seed) for _, seed in jobs]
    call = {"num_inference_steps": 3, "guidance_scale": 6.0, "output_type": "latent"}
    with torch.no_grad():
        final = pipe(PROMPTS, generator=generators, **call).images
    pictures = make_preview(pipe.vae, "vae")(final)
    for i, one in enumerate(rows):
        assert (one["prompt"], one["seed"]) == jobs[i]
        assert (len(one["seen"]["level"]), len(one["latent"]["level"])) == (2, 3)
        assert one["seen"]["final"] == pytest.approx(float(pictures[i].mean()), abs=1e-4)
        assert one["latent"]["score"][-1] == pytest.approx(one["latent"]["final"], abs=1e-5)
        assert all(spread > 0 for spread in one["seen"]["spread"] + one["latent"]["spread"])


def test_pictures_do_not_depend_on_what_is_made_with_them(stock):
    latent = FunctionEvaluator(brightness, "latent", "noisy")
    jobs = [(PROMPTS[0], 0), (PROMPTS[0], 1)]
    together = agreement.measure(stock("sd"), [latent], jobs, SCALES, steps=2)
    (alone,) = agreement.measure(stock("sd"), [latent], jobs[1:], SCALES, steps=2)
    assert alone["latent"]["score"] == pytest.approx(together[1]["latent"]["score"], abs=1e-5)


@pytest.mark.parametrize("host", ["sd", "sdxl", "sd3", "flux"])
def test_any_model_and_a_judge_of_pictures(arguments, host, tmp_path, judge, monkeypatch):
    if host == "flux":  # which would make pictures of 128 latents
        stock = DiffusionPipeline.to
        small = lambda pipe, *args: setattr(pipe, "default_sample_size", 8) or stock(pipe, *args)  # noqa: E731
        monkeypatch.setattr(DiffusionPipeline, "to", small)
    out = tmp_path / "calibration"
    calibrate.main(arguments(host, "--out", str(out), "--pictures", "2", "--preview", "linear"))
    (loaded,) = load_evaluators([f"open_clip={judge}"], out)
    assert loaded.calibration == Calibration.from_json(out / "open_clip.json")
    assert all(spread > 0 for spread in loaded.calibration.spread)
    assert all(0 <= value <= 1 for value in loaded.calibration.reliability)


def test_it_goes_on_where_it_stopped(arguments, tmp_path, monkeypatch):
    out, asked = tmp_path / "calibration", []
    stock = calibrate.measure
    monkeypatch.setattr(
        calibrate, "measure", lambda pipe, panel, jobs, *rest: asked.extend(jobs) or stock(pipe, panel, jobs, *rest)
    )
    settings = arguments("sd", "--out", str(out), "--pictures", "2")
    calibrate.main(settings)
    first, whole = (out / "open_clip.json").read_text(), (out / "measured.jsonl").read_text()
    assert len(asked) == 4
    (out / "open_clip.json").unlink()
    (out / "measured.jsonl").write_text(whole[: whole.rindex("\n", 0, -1) + 30])  # stopped while it wrote the last
    calibrate.main(settings)
    assert asked[4:] == [(PROMPTS[1], 1)]
    assert json.loads((out / "open_clip.json").read_text()).keys() == json.loads(first).keys()
    calibrate.main(arguments("sd", "--out", str(out), "--pictures", "3"))
    assert sorted(asked[5:]) == [(prompt, 2) for prompt in PROMPTS]


def test_without_a_folder_the_spread_is_written_beside_the_weights(arguments, clip, tmp_path, monkeypatch):
    model = clip()
    model.calibrate(Calibration((0.1, 0.5, 0.9), (1.0, 1.0, 1.0), (0.9, 0.8, 0.7)))
    model.save_pretrained(tmp_path / "clip")
    spreads = iter([(5.0, 1.0), (9.0, 5.0)])  # at 0.9 and 0.1
    monkeypatch.setattr(
        calibrate,
        "measure",
        lambda pipe, panel, jobs, *rest: [row(*job, 0.0, (0.0, 0.0), next(spreads), "clip") for job in jobs],
    )
    calibrate.main(arguments("sd", evaluators=[f"clip={tmp_path / 'clip'}"]))
    kept = json.loads((tmp_path / "clip" / "config.json").read_text())["calibration"]
    assert kept == {"noise_level": [0.1, 0.5, 0.9], "spread": [3.0, 5.0, 7.0], "reliability": [0.9, 0.8, 0.7]}


# ---------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "more, message",
    [
        (["--out", "{out}", "--evaluators", "nobody"], "names 'nobody', which is unknown"),
        (["--out", "{out}", "--evaluators", "clip"], "give clip=FOLDER"),
        (["--out", "{out}", "--judge", "ocr"], "has no ocr for --judge"),
        (["--out", "{out}", "--pictures", "1"], "must be at least 2"),
        (["--out", "{out}", "--scales", "3"], "must be at least two"),
        (["--out", "{out}", "--device", "nonsense"], "cannot be loaded"),
        (["--out", "{file}"], "--out"),
        ([], "argument --out: is needed"),
        (["--evaluators", "open_clip"], "argument --out: is needed"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_in_a_line(arguments, tmp_path, capsys, more, message):
    (tmp_path / "file").write_text("")
    told = [item.format(out=tmp_path / "calibration", file=tmp_path / "file") for item in more]
    with pytest.raises(SystemExit) as stopped:
        calibrate.main(arguments("sd", *told))
    line = capsys.readouterr().err
    assert stopped.value.code == 2 and message in line and line.count("\n") == 1


def test_an_evaluator_of_another_vae_is_refused(arguments, discriminator, tmp_path, capsys):
    discriminator(16).save_pretrained(tmp_path / "discriminator")
    with pytest.raises(SystemExit):
        calibrate.main(
            arguments("sd", "--out", str(tmp_path / "c"), evaluators=[f"discriminator={tmp_path / 'discriminator'}"])
        )
    assert "belongs to another VAE" in capsys.readouterr().err


def test_other_settings_are_refused(arguments, tmp_path, capsys):
    out = ["--out", str(tmp_path / "c"), "--pictures", "2"]
    calibrate.main(arguments("sd", *out))
    with pytest.raises(SystemExit):
        calibrate.main(arguments("sd", *out, "--guidance-scale", "3", "--preview", "linear"))
    assert "was measured with another guidance_scale, preview" in capsys.readouterr().err


def test_a_folder_that_leaves_one_out_is_refused(judge, tmp_path):
    with pytest.raises(ValueError, match=r"has no open_clip\.json: calibrate 'open_clip' there"):
        load_evaluators([f"open_clip={judge}"], tmp_path)
    loud = Calibration((0.0, 1.0), (1.0, 2.0), (0.9, 0.6))
    loud.to_json(tmp_path / "brightness.json")
    (made,) = load_evaluators([brightness], tmp_path)
    assert made.calibration == loud and made.name == "brightness"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"spread": [1]}',
        '{"noise_level": [], "spread": [], "reliability": []}',
        '{"noise_level": [0.5, 0.1], "spread": [1, 1], "reliability": [1, 1]}',
        '{"noise_level": [0.1, 0.5], "spread": [1], "reliability": [1, 1]}',
        '{"noise_level": [0.1], "spread": [NaN], "reliability": [1]}',
    ],
)
def test_a_file_that_holds_no_calibration_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match="holds no calibration"):
        Calibration.from_json(tmp_path / "a.json")
