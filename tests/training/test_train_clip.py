"""The recipe of latent CLIP, but for the training itself."""

import json
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import load_file
from small_judges import CLIP, SIGLIP, save_open_clip

from evaluators import Context, LatentCLIP, LatentReward, LatentValue, OpenCLIPTower, load_evaluator, load_evaluators
from evaluators.latent.vit import LatentViT, shape_of
from tinyworld.recipes.clip import build
from tinyworld.recipes.data import captions_of
from training import clip as train_clip
from training import latents
from training.clip import VIEWS, Contrast, alike, encode_ids, loss_of
from training.noise import LEVELS


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    return build(4).eval()


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    return save_open_clip(tmp_path_factory.mktemp("teacher") / "clip")


@pytest.fixture(scope="module")
def cache(folder, captioned, teacher, tmp_path_factory) -> Path:
    """Latents of an SDXL, with the teacher's embeddings."""
    out = tmp_path_factory.mktemp("latents")
    run = ["--model", str(folder("sdxl")), "--data", str(captioned(60)), "--out", str(out), "--teacher", str(teacher)]
    latents.main([*run, "--resolution", "16"])
    return out


@torch.no_grad()
def test_captions_without_padding_are_encoded_as_with_it(clip):
    texts = [*captions_of("train", 20, 0), "a"]
    ids = clip.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    torch.testing.assert_close(encode_ids(clip, ids), clip.encode_ids(ids))


@torch.no_grad()
def test_every_view_meets_every_caption(clip):
    latents, level = torch.randn(VIEWS * 3, 4, 16, 16), torch.full((VIEWS * 3,), 0.5)
    ids = clip.tokenizer(captions_of("train", 6, 0), padding="max_length", return_tensors="pt").input_ids
    image, logits = Contrast(clip)(latents, level, ids)
    assert logits.shape == (VIEWS, 3, 6) and image.shape == (VIEWS * 3, clip.config.dim)
    one = clip.logit_scale.exp() * clip.encode_latents(latents[4:5], level[:1]) @ clip.encode_ids(ids).T
    torch.testing.assert_close(logits[1, 1], one[0])
    torch.testing.assert_close(Contrast(clip)(latents, level, clip.encode_ids(ids))[1], logits)


@pytest.mark.parametrize("right, wrong, accuracy", [(9.0, 0.0, 1.0), (9.0, 10.0, 0.0)])
def test_the_loss_wants_the_right_caption_first(right, wrong, accuracy):
    """Two of three rows have a wrong caption of their own; the caption of the first row is also the last one's."""
    logits = torch.cat([right * torch.eye(3), wrong * torch.eye(3)[:, [0, 2]]], 1).expand(VIEWS, 3, 5).clone()
    image = torch.nn.functional.normalize(torch.randn(VIEWS * 3, 4), dim=-1).requires_grad_()
    logits.requires_grad_()
    model = torch.nn.Linear(1, 1)  # for its device
    model.forward = lambda *batch: (image, logits)
    same = alike(["a", "b", "a"], ["c", "d"])
    assert same.nonzero().tolist() == [[0, 2], [2, 0]]
    teacher = torch.eye(4)[:3].half()
    loss, metrics = loss_of(model, (same, same, same, torch.tensor([0, 2]), same, teacher))
    loss.backward()
    assert metrics["hard_accuracy"] == accuracy
    diagonal = torch.eye(3).bool()
    others = ~diagonal & ~same[:, :3]
    assert (logits.grad[:, :, :3][:, diagonal] < 0).all() and (logits.grad[:, :, :3][:, others] > 0).all()
    assert (logits.grad[:, same] == 0).all() and (logits.grad[:, :, 3:] > 0).all()
    torch.testing.assert_close(metrics["from_teacher"], 1 - image[[0, 3, 1, 4, 2, 5], [0, 0, 1, 1, 2, 2]].mean())
    assert (image.grad[[0, 1, 2], [0, 1, 2]] < 0).all()


@torch.no_grad()
@pytest.mark.parametrize("vision", [{}, {"pool_type": "avg"}, {"width": 48, "layers": 1, "head_width": 16}])
def test_a_vit_begins_as_its_teacher(vision, tmp_path):
    """On pictures, in patches of its teacher's size, it says the same; on latents all but the first layer is the
    teacher's."""
    torch.manual_seed(0)
    save_open_clip(tmp_path, CLIP | {"vision_cfg": CLIP["vision_cfg"] | vision, "quick_gelu": not vision})
    visual = OpenCLIPTower.from_pretrained(tmp_path).model.visual
    pixels = torch.randn(2, 3, 32, 32)
    vit = LatentViT(3, 24, patch=8, **shape_of(visual)).begin_as(visual)
    torch.testing.assert_close(vit(pixels, torch.tensor([0.1, 0.9])), visual(pixels))
    latent = LatentViT(16, 24, patch=2, **shape_of(visual)).begin_as(visual)
    assert torch.equal(latent.blocks[0].qkv.weight, visual.transformer.resblocks[0].attn.in_proj_weight)
    for height, width in ((8, 8), (12, 6)):  # any size; the noise has a say as soon as it has learned to
        noisy = torch.randn(2, 16, height, width)
        assert latent(noisy, torch.tensor([0.1, 0.9])).shape == (2, 24)
    one = noisy[:1].expand(2, -1, -1, -1)
    torch.nn.init.normal_(latent.noise.weight)
    first, second = latent(one, torch.tensor([0.1, 0.9]))
    assert not torch.allclose(first, second)


