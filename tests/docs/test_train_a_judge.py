"""Every command of docs/train_a_judge.md runs, at toy size: from 200 captioned pictures and a tiny SDXL to a picture
that is guided by what was trained."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import small_judges
import tiny
import torch
from PIL import Image

from commands.main import main
from commands.pairs import Pair, write_pairs

PAGE = Path(__file__).parents[2] / "docs" / "train_a_judge.md"
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.DOTALL | re.MULTILINE)
PROMPTS = [
    f"{number} {color} {animal}"
    for number in ("two", "three")
    for color in ("red", "blue", "green")
    for animal in ("cats", "dogs", "foxes")
]
FEWER = {"--images 8": "--images 4", "--sampling-steps 20": "--sampling-steps 3", "--minutes 60": "--steps 4"}
MORE = {  # what makes a command small, where the page says nothing of it
    "train latents": "--resolution 16 --aspect 1",
    "train clip": "--batch-size 16",
    "train value": "--keep 2 --batch-size 4",
    "train discriminator": "--steps 4 --batch-size 8",
    "train reward": "--steps 4 --batch-size 8 --resolution 16",
    "train specialist": "--steps 4 --batch-size 8",
    "calibrate": "--steps 3",
    "generate": "--steps 3 --out pictures_made",
}


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A folder with all that the page takes for granted, and the names in it: text to what stands in its place."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    tiny.build_sdxl().save_pretrained("sdxl")
    rng = np.random.default_rng(0)
    for folder, number in (("pictures", 200), ("study", 12)):
        Path(folder).mkdir()
        for i in range(number):
            Image.fromarray(rng.integers(0, 255, (20, 20, 3), np.uint8)).save(f"{folder}/{i:03}.png")
            if folder == "pictures":
                Path(f"pictures/{i:03}.txt").write_text(PROMPTS[i % len(PROMPTS)])
    pairs = [Pair(PROMPTS[i % 6], f"{i % 12:03}.png", f"{(i + 5) % 12:03}.png") for i in range(24)]
    write_pairs(Path("study/pairs.jsonl"), pairs)
    Path("prompts.txt").write_text("\n".join(PROMPTS))
    return {
        "stabilityai/stable-diffusion-xl-base-1.0": "sdxl",
        "ViT-B-32/laion2b_s34b_b79k": str(small_judges.save_open_clip(tmp_path / "teacher")),
        "image_reward": f"image_reward={small_judges.save_image_reward(tmp_path / 'reward_model')}",
        "pickscore": f"pickscore={small_judges.save_pickscore(tmp_path / 'judge')}",
    }


def test_every_command_runs(world):
    commands = [line for block in BLOCK.findall(PAGE.read_text()) for line in block.replace("\\\n", " ").splitlines()]
    assert len(commands) == 12
    for command in commands:
        for stated, replacement in (FEWER | world).items():
            command = command.replace(stated, replacement)
        program, *words = shlex.split(command)
        assert program == "online-guidance"
        name = " ".join(words[: 2 if words[0] == "train" else 1])
        main([*words, *MORE.get(name, "").split()])
    assert len(list(Path("pictures_made").glob("*.png"))) == 2, "a picture and its schedule"
