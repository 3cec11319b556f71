"""`generate`, `batch` and the app on models of every family, with no argument but ``--model``: what they download lies
in a cache of the hub in its real layout, and there is no network."""

import functools
import json

import hosts_flow
import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel, QwenImagePipeline
from hub_cache import hub, offline, offline_hub
from PIL import Image
from small_judges import named, save_open_clip
from tiny import BUILDERS, DIM, flow_vae

import tinyworld
from demos import batch, generate
from demos.app import command as app
from demos.app.runs import run
from demos.app.settings import Settings
from demos.manifest import Manifest
from evaluators import LRM
from guidance import GuidanceTrace

__all__ = ["hub", "offline", "offline_hub"]
PROMPT = "two red circles above a blue square"


def flux():
    """With latents of 16 channels, as published."""
    transformer = FluxTransformer2DModel(
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=2 * DIM,
        pooled_projection_dim=DIM,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )
    pipe = BUILDERS["flux"]()
    pipe.register_modules(vae=flow_vae(latent_channels=16), transformer=transformer)
    return pipe


# The published scaling and shift of each VAE, by which its preview decoder is found.
FAMILIES = {"sd": (0.18215, None), "sdxl": (0.13025, None), "sd3": (1.5305, 0.0609), "flux": (0.3611, 0.1159)}
MODELS = BUILDERS | {"flux": flux, "qwen": hosts_flow.qwen}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """``model(host)``: its folder."""

    @functools.cache
    def save(host):
        path = tmp_path_factory.mktemp(host)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            pipe = MODELS[host]()
        if host in FAMILIES:
            scaling, shift = FAMILIES[host]
            pipe.vae.register_to_config(scaling_factor=scaling, shift_factor=shift)
        pipe.save_pretrained(path)
        return str(path)

    return save


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch):
    """Two pipelines make pictures of 1024 pixels whatever their parts are."""
    for kind in (FluxPipeline, QwenImagePipeline):
        small = property(lambda self: 8, lambda self, value: None)
        monkeypatch.setattr(kind, "default_sample_size", small, raising=False)


hosts = pytest.mark.parametrize("host", MODELS)


def check(trace):
    """Both judges compared the candidates at every fifth step, and one of these was chosen."""
    steps = trace.to_dict()["steps"]
    assert [i for i, step in enumerate(steps) if "scores" in step] == list(range(0, len(steps), 5))
    assert set(trace.scales.flatten().tolist()) <= set(trace.candidates)
    assert list(steps[0]["scores"]) == ["open_clip", "aesthetic"] == list(steps[0]["favourites"])
    assert all(len(set(scores[0])) > 1 for scores in steps[0]["scores"].values())


@hosts
def test_generate(model, offline_hub, tmp_path, monkeypatch, host):
    monkeypatch.chdir(tmp_path)
    generate.main([PROMPT, "--model", model(host)])
    stem = "outputs/000_two-red-circles-above-a-blue-square_seed0"
    data = json.loads(Image.open(f"{stem}.png").text[generate.METADATA_KEY])
    assert data["evaluators"] == ["open_clip", "aesthetic"] and len(data["schedule"]) == 25
    check(GuidanceTrace.from_json(f"{stem}_trace.json"))
    assert Image.open(f"{stem}_schedule.png").width > 64


@hosts
def test_batch(model, offline_hub, tmp_path, host):
    (tmp_path / "prompts.txt").write_text(f"{PROMPT}\na fox in the snow\n")
    out, options = tmp_path / "study", ["--methods", "dynamic", "--steps", "2", "--model", model(host)]
    batch.main([str(tmp_path / "prompts.txt"), "--out", str(out), *options])
    with Manifest(out, read_only=True) as manifest:
        made = manifest.images()
    assert len(made) == 2
    for image in made:
        assert Image.open(out / image.file).width > 1
        check(GuidanceTrace.from_json(out / image.trace))


@hosts
def test_app(model, offline_hub, host):
    args = app.parse(["--model", model(host)])
    app.generate.check_late(args)
    shared = app.load_host(args)
    assert list(shared.default.evaluators) == ["open_clip", "aesthetic"] and not shared.embedded
    weights = tuple((name, 1.0) for name in shared.default.evaluators)
    asked = Settings(PROMPT, steps=2, static=3.0, scales=(0.0, 100.0), weights=weights)
    ((dynamic, static),) = run(shared, asked, lambda progress: None).rows
    check(dynamic.trace)
    assert dynamic.image.size == static.image.size


slow = pytest.mark.slow
WITHOUT_A_HUB = [
    pytest.param(host, judge, marks=() if (host, judge) in (("sd", "ocr"), ("qwen", "vqa=embedded")) else slow)
    for host in MODELS
    for judge in ("ocr", "vqa=embedded")
]


