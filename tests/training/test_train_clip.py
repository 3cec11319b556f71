"""The recipe of latent CLIP, but for the training itself."""

import pytest
import torch

from tinyworld.recipes.clip import build
from tinyworld.recipes.data import captions_of
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
