"""What docs/judges.md says that judges cost, counted on the meta device, with the shapes of the published models."""

import re
from pathlib import Path

import open_clip
import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from benchmarks.overhead import CONFIGS
from evaluators import LRM, AestheticV2, ImageReward, OpenCLIPScore
from evaluators.pixel.aesthetic import Aesthetic
from evaluators.pixel.image_reward import build
from evaluators.pixel.open_clip import OpenCLIPTower

PAGE = Path(__file__).parents[3] / "docs/judges.md"
pytestmark = pytest.mark.slow


def stated(name):
    """Rows of the table that begin with `name`: parameters in millions, GFLOPs of a picture and of a prompt."""
    for row in PAGE.read_text().splitlines():
        if re.match(rf"\| `{re.escape(name)}`", row):
            cells = [cell.strip().replace(",", "") for cell in row.strip("|").split("|")][2:5]
            yield tuple(float(re.match(r"[\d.]+", cell)[0]) if cell else None for cell in cells)


def gflops(function):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        function()
    return counter.get_total_flops() / 1e9


def holds(said, *counted):
    for a, b in zip(said, counted, strict=True):
        assert b is None or a == pytest.approx(b, rel=0.008), (said, counted)


def millions(module):
    return sum(p.numel() for p in module.parameters()) / 1e6


def tower(name):
    with torch.device("meta"):
        model = open_clip.create_model(name, device="meta")
        return OpenCLIPTower(model, lambda texts: torch.zeros(len(texts), 77, dtype=torch.long))


def clip_costs(made):
    picture = gflops(lambda: made.embed(torch.empty(1, 3, *made.size, device="meta")))
    return picture, gflops(lambda: made.model.encode_text(torch.zeros(1, 77, dtype=torch.long, device="meta")))


@pytest.mark.parametrize("name, model", [("open_clip", "ViT-B-32"), ("pickscore", "ViT-H-14"), ("hpsv2", "ViT-H-14")])
def test_clips(name, model):
    made = tower(model)
    (said,) = stated(name)
    holds(said, millions(OpenCLIPScore(made)), *clip_costs(made))


@pytest.mark.parametrize("cls, model, width", [(Aesthetic, "ViT-B-32", 512), (AestheticV2, "ViT-L-14", 768)])
def test_heads(cls, model, width):
    judge = cls(tower(model), cls.make_head(width).to("meta"))
    (said,) = stated(cls.name)
    holds(said[:2], millions(judge), clip_costs(judge.tower)[0])


def test_image_reward():
    shapes = {"cls_token": (1, 1, 1024), "pos_embed": (1, 197, 1024), "patch_embed.proj.weight": (1024, 3, 16, 16)}
    seen = {f"blip.visual_encoder.{key}": torch.empty(shape, device="meta") for key, shape in shapes.items()}
    for i in range(24):
        seen[f"blip.visual_encoder.blocks.{i}.mlp.fc1.weight"] = torch.empty(4096, 1024, device="meta")
    text = {"vocab_size": 30524, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
    text |= {"num_attention_heads": 12, "hidden_act": "gelu", "max_position_embeddings": 512, "layer_norm_eps": 1e-12}
    made = []
    with torch.device("meta"), pytest.MonkeyPatch.context() as patch:
        patch.setattr("evaluators.pixel.image_reward.fill", lambda module, state: made.append(module))
        judge = ImageReward(*build(seen, text | {"pad_token_id": 0}), tokenizer=None)
    (said,) = stated("image_reward")
    assert len(made) == 3
    picture, ids = torch.empty(1, 3, 224, 224, device="meta"), torch.zeros(1, 35, dtype=torch.long, device="meta")
    look = lambda: judge.text(ids, encoder_hidden_states=judge.vision(picture).last_hidden_state)  # noqa: E731
    holds(said[:2], millions(judge), gflops(look))


@pytest.mark.parametrize("place, kind, features, size", [(0, "sd15", 4800, 64), (1, "sdxl", 3520, 128)])
def test_lrm(place, kind, features, size):
    large = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    giant = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(CONFIGS[kind])
        first, second = CLIPTextModel(CLIPTextConfig(**large)), None
        dim = 768
        if kind == "sdxl":
            dim = 1280
            second = CLIPTextModelWithProjection(CLIPTextConfig(**giant, projection_dim=1280))
        state = {
            name: {"weight": torch.empty(dim, n)}
            for name, n in (("visual_projection", features), ("text_projection", dim))
        }
        whole = denoiser(unet, kind, size)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("evaluators.latent.lrm.fill", lambda module, state: None)
            patch.setattr(torch.Tensor, "tolist", lambda self: [0.5] * 20)
            judge = LRM(unet, first, second, None, state | {"logit_scale": 1.0})
    said = [*stated("lrm")][place]
    told = torch.zeros(1, 77, dtype=torch.long, device="meta")
    reading = gflops(lambda: [encoder(told) for encoder in (first, second) if encoder is not None])
    states = torch.empty(2, 77, 768 if kind == "sd15" else 2048, device="meta")
    pooled = torch.empty(2, dim, device="meta")
    latents = torch.empty(2, 4, size, size, device="meta")
    looking = gflops(lambda: judge.features(latents, 1, states, pooled))
    holds(said, millions(judge), looking, reading)
    assert f"{whole:,.0f}" in PAGE.read_text()
    share = re.search(r"costs (0\.\d+) \(XL: (0\.\d+)\)", LRM.__doc__)
    assert float(share[1 + place]) == pytest.approx(looking / whole, abs=0.006)


def denoiser(unet, kind, size):
    """GFLOPs of a step: with the prompt and without."""
    added = {"text_embeds": torch.empty(2, 1280), "time_ids": torch.empty(2, 6)}
    states = torch.empty(2, 77, 768 if kind == "sd15" else 2048)
    return gflops(lambda: unet(torch.empty(2, 4, size, size), torch.zeros(2), states, added_cond_kwargs=added))
