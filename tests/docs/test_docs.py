"""Every Python block of README.md and docs/ runs: those of one file in turn, in one namespace, with tiny models in the
place of the checkpoints that they name. What pages say of files and rooms holds."""

import re
from pathlib import Path

import pytest
import small_judges
from diffusers import AutoencoderTiny
from PIL import Image
from small_lvlm import lvlm_weights
from test_structure import ARROWS
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor
from transformers.modeling_outputs import CausalLMOutputWithPast

from tinyworld.recipes import clip as train_clip
from tinyworld.scenes import make_scene

__all__ = ["lvlm_weights"]
ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
WITH_PYTHON = [page for page in PAGES if PYTHON.search(page.read_text(encoding="utf-8"))]
CHECKPOINTS = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "sd",
    "stabilityai/stable-diffusion-xl-base-1.0": "sdxl",
    "stabilityai/stable-diffusion-3-medium-diffusers": "sd3",
    "black-forest-labs/FLUX.1-dev": "flux",
}
OLD_NAME = {"cache=first.cache": "past_key_values=first.past_key_values"}  # before transformers 5.24
OLDER = {} if hasattr(CausalLMOutputWithPast, "cache") else OLD_NAME
ON_A_CPU = {'"cuda"': '"cpu"', "torch.float16": "torch.float32", "torch.bfloat16": "torch.float32"}


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(scope="session")
def judges(tmp_path_factory):
    """The checkpoints of judges of pictures."""
    root = tmp_path_factory.mktemp("judges")
    tower = small_judges.save_open_clip(root / "open_clip")
    v1, v2 = "sa_0_4_vit_b_32_linear.pth", "sac+logos+ava1-l14-linearMSE.pth"
    return {
        "ViT-B-32/openai": tower,
        "ViT-L-14/openai": tower,
        f'{v1}"': f'{small_judges.save_head(tower / v1, small_judges.WIDTH, v2=False)}"',
        f'{v2}"': f'{small_judges.save_head(tower / v2, small_judges.WIDTH, v2=True)}"',
        "hf-hub:timm/ViT-B-16-SigLIP": small_judges.save_siglip(root / "siglip"),
        "yuvalkirstain/PickScore_v1": small_judges.save_pickscore(root / "pickscore"),
        "xswu/HPSv2": small_judges.save_hps(root / "hps/HPS_v2.1_compressed.pt").parent,
        "THUDM/ImageReward": small_judges.save_image_reward(root / "image_reward"),
        "casiatao/LRM/lrm_sd15": small_judges.save_lrm(root / "lrm"),
    }


@pytest.fixture
def parts(tmp_path, lvlm_weights, judges):
    """The other checkpoints that pages name: id to folder."""
    decoder, pixel_clip = tmp_path / "taesdxl", tmp_path / "clip"
    blocks = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    numbers = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
    AutoencoderTiny(**blocks, **numbers, latent_channels=4).save_pretrained(decoder)
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    vision |= {"image_size": 16, "patch_size": 4}
    clip = train_clip.build(in_channels=4)  # its tokenizer and the shape of its text tower
    config = CLIPConfig(text_config=clip.config.text_config, vision_config=vision, projection_dim=16)
    CLIPModel(config).save_pretrained(pixel_clip)
    image_processor = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    CLIPProcessor(image_processor, clip.tokenizer).save_pretrained(pixel_clip)
    with small_judges.named("ViT-H-14"):
        yield judges | {
            "madebyollin/taesdxl": decoder,
            "openai/clip-vit-base-patch32": pixel_clip,
            "llava-hf/llava-1.5-7b-hf": lvlm_weights / "lvlm",
        }


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name)
def test_python_blocks_run(page, folder, parts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(make_scene(0).image).save("street.jpg")
    namespace: dict = {}
    for block in PYTHON.finditer(page.read_text(encoding="utf-8")):
        code = block[1]
        for checkpoint, host in CHECKPOINTS.items():
            code = code.replace(checkpoint, str(folder(host))) if checkpoint in code else code
        for stated, replacement in parts.items() | ON_A_CPU.items() | OLDER.items():
            code = code.replace(stated, str(replacement))
        line = page.read_text(encoding="utf-8")[: block.start(1)].count("\n")
        exec(compile("\n" * line + code, str(page), "exec"), namespace)  # the page's own line numbers in tracebacks


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", ["docs/structure.md", "CONTRIBUTING.md"])
def test_files_that_the_map_names_are_there(page):
    named = re.findall(r"`([\w./]+/(?:\w+\.py)?)`", (ROOT / page).read_text(encoding="utf-8"))
    assert len(named) > 5
    assert not [file for file in named if not (ROOT / file).exists() and not list(ROOT.glob(f"*/{file}"))]


def test_the_map_shows_the_arrows():
    text = (ROOT / "docs/structure.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w/]+)` \|.*\|.*\|(.*)\|$", text, re.MULTILINE)
    shown = {room.replace("/", "."): set(re.findall(r"`([\w.]+)`", cell.replace("/", "."))) for room, cell in rows}
    rooms = [room for room in ARROWS if not room.startswith("evaluators.")]
    assert shown == {room: {other for other in ARROWS[room] if other in rooms and other != room} for room in rooms}
