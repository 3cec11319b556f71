"""Makes docs/first_light.png: the first twenty captions of the measurement, which nothing was trained on, by a static
scale and by the default, from the same noise; a frame says whether a judge by classical vision finds a picture right.

python docs/first_light.py --captions > captions.txt
online-guidance batch captions.txt --methods static:3 halving --seeds 0 --steps 20 --out study
python docs/first_light.py study
"""

import sys
import textwrap
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from benchmarks.quality import held_out_prompts
from demos.manifest import pictures
from tinyworld.judge import judge

METHODS = {"static:3": "static", "halving": "default"}
FRAMES = {True: "#2e7d32", False: "#c62828"}
COUNT, ACROSS = 20, 10


def main(study: Path) -> None:
    captions = held_out_prompts(COUNT)
    made = {(image.prompt, image.method): Image.open(study / image.file) for image in pictures(study).values()}
    bands = figure_bands(captions)
    for axes, part in bands:
        for row, (method, label) in zip(axes, METHODS.items(), strict=True):
            row[0].set_ylabel(label, fontsize=12)
            for axis, text in zip(row, part, strict=True):
                picture = made[text, method].convert("RGB")
                axis.imshow(picture, interpolation="nearest")
                for side in axis.spines.values():
                    side.set(color=FRAMES[bool(judge(picture, text).correct)], linewidth=4)
        for axis, text in zip(axes[1], part, strict=True):
            axis.set_xlabel("\n".join(textwrap.wrap(text, 22)), fontsize=8)
    plt.savefig(Path(__file__).with_name("first_light.png"), dpi=75)


def figure_bands(captions: list[str]) -> list[tuple[Any, list[str]]]:
    """For every ten captions two rows of axes."""
    parts = [captions[first : first + ACROSS] for first in range(0, len(captions), ACROSS)]
    figure = plt.figure(figsize=(15, 4.1 * len(parts)), layout="constrained")
    empty = {"xticks": [], "yticks": []}
    bands = np.atleast_1d(figure.subfigures(len(parts), 1))
    return [(band.subplots(2, ACROSS, subplot_kw=empty), part) for band, part in zip(bands, parts, strict=True)]


if __name__ == "__main__":
    if sys.argv[1] == "--captions":
        print(*held_out_prompts(COUNT), sep="\n")
    else:
        main(Path(sys.argv[1]))
