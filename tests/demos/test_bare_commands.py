"""`generate`, `batch` and the app on models of every family, with no argument but ``--model``: what they download lies
in a cache of the hub in its real layout, and there is no network."""

import functools
import json
import threading

import hosts_flow
import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel, QwenImagePipeline
from hub_cache import hub, offline, offline_hub
from PIL import Image
from tiny import BUILDERS, DIM, flow_vae

from demos import batch, generate
from demos.app import command as app
from demos.app.playground import generate as play
from demos.manifest import Manifest
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
    *_, last = play(shared, threading.Event(), PROMPT, 0, 2, 3.0, "0, 100", 1, 1, 1.0, 1.0)
    check(last[-1].trace)
    assert last[0].size == last[1].size
