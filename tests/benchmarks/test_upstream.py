"""`benchmarks.upstream`: calls of diffusers' own tests are compared, and a difference is found."""

import json

import diffusers
import pytest
import torch

from benchmarks import upstream
from benchmarks.upstream_plugin import Comparison, compared, equal, fresh
from pipelines import DynamicGuidanceMixin

ARGUMENTS = {
    "prompt": ["two red circles"],
    "height": 16,
    "width": 16,
    "num_inference_steps": 2,
    "output_type": "latent",
}
CHECKOUT = """
import torch
from conftest import HOST
from diffusers import AutoencoderKL, DDPMPipeline, StableDiffusionPipeline

def call(**kwargs):
    pipe = StableDiffusionPipeline.from_pretrained(HOST)
    settings = dict(height=16, width=16, num_inference_steps=2, generator=torch.Generator().manual_seed(0))
    return pipe("a fox", **settings | kwargs).images[0]

def test_guided():
    call(guidance_scale=3.0)
    call(guidance_scale=1.0, output_type="np")

def test_expects_another_picture():
    assert call().getpixel((0, 0)) == None
"""


def stand_in(spoil=None):
    """A class made as the plugin makes them, but for `spoil`, which stands around our call."""
    ours = type("StableDiffusionPipeline", (DynamicGuidanceMixin, diffusers.StableDiffusionPipeline), {})
    if spoil is not None:
        guided = ours.__call__
        ours.__call__ = lambda self, **kwargs: spoil(guided(self, **kwargs))
    ours.__call__ = compared(ours, [])
    return ours


def compare(stock, spoil=None, **kwargs):
    cls = stand_in(spoil)
    pipe = cls(**stock("sd").components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return Comparison(cls, pipe, ARGUMENTS | {"generator": torch.Generator().manual_seed(0)} | kwargs).compare()


def test_what_is_said_of_a_call(stock):
    said = {"state": "identical", "replaced": True}
    assert compare(stock) == said | {"scales": [7.5]}
    assert compare(stock, guidance_scale=1.0) == said | {"scales": [4.0], "switched_on": True}
    assert compare(stock, height=17)["state"] == "both raise"


def off_by_one_bit(output):
    output.images.view(torch.int32)[0, 0, 0, 0] ^= 1
    return output


def fail(output):
    raise RuntimeError("broken")


@pytest.mark.parametrize("spoil, state", [(off_by_one_bit, "different"), (fail, "failed")])
def test_a_difference_is_found(stock, spoil, state):
    assert compare(stock, spoil)["state"] == state


def test_what_is_equal():
    a = torch.tensor([float("nan"), 1.0])
    assert equal([a, (a.half(),)], [a.clone(), (a.half(),)]) and not equal(a, a + 1) and not equal(a, a.half())
    assert not equal(torch.zeros(1), -torch.zeros(1)) and equal(None, None) and not equal([a], [a, a])
    given = {"prompt": ["a", ["b"]], "image": a}
    anew = fresh(given)
    anew["prompt"][1].append("c")
    assert given["prompt"] == ["a", ["b"]] and anew["image"] is a


@pytest.mark.slow
def test_a_checkout(folder, tmp_path, capsys):
    """Twice with one file of records: what ran is not run again, and tests that fail have been called all the same."""
    tests = tmp_path / "checkout" / "tests" / "pipelines" / "some"
    tests.mkdir(parents=True)
    (tmp_path / "checkout" / "setup.py").write_text('version="1.2.3"')
    (tests / "__init__.py").touch()
    (tests / "conftest.py").write_text(f"HOST = {str(folder('sd'))!r}")
    (tests / "test_some.py").write_text(CHECKOUT.replace("from conftest", "from .conftest"))
    records = tmp_path / "records.jsonl"
    for _ in range(2):
        upstream.main([str(tmp_path / "checkout"), "--keep", str(records), "--json"])
        report = json.loads(capsys.readouterr().out)
        assert report["counts"]["identical"] == report["of_our_classes"] == report["replaced"] == 3
        assert sum(report["counts"].values()) == 3 and report["tests"] == "1.2.3"
        assert report["pipelines"] == {"StableDiffusionPipeline": {"identical": 3}}
        assert report["files"] == {"tests/pipelines/some/test_some.py": 2}
    assert len(records.read_text().splitlines()) == 5
    with pytest.raises(SystemExit):
        upstream.main([str(tmp_path / "checkout"), "--only", "other"])
    assert "there is no other" in capsys.readouterr().err