def test_towers_that_are_no_plain_transformer_lend_no_weights():
    assert shape_of(open_clip.model._build_vision_tower(64, SIGLIP["vision_cfg"])) is None
    assert shape_of(open_clip.create_model("RN50").visual) is None


@pytest.mark.parametrize("trunk", ["conv", "vit"])
def test_a_clip_learns_from_its_teacher_and_loads(trunk, cache, teacher, tmp_path):
    run = ["--cache", str(cache), "--trunk", trunk, "--steps", "3", "--batch-size", "8"]
    train_clip.main([*run, "--out", str(tmp_path)])
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["pictures"] + report["test_pictures"] == 60 and report["steps"] == 3
    names = set(load_file(tmp_path / "clip" / "diffusion_pytorch_model.safetensors"))
    assert all(name.startswith(("trunk.", "logit_scale")) for name in names), "the teacher is not saved with it"
    panel = load_evaluators({"clip": tmp_path / "clip", "open_clip": teacher})
    clip = panel[0]
    assert clip.calibration.noise_level == LEVELS and clip.config["teacher"] == str(teacher)
    assert isinstance(clip.trunk, LatentViT) == (trunk == "vit")
    context = Context(["a red circle", "a blue star"], 500, 0.5)
    with torch.no_grad():
        scores = clip(torch.randn(2, 3, 4, 8, 8), context)
        text = panel[1].tower.encode_text(["a red circle"])
    assert scores.shape == (2, 3) and torch.isfinite(scores).all()
    assert clip.tower is panel[1].tower, "one tower for both"
    torch.testing.assert_close(clip.encode_text(["a red circle"]), text)


@torch.no_grad()
@pytest.mark.parametrize("vit", [None, {"patch": 2, "width": 32, "layers": 3, "heads": 2, "grid": 4, "mlp": 32}])
def test_heads_begin_as_a_clip_with_a_teacher(vit, teacher, tmp_path):
    """A reward and a value say what the CLIP says, and are loaded in a panel that has one teacher."""
    torch.manual_seed(0)
    clip = LatentCLIP(None, 4, (8, 16), dim=24, teacher=str(teacher), vit=vit).eval()
    clip.trunk.head[-1].bias.normal_()
    reward = LatentReward(clip.trunk.head[0].in_features, 24, linear=len(clip.trunk.head) == 1).begin_as(clip).eval()
    value = LatentValue.from_clip(clip).eval()
    for evaluator in (clip, reward, value):
        evaluator.save_pretrained(tmp_path / evaluator.name)
    panel = load_evaluators({name: tmp_path / name for name in ("reward", "value", "clip")})
    context, candidates = Context(["a red circle", "a blue star"], 500, 0.5), torch.randn(2, 3, 4, 8, 8)
    wanted = clip(candidates, context)
    for evaluator in (reward, value, *panel):
        torch.testing.assert_close(evaluator(candidates, context), wanted, atol=1e-4, rtol=1e-4)
    assert panel[0].clip is panel[2] and panel[1].tower is panel[2].tower


def test_a_teacher_that_is_missing_is_named_when_it_is_asked(tmp_path):
    LatentCLIP(None, 4, (8, 16), (1, 1), 24, teacher="inside").save_pretrained(tmp_path / "clip")
    clip = load_evaluator("clip", tmp_path / "clip")
    with pytest.raises(ValueError, match="'clip' cannot be loaded from 'inside': that is no MODEL/TAG"):
        clip.encode_text(["a"])
    save_open_clip(tmp_path / "clip" / "inside")  # a folder within its own
    assert load_evaluator("clip", tmp_path / "clip").encode_text(["a"]).shape == (1, 24)


def test_a_clip_is_trained_by_the_teacher_of_its_latents(cache, tmp_path, capsys):
    for more, message in ((["--teacher", "ViT-B-32/openai"], "the latents have embeddings of"), ([], "is needed")):
        what = json.loads((cache / "what.json").read_text())
        (tmp_path / "cache").mkdir(exist_ok=True)
        for file in cache.glob("*.safetensors"):
            (tmp_path / "cache" / file.name).write_bytes(file.read_bytes())
        what["teacher"] = what["teacher"] if more else None
        (tmp_path / "cache" / "what.json").write_text(json.dumps(what))
        with pytest.raises(SystemExit):
            train_clip.main(["--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out"), *more])
        assert message in capsys.readouterr().err
