"""The recipe of latent CLIP and the calibration of evaluators, but for the training itself."""

import json

import numpy as np
import pytest
import torch

from tinyworld.recipes.clip import build
from tinyworld.recipes.data import captions_of
from training import calibrate
from training.clip import VIEWS, Contrast, encode_ids, loss_of


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    return build(4, "noisy").eval()


@torch.no_grad()
def test_captions_without_padding_are_encoded_as_with_it(clip):
    texts = [*captions_of("train", 20, 0), "a"]
    ids = clip.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    torch.testing.assert_close(encode_ids(clip, ids), clip.encode_ids(ids))


@torch.no_grad()
def test_every_view_meets_every_caption(clip):
    latents, level = torch.randn(VIEWS * 3, 4, 16, 16), torch.full((VIEWS * 3,), 0.5)
    ids = clip.tokenizer(captions_of("train", 6, 0), padding="max_length", return_tensors="pt").input_ids
    logits = Contrast(clip)(latents, level, ids)
    assert logits.shape == (VIEWS, 3, 6)
    one = clip.logit_scale.exp() * clip.encode_latents(latents[4:5], level[:1]) @ clip.encode_ids(ids).T
    torch.testing.assert_close(logits[1, 1], one[0])


@pytest.mark.parametrize("right, wrong, accuracy", [(9.0, 0.0, 1.0), (9.0, 10.0, 0.0)])
def test_the_loss_wants_the_right_caption_first(right, wrong, accuracy):
    logits = torch.cat([right * torch.eye(3), wrong * torch.eye(3)], 1).expand(VIEWS, 3, 6).clone().requires_grad_()
    model = torch.nn.Linear(1, 1)  # for its device
    model.forward = lambda: logits
    loss, metrics = loss_of(model, ())
    loss.backward()
    assert metrics["hard_accuracy"] == accuracy
    diagonal = torch.eye(3).bool()
    assert (logits.grad[:, :, :3][:, diagonal] < 0).all() and (logits.grad[:, :, :3][:, ~diagonal] > 0).all()
    assert (logits.grad[:, :, 3:] > 0).all()


def test_the_spread_is_the_mean_over_all_prompts(weights, clip, tmp_path, monkeypatch):
    clip.register_to_config(
        calibration={"noise_level": [0.1, 0.5, 0.9], "spread": [1.0] * 3, "reliability": [0.9, 0.8, 0.7]}
    )
    clip.save_pretrained(tmp_path / "clip")
    rows = [(0.1, 1.0), (0.9, 5.0), (0.1, 2.0), (0.9, 7.0), (0.1, 6.0), (0.9, 9.0)]  # three batches at two levels
    monkeypatch.setattr(calibrate, "spreads", lambda *args: {"clip": rows})
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    prompts = ["--prompts", str(tmp_path / "prompts.txt")]
    calibrate.main(["--model", str(weights / "text_to_image"), "--evaluators", f"clip={tmp_path / 'clip'}", *prompts])
    kept = json.loads((tmp_path / "clip" / "config.json").read_text())["calibration"]
    assert np.allclose(kept["spread"], [3.0, 5.0, 7.0]) and kept["reliability"] == [0.9, 0.8, 0.7]


@pytest.mark.parametrize(
    "evaluators, message", [(["clip"], "must be NAME=FOLDER, got clip"), (["clip={clip}"], "clip has no reliability")]
)
def test_calibrate_refuses(weights, tmp_path, capsys, evaluators, message):
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    arguments = [item.format(clip=weights / "clip") for item in evaluators]
    with pytest.raises(SystemExit):
        calibrate.main(
            [
                "--model",
                str(weights / "text_to_image"),
                "--evaluators",
                *arguments,
                "--prompts",
                str(tmp_path / "prompts.txt"),
            ]
        )
    assert message in capsys.readouterr().err
