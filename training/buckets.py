"""Sizes that pictures are brought to: all of nearly one area, each as near to the picture's own shape as may be."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

Size = tuple[int, int]  # width, height
SIDES = 16  # a side changes by about this part of the resolution from one bucket to the next, as SDXL was trained


def buckets(resolution: int, multiple: int, aspect: float) -> list[Size]:
    """From the widest to the tallest; the first and the last are mirror images, and so on to the middle.

    Args:
        resolution: side of the square among them.
        multiple: what every side is one of.
        aspect: the longer side over the shorter is no more than this; 1 leaves the square alone.

    Raises:
        ValueError: `resolution` is below `multiple`, or `aspect` below 1.
    """
    if resolution < multiple:
        raise ValueError(f"the resolution must be at least {multiple}, got {resolution}")
    if aspect < 1:
        raise ValueError(f"the longer side over the shorter must be at least 1, got {aspect}")
    side = resolution // multiple * multiple
    step = multiple * max(1, round(side / SIDES / multiple))
    wide = [(side, side)]
    while True:
        width = wide[-1][0] + step
        height = max(multiple, int(side * side / width) // multiple * multiple)
        if width > aspect * height:
            break
        wide.append((width, height))
    return [*reversed(wide), *((height, width) for width, height in wide[1:])]


def nearest(size: Size, among: Sequence[Size]) -> Size:
    """The bucket whose shape is nearest to that of a picture."""
    return min(among, key=lambda bucket: abs(math.log(bucket[0] * size[1] / (bucket[1] * size[0]))))


def fit(image: Image.Image, bucket: Size) -> np.ndarray:
    """The picture made to cover the bucket, and its middle; uint8 ``(height, width, 3)``."""
    ratio = max(bucket[0] / image.width, bucket[1] / image.height)
    covering = tuple(max(want, round(side * ratio)) for side, want in zip(image.size, bucket, strict=True))
    left, top = ((have - want) // 2 for have, want in zip(covering, bucket, strict=True))
    # In one go: what is cropped away is never resized.
    box = (left / ratio, top / ratio, (left + bucket[0]) / ratio, (top + bucket[1]) / ratio)
    box = (box[0], box[1], min(box[2], image.width), min(box[3], image.height))
    if image.size == bucket:
        return np.array(image)
    return np.array(image.resize(bucket, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0))