@pytest.mark.parametrize("host, judge", WITHOUT_A_HUB)
def test_judges_without_a_hub(model, offline, tmp_path, capsys, host, judge):
    """Nothing is in the cache: the preview is fitted to the VAE, or the VAE itself."""
    prompt = PROMPT if judge != "ocr" else 'a green sign saying "CAB"'
    options = ["--model", model(host), "--steps", "2", "--scales", "0,100", "--out", str(tmp_path / "out")]
    generate.main([prompt, *options, "--evaluators", judge])
    (trace,) = (tmp_path / "out").glob("*_trace.json")
    step = GuidanceTrace.from_json(trace).steps[judge == "ocr"]  # which first looks after a third of the steps
    assert list(step["scores"]) == [judge.partition("=")[0]]
    assert len(list((tmp_path / "out").iterdir())) == 3 and not offline.exists()
    assert "nothing to judge" not in capsys.readouterr().err


@pytest.mark.parametrize("host, folder", [("sd", "lrm_sd15"), ("sdxl", "lrm_sdxl")])
def test_the_latent_reward_model_is_that_of_the_vae(model, offline_hub, tmp_path, monkeypatch, host, folder):
    asked, from_pretrained = [], LRM.from_pretrained
    monkeypatch.setattr(LRM, "from_pretrained", lambda source: (asked.append(source), from_pretrained(source))[1])
    generate.main(["a fox", "--model", model(host), "--steps", "2", "--evaluators", "lrm", "--out", str(tmp_path)])
    assert asked == [f"casiatao/LRM/{folder}"]
    (trace,) = tmp_path.glob("*_trace.json")
    assert len(set(GuidanceTrace.from_json(trace).steps[0]["scores"]["lrm"][0])) > 1


@pytest.mark.parametrize("name, prompts", [("ocr", ["a fox in the snow"]), ("vqa", ["a fox", "a hare"])])
def test_a_judge_with_nothing_to_judge_says_so_once(model, offline, tmp_path, capsys, name, prompts):
    options = ["--model", model("sd"), "--steps", "1", "--batch-size", "1", "--out", str(tmp_path / "out")]
    generate.main([*prompts, *options, "--evaluators", name, "--num-images", "2"])
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    more = ", nor in the other prompts" * (len(prompts) - 1)
    assert told == [f"warning: evaluator {name!r} finds nothing to judge in {prompts[0]!r}{more}, and is silent"]


def truncated(folder):
    file = save_open_clip(folder) / "open_clip_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


class Harm:
    def __reduce__(self):
        return print, ("harm",)


BAD = {
    "nothing in the cache": ([], "`open_clip=FOLDER`"),
    "unknown judge": (["--evaluators", "pikscore"], "pikscore"),
    "no hub id in the cache": (["--evaluators", "pickscore=some/thing"], "`pickscore=FOLDER`"),
    "truncated weights": (["--evaluators", "open_clip={tmp}/truncated"], "broken or truncated"),
    "a pickle of code": (["--evaluators", "hpsv2={tmp}/code.pt"], "refused"),
    "another model's weights": (["--evaluators", "aesthetic_v2={tmp}/other.pth"], "another model's weights"),
    "latents of another VAE": (["--evaluators", "lrm", "--model", "{sd3}"], "published for the latents of Stable Diff"),
    "lrm of the embedded model": (["--evaluators", "lrm", "--model", "{embedded}"], "published for the latents"),
    "no model in the cache": (["--model", "some/thing"], "give a folder"),
    "no prompt": (None, "prompts"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_before_denoising(model, offline, tmp_path, capfd, monkeypatch, case):
    monkeypatch.setattr(generate, "denoise", lambda *args: pytest.fail("denoised"))
    truncated(tmp_path / "truncated")
    torch.save({"state_dict": {"a": Harm()}}, tmp_path / "code.pt")
    torch.save({"layers.0.weight": torch.zeros(3, 3)}, tmp_path / "other.pth")
    capfd.readouterr()
    given, told = BAD[case]
    places = {"{tmp}": tmp_path, "{sd3}": model("sd3"), "{embedded}": tinyworld.WEIGHTS / "text_to_image"}
    arguments = ["a fox", "--model", model("sd"), *given] if given is not None else ["--model", model("sd")]
    for name, place in places.items():
        arguments = [argument.replace(name, str(place)) for argument in arguments]
    with named("ViT-H-14"), pytest.raises(SystemExit) as stop:
        generate.main([*arguments, "--out", str(tmp_path / "out")])
    said = capfd.readouterr()
    assert stop.value.code == 2 and told in said.err and not said.out
    assert said.err.startswith("error: ") and said.err.count("\n") == 1, said.err
    assert not list((tmp_path / "out").glob("*"))
