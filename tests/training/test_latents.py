"""Pictures become latents of any checkpoint, and whatever happens on the way the shards are the same."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from parts_flow import flux2_vae
from PIL import Image
from safetensors.torch import load_file
from small_judges import save_open_clip

from evaluators import OpenCLIPTower
from evaluators.pixel.preview import decode, encode
from training import latents, vae
from training.buckets import buckets, fit, nearest
from training.cache import Cache, Draws, split
from training.shards import ShardFolder

ROOT = Path(__file__).parents[2]


def arguments(model, data, out, *more: str) -> list[str]:
    return ["--model", str(model), "--data", str(data), "--out", str(out), "--resolution", "16", *more]


def contents(folder: Path) -> dict:
    """Every tensor and every caption."""
    found = {}
    for shard in ShardFolder.open(folder).shards():
        shard.check()
        tensors = {name: tensor.tolist() for name, tensor in load_file(shard.path).items()}
        found[shard.path.name] = tensors, shard.about
    return found


# ------------------------------------------------------------------------------------------------------------ buckets


@pytest.mark.parametrize("resolution, multiple, aspect", [(1024, 32, 2.0), (512, 8, 2.0), (64, 4, 1.5), (768, 64, 3.0)])
def test_buckets_have_nearly_one_area(resolution, multiple, aspect):
    made = buckets(resolution, multiple, aspect)
    assert (resolution, resolution) in made and len(set(made)) == len(made) and 3 <= len(made) < 40
    assert made == [(height, width) for width, height in reversed(made)]
    for width, height in made:
        assert width % multiple == height % multiple == 0 and max(width, height) <= aspect * min(width, height)
        assert 0.8 < width * height / resolution**2 <= 1


def test_a_picture_goes_to_the_nearest_shape():
    made = buckets(64, 4, 2.0)
    assert nearest((500, 500), made) == (64, 64) == buckets(67, 4, 1.0)[0]
    width, height = nearest((3000, 2000), made)
    assert abs(width / height - 1.5) < 0.15 and nearest((2000, 3000), made) == (height, width)
    assert nearest((9000, 100), made) == made[0]
    for wrong, message in (((3, 4, 2.0), "at least 4, got 3"), ((64, 4, 0.5), "at least 1, got 0.5")):
        with pytest.raises(ValueError, match=message):
            buckets(*wrong)


@pytest.mark.parametrize("size", [(40, 20), (20, 40), (33, 31), (8, 8)])
def test_what_is_cropped_is_the_margin(size):
    """A horizontal ramp keeps its slope in the middle, whatever the shape."""
    ramp = np.broadcast_to(np.linspace(0, 255, size[0])[None, :, None], (size[1], size[0], 3)).astype(np.uint8)
    found = fit(Image.fromarray(ramp), (16, 16))
    assert found.shape == (16, 16, 3)
    seen = float(found[:, -1].mean() - found[:, 0].mean()) / 255
    assert abs(seen - min(1.0, size[1] / size[0])) < 0.12
    assert np.array_equal(fit(Image.fromarray(found), (16, 16)), found)


# --------------------------------------------------------------------------------------------------------------- VAEs


@pytest.mark.parametrize("host, channels, multiple", [("sd", 4, 4), ("sdxl", 4, 4), ("sd3", 16, 4), ("flux", 4, 4)])
def test_latents_are_those_that_the_pipeline_denoises(host, channels, multiple, folder, stock):
    """By the formula of each pipeline's own image-to-image."""
    model, own = vae.load(str(folder(host))), stock(host).vae
    assert (model.channels, model.multiple) == (channels, multiple)
    assert model.resolution == (1024 if host == "flux" else 16)
    images = np.random.default_rng(0).integers(0, 255, (3, 16, 24, 3), np.uint8)
    with torch.no_grad():
        mean = own.encode(torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1).latent_dist.mode()
    wanted = (mean - (own.config.shift_factor or 0)) * own.config.scaling_factor
    found = model.encode(images)
    assert found.dtype == torch.float16 and found.shape == (3, channels, 8, 12)
    torch.testing.assert_close(found.float(), wanted, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("host", ["sd", "sdxl", "sd3", "flux"])
def test_the_noise_that_a_sampler_meets(host, folder):
    """Whatever the convention: from no noise to nearly nothing else."""
    levels = vae.load(str(folder(host))).levels
    assert len(levels) == 51 and list(levels) == sorted(levels) and levels[0] < 0.06 and 0.99 < levels[-1] <= 1
    assert 0.3 < np.median(levels) < 0.95


def test_the_statistics_of_flux_2():
    """As its pipeline has them: of squares of four latents."""
    from diffusers import Flux2KleinPipeline

    model = flux2_vae()
    model.bn.running_mean.copy_(torch.randn(model.bn.num_features))
    model.bn.running_var.copy_(torch.rand(model.bn.num_features) + 0.5)
    pixels = torch.rand(2, 3, 16, 24)
    found = encode(model, pixels)
    with torch.no_grad():
        squares = Flux2KleinPipeline._patchify_latents(model.encode(pixels * 2 - 1).latent_dist.mode())
    mean, variance = (x.view(1, -1, 1, 1) for x in (model.bn.running_mean, model.bn.running_var))
    wanted = Flux2KleinPipeline._unpatchify_latents((squares - mean) / (variance + model.config.batch_norm_eps).sqrt())
    torch.testing.assert_close(found, wanted)
    assert decode(model, found).shape == pixels.shape


def test_an_autoencoder_alone(folder, tmp_path, capsys, captioned):
    model = vae.load(str(folder("sd") / "vae"))
    assert (model.channels, model.multiple, model.resolution) == (4, 2, None)
    with pytest.raises(SystemExit):
        data = captioned(1)
        latents.main(["--model", str(folder("sd") / "vae"), "--data", str(data), "--out", str(tmp_path / "out")])
    assert capsys.readouterr().err == "error: argument --resolution: is needed, for an autoencoder alone does not say\n"


@pytest.mark.parametrize(
    "index, message",
    [
        ({"_class_name": "WanPipeline", "vae": ["diffusers", "AutoencoderKLWan"]}, "a WanPipeline, which makes videos"),
        ({"_class_name": "IFPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}, "it is a IFPipeline"),
    ],
)
def test_what_has_no_latents_of_pictures_is_refused(tmp_path, capsys, index, message, captioned):
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(SystemExit) as stop:
        latents.main(arguments(tmp_path, captioned(1), tmp_path / "out"))
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and error.count("\n") == 1


# -------------------------------------------------------------------------------------------------------------- cache


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    return save_open_clip(tmp_path_factory.mktemp("teacher") / "clip")


def test_a_cache_holds_every_picture_in_its_shape(folder, tmp_path, teacher, captioned):
    data = captioned(50)
    latents.main(arguments(folder("sdxl"), data, tmp_path / "out", "--shard-size", "16", "--teacher", str(teacher)))
    cache = Cache(tmp_path / "out")
    assert len(cache) == 50 and len(cache.shapes) == 3 and cache.channels == 4 and len(cache.levels) == 51
    assert sorted(cache.numbers) == list(range(50))
    model, tower = vae.load(str(folder("sdxl"))), OpenCLIPTower.from_pretrained(teacher)
    seen = set()
    for batch in cache.batches(np.arange(50), 7):
        assert len(batch) <= 7
        for i in range(len(batch)):
            number = int(batch.captions[i][0].split()[1])
            seen.add(number)
            assert batch.captions[i] == [f"picture {number}", f"number {number}"]
            assert batch.wrong[i] == [f"picture {number + 1}"]
            height, width = (2 * side for side in batch.latents.shape[-2:])
            image = fit(Image.open(data / f"{number}.png"), (width, height))[None]
            torch.testing.assert_close(batch.latents[i : i + 1], model.encode(image), atol=2e-3, rtol=1e-2)
            embedding = tower.embed(torch.from_numpy(image).permute(0, 3, 1, 2) / 255)
            torch.testing.assert_close(batch.teacher[i : i + 1].float(), embedding, atol=2e-3, rtol=1e-2)
    assert seen == set(range(50))
    train, (_, test) = split(cache, None)
    assert not set(train) & set(test) and len(train) + len(test) == 50 and 0 < len(test) < 15
    draw = Draws(cache, train, 8)
    rng = np.random.default_rng(0)
    drawn = [draw(rng) for _ in range(30)]
    assert {batch.latents.shape[-2:] for batch in drawn} == set(cache.shapes)
    held_out = {texts[0] for texts in cache.captions(test)}
    assert not held_out & {texts[0] for batch in drawn for texts in batch.captions}
    assert all(len({texts[0] for texts in batch.captions}) == len(batch) for batch in drawn)
    assert split(cache, cache)[1][1].tolist() == list(range(50))


def test_several_folders_are_one(folder, tmp_path, captioned):
    data, other = captioned(12), captioned(5, texts=[[f"other {i}"] for i in range(5)])
    for name, source, model in (("a", data, "sd"), ("b", other, "sd"), ("c", other, "flux")):
        latents.main(arguments(folder(model), source, tmp_path / name, "--shard-size", "4"))
    a, b, both = Cache(tmp_path / "a"), Cache(tmp_path / "b"), Cache(tmp_path / "a", tmp_path / "b")
    texts = [list(cache.captions(np.arange(len(cache)))) for cache in (a, b, both)]
    assert texts[2] == texts[0] + texts[1] and len(both) == 17
    for row in (0, 11, 12, 16):
        one = a.take([row]) if row < 12 else b.take([row - 12])
        assert torch.equal(both.take([row]).latents, one.latents) and both.take([row]).captions == one.captions
    with pytest.raises(ValueError, match="were not made with the same vae"):
        Cache(tmp_path / "a", tmp_path / "c")


def test_broken_pictures_stop_it_or_are_left_out(folder, tmp_path, capsys, captioned):
    data = captioned(6)
    (data / "2.png").write_bytes(b"no picture")
    (data / "4.png").write_bytes((data / "4.png").read_bytes()[:-60])  # its head can be read
    run = arguments(folder("sd"), data, tmp_path / "out", "--shard-size", "2")
    with pytest.raises(SystemExit):
        latents.main(run)
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: picture") and "2.png' cannot be read" in error and "--leave-out" in error
    latents.main([*run, "--leave-out"])
    cache = Cache(tmp_path / "out")
    assert sorted(texts[0] for texts in cache.captions(np.arange(len(cache)))) == [f"picture {i}" for i in (0, 1, 3, 5)]
    assert [len(rows) for rows in (split(cache, None)[0], split(cache, None)[1][1])] == [3, 1], "one at least"


def test_a_shard_that_changed_is_found(folder, tmp_path, capsys, captioned):
    run = arguments(folder("sd"), captioned(4), tmp_path / "out", "--shard-size", "2", "--check")
    latents.main(run)
    latents.main(run)
    file = tmp_path / "out" / "00001.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(SystemExit):
        latents.main(run)
    assert "00001.safetensors' is not as it was written" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        latents.main([*run, "--aspect", "1"])
    assert "was made otherwise, with aspect 2.0" in capsys.readouterr().err


@pytest.fixture
def one_thread():
    """As many as the processes beside it have: sums of floats are in another order with another number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_killed_it_goes_on_and_several_processes_make_the_same(folder, tmp_path, captioned, one_thread):
    """Two processes, killed, have lost at most the shards that they were at; one finishes what they began."""
    data, out = captioned(60, sizes=((160, 160), (240, 120))), tmp_path / "killed"
    run = ["--shard-size", "2", "--aspect", "1.5"]
    command = [sys.executable, "-m", "training.latents", *arguments(folder("sd"), data, out, *run)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # As `accelerate launch` and torchrun tell their processes.
    told = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    told |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    each = [os.environ | told | {"RANK": str(i), "LOCAL_RANK": str(i)} for i in range(2)]
    processes = [subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.DEVNULL) for env in each]
    try:
        while all(process.poll() is None for process in processes):
            if {int(path.stem) % 2 for path in out.glob("0*.safetensors")} == {0, 1}:
                break
            time.sleep(0.002)
    finally:
        for process in processes:
            process.send_signal(signal.SIGKILL)
            process.wait()
    finished = {path: path.stat().st_mtime_ns for path in out.glob("0*.safetensors")}
    assert {int(path.stem) % 2 for path in finished} == {0, 1} and len(finished) < 30, "it was killed before the end"
    latents.main(arguments(folder("sd"), data, out, *run))
    assert {path: path.stat().st_mtime_ns for path in finished} == finished, "what was finished is not made again"
    latents.main(arguments(folder("sd"), data, tmp_path / "whole", *run))
    assert contents(out) == contents(tmp_path / "whole")
