"""Where models are and in which precision: pipelines in half, with offloading, and judges on a device of their own."""

import accelerate
import pytest
import torch
from accelerate.hooks import remove_hook_from_module
from tiny import BUILDERS, vae

from evaluators.pixel import PixelEvaluator, preview
from guidance import GreedySearch
from pipelines import guide

PROMPT = ["two red circles", "a blue star"]


class Small(PixelEvaluator):
    """A judge with a model; keeps what that was shown."""

    name, every = "small", 1

    def __init__(self, device="cpu"):
        super().__init__()
        self.layer = torch.nn.Linear(3, 1).to(device)
        torch.nn.init.ones_(self.layer.weight)
        self.shown = []

    def judge(self, images, prompts):
        self.shown.append(images)
        return self.layer(images.mean((2, 3)))[:, 0] if self.device.type != "meta" else torch.arange(len(images))


@pytest.fixture
def pipe():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = BUILDERS["sd"]()
    made.set_progress_bar_config(disable=True)
    yield made
    remove_hook_from_module(made.vae, recurse=True)


def run(pipe, kind, judge):
    options = {"num_inference_steps": 3, "height": 16, "width": 16, "output_type": "latent"}
    with guide(pipe, GreedySearch([judge]), preview=kind) as traces:
        latents = pipe(PROMPT, generator=torch.Generator().manual_seed(0), **options).images
    return latents, traces[-1]


@pytest.mark.parametrize("kind", ["vae", "linear"])
@pytest.mark.parametrize("offload", [accelerate.cpu_offload, accelerate.cpu_offload_with_hook])
def test_a_preview_by_a_vae_that_is_offloaded(pipe, monkeypatch, kind, offload):
    """Its weights lie elsewhere, on the meta device where they are fetched layer by layer."""
    latents, trace = run(pipe, kind, Small())
    monkeypatch.setattr(preview, "_MADE", {})
    offload(pipe.vae, torch.device("cpu"))
    assert (pipe.vae.device.type == "meta") is (offload is accelerate.cpu_offload)
    assert preview.device_of(pipe.vae) == torch.device("cpu")
    again, retrace = run(pipe, kind, Small())
    assert torch.equal(latents, again) and torch.equal(trace.scales, retrace.scales)


@pytest.mark.parametrize("kind", ["vae", "linear"])
def test_a_pipeline_in_half_precision_and_a_judge_in_full(pipe, kind):
    judge = Small()
    latents, trace = run(pipe.to(torch.bfloat16), kind, judge)
    assert latents.dtype == torch.bfloat16 and judge.dtype == torch.float32
    assert all(shown.dtype == torch.float32 and 0 <= shown.min() < shown.max() <= 1 for shown in judge.shown)
    for step in trace.steps:
        assert step["scores"]["small"].dtype == torch.float32 and step["scores"]["small"].isfinite().all()


def test_pictures_come_to_the_judge_and_scores_go_back(pipe):
    """The meta device stands for another; what lies there cannot be read."""
    judge = Small("meta")
    latents, trace = run(pipe, "vae", judge)
    assert {shown.device.type for shown in judge.shown} == {"meta"} and latents.device.type == "cpu"
    assert all(step["favourites"]["small"].tolist() == [len(trace.candidates) - 1] * 2 for step in trace.steps)


@pytest.mark.parametrize("dtype, upcast", [(torch.float16, True), (torch.float16, False), (torch.bfloat16, True)])
def test_a_vae_that_overflows_in_half_precision_is_in_full_for_a_while(monkeypatch, dtype, upcast):
    torch.manual_seed(0)
    autoencoder, seen = vae(force_upcast=upcast), []
    exact = {"decode": preview.decode(autoencoder, torch.ones(1, 4, 4, 4))}
    autoencoder.to(dtype)
    for name in ("decode", "encode"):
        stock = getattr(autoencoder, name)
        monkeypatch.setattr(
            autoencoder, name, lambda x, stock=stock, **kwargs: (seen.append(x.dtype), stock(x, **kwargs))[1]
        )
    picture = preview.decode(autoencoder, torch.ones(1, 4, 4, 4))
    preview.encode(autoencoder, picture)
    assert seen == [torch.float32 if upcast and dtype == torch.float16 else dtype] * 2 and autoencoder.dtype == dtype
    torch.testing.assert_close(picture, exact["decode"], atol=0.02, rtol=0)


def test_large_pictures_are_decoded_a_few_at_a_time(monkeypatch):
    torch.manual_seed(0)
    autoencoder, parts = vae(), []
    stock = autoencoder.decode
    together = preview.decode(autoencoder, latents := torch.randn(5, 4, 4, 6))
    monkeypatch.setattr(autoencoder, "decode", lambda x, **kwargs: (parts.append(len(x)), stock(x, **kwargs))[1])
    monkeypatch.setattr(preview, "AREA", 50)
    torch.testing.assert_close(preview.decode(autoencoder, latents), together)
    monkeypatch.setattr(preview, "AREA", 3)
    preview.decode(autoencoder, latents)
    assert parts == [2, 2, 1] + [1] * 5
