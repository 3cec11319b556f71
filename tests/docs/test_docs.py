"""Every Python block of README.md and docs/*.md runs: those of one file in turn, in one namespace, with tiny models in
the place of the checkpoints that they name."""

import re
from pathlib import Path

import pytest
from diffusers import AutoencoderTiny
from PIL import Image
from small_lvlm import lvlm_weights
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

from tinyworld.recipes import clip as train_clip
from tinyworld.scenes import make_scene

__all__ = ["lvlm_weights"]
ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
CHECKPOINTS = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "sd",
    "stabilityai/stable-diffusion-xl-base-1.0": "sdxl",
    "stabilityai/stable-diffusion-3-medium-diffusers": "sd3",
    "black-forest-labs/FLUX.1-dev": "flux",
}
ON_A_CPU = {'"cuda"': '"cpu"', "torch.float16": "torch.float32", "torch.bfloat16": "torch.float32"}


@pytest.fixture
def parts(tmp_path, lvlm_weights):
    """The other checkpoints that pages name: id to folder."""
    decoder, pixel_clip = tmp_path / "taesdxl", tmp_path / "clip"
    blocks = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    numbers = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
    AutoencoderTiny(**blocks, **numbers, latent_channels=4).save_pretrained(decoder)
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    vision |= {"image_size": 16, "patch_size": 4}
    clip = train_clip.build(in_channels=4, space="noisy")  # its tokenizer and the shape of its text tower
    config = CLIPConfig(text_config=clip.config.text_config, vision_config=vision, projection_dim=16)
    CLIPModel(config).save_pretrained(pixel_clip)
    image_processor = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    CLIPProcessor(image_processor, clip.tokenizer).save_pretrained(pixel_clip)
    return {
        "madebyollin/taesdxl": decoder,
        "openai/clip-vit-base-patch32": pixel_clip,
        "llava-hf/llava-1.5-7b-hf": lvlm_weights / "lvlm",
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page, folder, parts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(make_scene(0).image).save("street.jpg")
    namespace: dict = {}
    for block in re.finditer(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        code = block[1]
        for name, host in CHECKPOINTS.items():
            code = code.replace(name, str(folder(host))) if name in code else code
        for name, replacement in parts.items() | ON_A_CPU.items():
            code = code.replace(name, str(replacement))
        line = page.read_text(encoding="utf-8")[: block.start(1)].count("\n")
        exec(compile("\n" * line + code, str(page), "exec"), namespace)  # the page's own line numbers in tracebacks


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
