"""The shipped weights: what is in the package loads, fits, and does what its card says."""

import inspect
import json

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from safetensors import safe_open

from evaluators import EVALUATORS, load_evaluator
from pipelines import TinyWorldPipeline
from tinyworld import WEIGHTS
from tinyworld.judge import judge
from tinyworld.pipeline import SCALE
from tinyworld.recipes.data import PARAPHRASES, export
from tinyworld.scenes import make_scene
from training import latents
from training.cache import Cache
from training.clip import ranking_accuracy
from training.noise import LEVELS

FILES = sorted(WEIGHTS.rglob("*.safetensors"))


def test_sizes_and_precision():
    assert FILES
    assert all(file.stat().st_size < 40 * 2**20 for file in FILES)
    assert sum(file.stat().st_size for file in WEIGHTS.rglob("*") if file.is_file()) < 120 * 2**20
    for file in FILES:
        with safe_open(file, "pt") as tensors:
            assert {tensors.get_slice(key).get_dtype() for key in tensors.keys()} <= {"F16", "I64"}  # noqa: SIM118


@pytest.mark.parametrize("folder", sorted(p.name for p in WEIGHTS.iterdir() if p.is_dir()))
def test_every_model_has_a_card(folder):
    card = (WEIGHTS / folder / "README.md").read_text()
    for word in ("command", "seed", "hardware", "time", "Data"):
        assert word in card, word


def test_the_pipeline_is_a_stock_folder():
    pipe = DiffusionPipeline.from_pretrained(WEIGHTS / "text_to_image")
    assert type(pipe).__name__ == "StableDiffusionPipeline"
    assert next(pipe.unet.parameters()).dtype == torch.float32


def test_the_vae_keeps_pictures_right():
    vae = AutoencoderKL.from_pretrained(WEIGHTS / "text_to_image", subfolder="vae").eval()
    scenes = [make_scene(40_000 + i, "test") for i in range(60)]
    pixels = torch.from_numpy(np.stack([s.image for s in scenes])).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        decoded = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
    images = ((decoded.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    assert sum(judge(image, scene.caption).correct for image, scene in zip(images, scenes, strict=True)) >= 58


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Cache:
    """Scenes of the test split, by way of a folder of pictures."""
    folder = tmp_path_factory.mktemp("scenes")
    export(folder / "pictures", 256, 70_000, "test")
    run = ["--data", str(folder / "pictures"), "--out", str(folder / "latents"), "--aspect", "1"]
    latents.main(["--model", str(WEIGHTS / "text_to_image"), *run])
    return Cache(folder / "latents")


def test_latent_clip_ranks_as_its_card_says(cache):
    clip = load_evaluator("clip", WEIGHTS / "clip")
    assert clip.space == "noisy" and tuple(clip.calibration.noise_level) == LEVELS
    assert cache.shapes == [(16, 16)] and all(len(texts) == PARAPHRASES for texts in cache.captions(np.arange(256)))
    accuracy = ranking_accuracy(clip, cache, np.arange(256), seed=3)
    # 256 scenes: four standard errors of a share are at most 0.125.
    assert np.allclose(accuracy, clip.calibration.reliability, atol=0.125)
    assert accuracy[0] > accuracy[-1]


@pytest.mark.parametrize("name", sorted(EVALUATORS.keys() & {p.name for p in WEIGHTS.iterdir()}))
def test_evaluators_are_calibrated(name):
    calibration = load_evaluator(name, WEIGHTS / name).calibration
    assert list(calibration.noise_level) == sorted(calibration.noise_level)
    assert all(s > 0 for s in calibration.spread) and len(set(calibration.spread)) > 1
    assert all(0 <= r <= 1 for r in calibration.reliability)


def test_a_guided_picture_has_its_trace():
    pipe = TinyWorldPipeline.from_pretrained()
    pipe.set_progress_bar_config(disable=True)
    prompts = ["a red circle", "two blue squares"]
    output = pipe(prompts, num_inference_steps=6, generator=torch.Generator().manual_seed(0))
    trace = output.guidance_trace
    assert [image.size for image in output.images] == [(64, 64)] * 2
    assert trace.prompt == prompts and trace.scales.shape == (6, 2)
    assert len(chosen := set(trace.scales.unique().tolist())) > 1 and chosen <= set(pipe.guidance.scales)
    said = json.loads(json.dumps(trace.to_dict()))["steps"][0]["noise_scores"]
    assert said.keys() == pipe.guidance.evaluators.keys() and len(said["clip"][0]) == pipe.guidance.noises > 1


def test_its_own_scale_is_the_best_static_one():
    """Not Stable Diffusion's 7.5, at which it draws worse; by position, too, another may be given."""
    pipe = TinyWorldPipeline.from_pretrained()
    pipe.set_progress_bar_config(disable=True)
    pipe.guidance = None

    def draw(*args, **kwargs):
        generator = torch.Generator().manual_seed(0)
        return pipe("a red circle", *args, generator=generator, output_type="latent", **kwargs).images

    unasked = draw(None, None, 2)
    assert torch.equal(unasked, draw(num_inference_steps=2, guidance_scale=SCALE))
    other = draw(num_inference_steps=2, guidance_scale=6.0)
    assert torch.equal(draw(None, None, 2, None, None, 6.0), other) and not torch.equal(unasked, other)
    assert inspect.signature(pipe.__call__).parameters["guidance_scale"].default == SCALE
