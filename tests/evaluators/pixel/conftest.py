"""Small judges, saved once in their published formats, and pictures for them."""

import functools
from unittest.mock import patch

import open_clip
import pytest
import small_judges
import torch


@pytest.fixture(scope="session", autouse=True)
def one_vocabulary():
    """CLIP's, which open_clip reads anew for each tokenizer."""
    with patch("open_clip.factory.SimpleTokenizer", functools.cache(open_clip.factory.SimpleTokenizer)):
        yield


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """Folder of each judge; not to be written to."""
    root = tmp_path_factory.mktemp("judges")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = {
            "open_clip": small_judges.save_open_clip(root / "open_clip"),
            "siglip": small_judges.save_siglip(root / "siglip"),
            "pickscore": small_judges.save_pickscore(root / "pickscore"),
            "hpsv2": small_judges.save_hps(root / "hpsv2/HPS_v2_compressed.pt").parent,
            "hpsv2.1": small_judges.save_hps(root / "hpsv2.1/HPS_v2.1_compressed.pt").parent,
            "aesthetic": small_judges.save_open_clip(root / "aesthetic"),
            "image_reward": small_judges.save_image_reward(root / "image_reward"),
        }
        for name in ("aesthetic", "aesthetic_v2"):
            file = made["aesthetic"] / small_judges.JUDGES[name].FILES[0]
            small_judges.save_head(file, small_judges.WIDTH, v2=name == "aesthetic_v2")
    return made | {"aesthetic_v2": made["aesthetic"]}


@pytest.fixture(scope="session")
def load(published):
    """``load(name)``: the judge from its folder, a new one at each call."""

    def make(name):
        with small_judges.named("ViT-H-14"):
            return small_judges.JUDGES[name].from_pretrained(published[name])

    return make


@pytest.fixture
def pictures():
    """``pictures(n, height, width)`` in [0, 1], of 8 bits."""

    def make(n, height, width):
        generator = torch.Generator().manual_seed(n + height)
        coarse = torch.rand(n, 3, 6, 5, generator=generator)
        fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
        return (fine * 255).round() / 255

    return make
