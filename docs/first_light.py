"""Makes docs/first_light.png: the first ten captions of the measurement, which nothing was trained on, by a static
scale and by the default, from the same noise; a frame says whether a judge by classical vision finds a picture right.

python docs/first_light.py --captions > captions.txt
online-guidance batch captions.txt --methods static:3 halving --seeds 0 --steps 20 --out study
python docs/first_light.py study
"""

import sys
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
from PIL import Image

from benchmarks.quality import held_out_prompts
from demos.manifest import pictures
from tinyworld.judge import judge

METHODS = {"static:3": "static scale", "halving": "the default"}
FRAMES = {True: "#2e7d32", False: "#c62828"}


def main(study: Path) -> None:
    captions = held_out_prompts(10)
    made = {(image.prompt, image.method): Image.open(study / image.file) for image in pictures(study).values()}
    figure, axes = plt.subplots(2, len(captions), figsize=(15, 3.9), layout="constrained")
    for row, (method, label) in zip(axes, METHODS.items(), strict=True):
        row[0].set_ylabel(label, fontsize=12)
        for axis, text in zip(row, captions, strict=True):
            picture = made[text, method].convert("RGB")
            axis.imshow(picture, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            for side in axis.spines.values():
                side.set(color=FRAMES[bool(judge(picture, text).correct)], linewidth=4)
    for axis, text in zip(axes[1], captions, strict=True):
        axis.set_xlabel("\n".join(textwrap.wrap(text, 20)), fontsize=8)
    figure.savefig(Path(__file__).with_name("first_light.png"), dpi=75)


if __name__ == "__main__":
    if sys.argv[1] == "--captions":
        print(*held_out_prompts(10), sep="\n")
    else:
        main(Path(sys.argv[1]))
