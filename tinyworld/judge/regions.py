"""The saturated regions of a picture whose ground is nearly grey.

Edges are measured as soft coverage, which is why blur (a VAE's, a JPEG's) costs little.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from ..captions import COLORS
from ..scenes import PALETTE, SIZE

MIN_CHROMA = 35.0  # of 255; the ground stays below 20, the palest object (pink) is at 83
MIN_AREA = 25.0  # px; the smallest object drawn, a star of radius 7.2, covers 73


@dataclass(frozen=True)
class Region:
    """`coverage` (64, 64) in [0, 1]: how much of each pixel the object takes; `color` its mean RGB; `box` its extent
    ``(top, bottom, left, right)``; `solid` (64, 64) bool is the region with its holes filled."""

    coverage: np.ndarray
    color: np.ndarray
    box: tuple[int, int, int, int]
    solid: np.ndarray


def to_array(image: Image.Image | np.ndarray) -> np.ndarray:
    """Float32 ``(64, 64, 3)`` in 0–255."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"`image` must be uint8 (height, width, 3), got {image.dtype} {image.shape}.")
        image = Image.fromarray(image)
    image = image.convert("RGB")
    if image.size != (SIZE, SIZE):
        image = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return np.asarray(image, np.float32)


def _opponent(rgb: np.ndarray) -> np.ndarray:
    """RGB less its own mean: zero for every grey, so stripes and shadows vanish, and linear under blending."""
    return rgb - rgb.mean(-1, keepdims=True)


def balance(rgb: np.ndarray) -> np.ndarray:
    """Divides out the tint of the grey ground."""
    ground = rgb[np.linalg.norm(_opponent(rgb), axis=-1) < MIN_CHROMA]
    if len(ground) < 0.05 * SIZE * SIZE:
        return rgb
    tint = np.median(ground / (ground.mean(-1, keepdims=True) + 1), axis=0)
    return rgb / np.clip(tint, 0.8, 1.2)


def _sharpen(blend: np.ndarray, grey: np.ndarray) -> np.ndarray:
    """Gives a blurred `blend` ``(64, 64)`` the edges of `grey` wherever the two go together (a guided filter).

    JPEG, and many a VAE, keep brightness sharper than colour.
    """

    def mean(values: np.ndarray) -> np.ndarray:
        return ndimage.uniform_filter(values, 5)

    mean_grey, mean_blend = mean(grey), mean(blend)
    variance, spread = mean(grey**2) - mean_grey**2, mean(blend**2) - mean_blend**2
    together = mean(grey * blend) - mean_grey * mean_blend
    slope = together / (variance + 20)
    guided = mean(slope) * grey + mean(mean_blend - slope * mean_grey)
    trust = mean(together**2 / (variance * spread + 0.1))
    return np.clip(blend + np.clip(trust, 0, 1) ** 0.25 * (guided - blend), 0, 1)


def find_regions(rgb: np.ndarray) -> list[Region]:
    """The saturated regions of a balanced image ``(64, 64, 3)``, a hole belonging to what surrounds it."""
    opponent = _opponent(rgb)
    chroma = np.linalg.norm(opponent, axis=-1)
    # Half the chroma nearby: where two objects blur into each other the gap is still paler than that.
    mask = chroma > np.maximum(MIN_CHROMA, 0.5 * ndimage.maximum_filter(chroma, 9))
    labels, n = ndimage.label(ndimage.binary_fill_holes(mask))
    sizes = np.bincount(labels[mask], minlength=n + 1)
    labels[(sizes < 12)[labels]] = 0
    if not labels.any():
        return []
    # Every pixel belongs to the nearest region, so soft edges are not shared.
    distance, nearest = ndimage.distance_transform_edt(labels == 0, return_indices=True)
    owner = np.where(distance <= 3, labels[tuple(nearest)], 0)
    grey = rgb @ np.array([0.299, 0.587, 0.114], np.float32)  # the brightness that JPEG keeps sharp
    regions = []
    for index in np.unique(labels[labels > 0]):
        solid = labels == index
        inside = solid & mask
        core = inside & (chroma >= np.quantile(chroma[inside], 0.5))
        vector = np.median(opponent[core], axis=0)
        blend = opponent @ vector / (vector @ vector)
        blend = _sharpen(_sharpen(np.clip(blend, 0, 1), grey), grey)
        # Steeper than the blend itself: shading moves the inside by a sixth, and that is not an edge.
        coverage = np.where(owner == index, np.clip((blend - 0.2) / 0.6, 0, 1), 0)
        if coverage.sum() < MIN_AREA:
            continue
        # Rows and columns well inside the region: a blurred fringe would enlarge the box of a plate.
        rows, columns = (np.where(n > 0.4 * n.max())[0] for n in (solid.sum(1), solid.sum(0)))
        box = (int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1)
        regions.append(Region(coverage, np.median(rgb[core], axis=0), box, solid))
    return regions


def color_name(rgb: np.ndarray) -> str:
    """The palette entry of the nearest direction in RGB space, which shading does not turn."""
    palette = np.array([PALETTE[name] for name in COLORS], np.float32)
    return COLORS[int(np.argmax(palette @ rgb / np.linalg.norm(palette, axis=1)))]
