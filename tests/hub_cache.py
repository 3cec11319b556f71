"""A cache of the hub with all that the package downloads, under the published ids and small.

The layout is the hub client's own: ``models--owner--name`` with ``blobs`` named by the hash that the hub gives a file,
``refs/main`` and ``snapshots/<commit>`` of relative links. The files in it have the published names and formats, and
random weights.

What is small is told by the published ids' own configurations. open_clip alone takes the architecture of ``ViT-B-32``,
``ViT-L-14`` and ``ViT-H-14`` from a registry of its own, so that a full checkpoint is 300 MB and more: `hub` puts small
architectures of the same widths of embedding there; the table of tags, file names and loading stay the genuine ones.

What could not be looked at, for these repositories were not at hand: whether the copies of the aesthetic heads on the
hub hold ``model.safetensors`` or ``pytorch_model.bin``, of which both are looked for.
"""

import functools
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import open_clip
import pytest
import small_judges
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file, save_file
from small_judges import CLIP
from tiny import text_config, tokenizer
from transformers import CLIPConfig, CLIPImageProcessor, Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessor

ARCHITECTURES = {  # of open_clip's registry
    "ViT-B-32": CLIP | {"embed_dim": 512},
    "ViT-L-14": CLIP | {"embed_dim": 768},
    "ViT-H-14": CLIP,
}
TAESD = {"madebyollin/taesd": 4, "madebyollin/taesdxl": 4, "madebyollin/taesd3": 16, "madebyollin/taef1": 16}
LARGE = (".safetensors", ".bin", ".pt", ".pth")  # which the hub keeps by their sha256, others as git does


def publish(cache: Path, repository: str, folder: Path) -> None:
    """Puts the files of `folder` into `cache` as the hub's client would, and deletes it."""
    place = cache / f"models--{repository.replace('/', '--')}"
    commit = hashlib.sha1(repository.encode()).hexdigest()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = file.read_bytes()
        git = hashlib.sha1(f"blob {len(data)}\0".encode() + data)
        blob = place / "blobs" / (hashlib.sha256(data) if file.suffix in LARGE else git).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        link = place / "snapshots" / commit / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path(*[".."] * (len(link.relative_to(place).parts) - 1), "blobs", blob.name))
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    shutil.rmtree(folder)


def save_named_open_clip(folder: Path, name: str) -> Path:
    """Weights of open_clip's architecture `name`, as its registry has it now."""
    folder.mkdir(parents=True)
    state = open_clip.create_model(name, force_quick_gelu=True).state_dict()
    save_file(state, folder / "open_clip_model.safetensors")
    return folder


def save_aesthetic(folder: Path) -> Path:
    """A CLIP of transformers with the linear layer in it, as `Aesthetic.DEFAULT_ID` is."""
    small_judges.save_pickscore(folder, processor=False)
    head = torch.load(small_judges.save_head(folder / "head.pth", 512, v2=False))
    (folder / "head.pth").unlink()
    state = load_file(folder / "model.safetensors")
    tower = {k: v for k, v in state.items() if k.startswith(("vision_model.", "visual_projection."))}
    save_file(tower | {f"predictor.{k}": v for k, v in head.items()}, folder / "model.safetensors")
    return folder


def save_processor(folder: Path, image_processor: object) -> Path:
    """As older versions of transformers did: one file for pictures, and CLIP's tokenizer."""
    image_processor.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def save_owl(folder: Path) -> Path:
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 32, "patch_size": 8}
    config = Owlv2Config(text_config=text_config(), vision_config=vision, projection_dim=16)
    Owlv2ForObjectDetection(config).save_pretrained(folder)
    return save_processor(folder, Owlv2ImageProcessor(size={"height": 32, "width": 32}))


def save_tiny_decoder(folder: Path, latent_channels: int) -> Path:
    """Of the published depth: a latent is 8 by 8 pixels."""
    widths = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
    numbers = {"num_encoder_blocks": (1, 1, 1, 1), "num_decoder_blocks": (1, 1, 1, 1)}
    AutoencoderTiny(**widths, **numbers, latent_channels=latent_channels).save_pretrained(folder)
    return folder


def write(cache: Path) -> None:
    """Everything but pipelines and vision-language models, which have no default."""
    new = functools.partial(publish, cache)
    at = cache / "new"
    with patch.dict(open_clip.factory._MODEL_CONFIGS, ARCHITECTURES):
        new("timm/vit_base_patch32_clip_224.openai", save_named_open_clip(at, "ViT-B-32"))
        new("timm/vit_large_patch14_clip_224.openai", save_named_open_clip(at, "ViT-L-14"))
    for file in ("HPS_v2_compressed.pt", "HPS_v2.1_compressed.pt"):
        small_judges.save_hps(at / file)
    new("xswu/HPSv2", at)
    new("shunk031/aesthetics-predictor-v1-vit-base-patch32", save_aesthetic(at))
    small_judges.save_head(at / "aesthetic-model.pth", 768, v2=True)
    new("trl-lib/ddpo-aesthetic-predictor", at)
    new("yuvalkirstain/PickScore_v1", small_judges.save_pickscore(at, processor=False))
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPConfig().save_pretrained(at)
    new("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", save_processor(at, CLIPImageProcessor(**sizes)))
    small_judges.save_image_reward(at)
    vocabulary = (at / "vocab.txt").read_text()
    (at / "vocab.txt").unlink()
    new("THUDM/ImageReward", at)
    at.mkdir()
    (at / "vocab.txt").write_text(vocabulary)
    new("google-bert/bert-base-uncased", at)
    for kind in ("sd15", "sdxl"):
        shutil.rmtree(small_judges.save_lrm(at / f"lrm_{kind}", xl=kind == "sdxl") / "tokenizer")
    new("casiatao/LRM", at)
    tokenizer().save_pretrained(at)
    new("openai/clip-vit-large-patch14", at)
    new("google/owlv2-base-patch16-ensemble", save_owl(at))
    for repository, channels in TAESD.items():
        new(repository, save_tiny_decoder(at, channels))


@functools.cache
def _built() -> tempfile.TemporaryDirectory:
    temporary = tempfile.TemporaryDirectory()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        write(Path(temporary.name))
    return temporary


@pytest.fixture(scope="session")
def hub() -> Path:
    """The cache; not to be written to."""
    return Path(_built().name)


@pytest.fixture
def offline(monkeypatch, tmp_path) -> Path:
    """No network, and an empty cache, in force for this process; its place."""
    cache = tmp_path / "empty cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    return cache


@pytest.fixture
def offline_hub(hub, offline, monkeypatch) -> Iterator[Path]:
    """No network, and the cache `hub` in force for this process, with its small architectures of open_clip."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    tokenizers = patch("open_clip.factory.SimpleTokenizer", functools.cache(open_clip.factory.SimpleTokenizer))
    with patch.dict(open_clip.factory._MODEL_CONFIGS, ARCHITECTURES), tokenizers:
        yield hub
