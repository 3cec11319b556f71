"""Judges by name alone, from a cache of the hub in its real layout, and what is said where it holds nothing."""

import os

import huggingface_hub
import pytest
import torch
from hub_cache import hub, offline, offline_hub
from tiny import vae

from evaluators import EVALUATORS, load_evaluators
from evaluators.base import Context, score
from evaluators.latent.base import LatentEvaluator
from evaluators.pixel.checkpoint import asked_once
from evaluators.pixel.preview import TINY, make_preview

__all__ = ["hub", "offline", "offline_hub"]
WITH_A_DEFAULT = [
    n for n, cls in EVALUATORS.items() if not issubclass(cls, LatentEvaluator) and n not in ("vqa", "ocr")
]


def test_the_cache_is_one_of_the_hubs_client(hub):
    """Which finds every link of every snapshot, and the revision that ``main`` is."""
    found = huggingface_hub.scan_cache_dir(hub)
    assert not found.warnings and len(found.repos) == len(list(hub.glob("models--*")))
    for repository in found.repos:
        assert [*repository.refs] == ["main"] and repository.refs["main"].files
        for file in repository.refs["main"].files:
            assert file.file_path.is_symlink() and not os.path.isabs(os.readlink(file.file_path))
            path = huggingface_hub.try_to_load_from_cache(repository.repo_id, within(file.file_path), cache_dir=hub)
            assert path == str(file.file_path)


def within(path):
    """A file of a snapshot as its repository has it."""
    return "/".join(path.parts[path.parts.index("snapshots") + 2 :])


@pytest.mark.parametrize("name", WITH_A_DEFAULT)
def test_every_name_has_a_default(offline_hub, name):
    (judge,) = load_evaluators([name])
    generator = torch.Generator().manual_seed(0)
    shape = (2, 3, 3, 40, 40) if judge.space == "pixels" else (2, 3, 4, 8, 8)
    candidates = torch.rand(shape, generator=generator)
    scores = score(judge, candidates, Context(["two red circles", "3 blue stars"], 500.0, 0.5))
    assert judge.name == name and scores.isfinite().all()
    assert name == "detector" or len(scores.unique()) == 6


@pytest.mark.parametrize("family", TINY, ids=TINY.get)
def test_every_family_has_a_tiny_decoder(offline_hub, family):
    channels, scaling, shift = family
    preview = make_preview(vae(channels, scaling_factor=scaling, shift_factor=shift), "tiny")
    assert preview(torch.randn(2, channels, 4, 4)).shape == (2, 3, 32, 32)


@pytest.mark.parametrize("name", [*WITH_A_DEFAULT, "vqa=some/thing"])
def test_a_hub_id_that_is_not_there_names_the_folder_form(offline, name):
    with pytest.raises(OSError, match=f"there is no network: download it first or give `{name.split('=')[0]}=FOLDER`"):
        load_evaluators([name])


def test_without_a_decoder_a_linear_preview_is_fitted_once(offline, caplog):
    autoencoder = vae()
    preview = make_preview(autoencoder)
    assert make_preview(autoencoder) is preview and preview(torch.randn(1, 4, 4, 4)).shape == (1, 3, 4, 4)
    told = "The preview decoder 'madebyollin/taesd' is not in the cache and there is no network. A linear preview"
    assert [told in record.message for record in caplog.records] == [True]
    with pytest.raises(OSError, match="'madebyollin/taesd' is not in the cache"):
        make_preview(autoencoder, "tiny")


def test_a_hub_that_cannot_be_reached_is_asked_once(tmp_path, monkeypatch):
    """Its client would wait for 23 seconds for every file; whoever says that there is no network says it at once."""
    asked = []

    class Session:
        def head(self, url, timeout):
            asked.append(url)
            raise ConnectionError("no such host")

    monkeypatch.setattr("huggingface_hub.get_session", Session)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name in ("open_clip", "aesthetic_v2", "pickscore", "lrm", "detector"):
        with pytest.raises(OSError, match="there is no network"):
            load_evaluators([name])
        assert asked.pop() == huggingface_hub.constants.ENDPOINT and not asked
    assert not huggingface_hub.constants.HF_HUB_OFFLINE
    with pytest.raises(ZeroDivisionError), asked_once():
        assert huggingface_hub.constants.HF_HUB_OFFLINE
        1 / 0  # noqa: B018
    assert not huggingface_hub.constants.HF_HUB_OFFLINE
