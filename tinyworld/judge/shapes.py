"""Shapes: each region is compared with masks drawn from `scenes.SDF`."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from scipy import ndimage

from ..captions import SHAPES
from ..scenes import SDF, SIZE
from .regions import Region, color_name

MIN_MATCH = 0.8  # correlation with the best template below which a region has no shape at all
_GRID = 24  # side of the square on which shapes are compared


@dataclass(frozen=True)
class FoundObject:
    """One region: centre and `radius` in pixels of the 64×64 image, `confidence` in [0, 1].

    `shape` is one of `SHAPES`, ``"sign"``, or ``"unknown"`` where nothing matches; a sign's radius is half its width.
    """

    color: str
    shape: str
    x: float
    y: float
    radius: float
    confidence: float


def _normalise(coverage: np.ndarray) -> tuple[np.ndarray, float, float, float]:
    """Resamples a mask about its centroid at the scale of its area, which makes place and size irrelevant.

    Returns a zero-mean unit vector of `_GRID`² values, the centroid ``(x, y)`` and the root of the area.
    """
    area = coverage.sum()
    y, x = (
        float((np.arange(n) * coverage.sum(axis)).sum() / area) for n, axis in zip(coverage.shape, (1, 0), strict=True)
    )
    scale = float(np.sqrt(area))
    steps = np.linspace(-1, 1, _GRID) * scale
    at = np.stack(np.broadcast_arrays(y + steps[:, None], x + steps[None, :]))
    patch = ndimage.map_coordinates(coverage, at, order=1).ravel()
    patch = patch - patch.mean()
    return patch / np.linalg.norm(patch), x, y, scale


@lru_cache(maxsize=1)
def _shape_bank() -> tuple[np.ndarray, list[tuple[str, float, float, float]]]:
    """Normalised masks ``(n, _GRID²)`` of every shape, tilt and softness; for each: its name, and in units of the
    radius the root of its area and its centroid."""
    masks, notes = [], []
    v, u = np.mgrid[0:SIZE, 0:SIZE] - (SIZE - 1) / 2
    for name in SHAPES:
        for radius in (7.5, 9.5, 13.0):
            for tilt in np.linspace(-0.12, 0.12, 5):
                c, s = np.cos(tilt), np.sin(tilt)
                distance = SDF[name]((c * u + s * v) / radius, (c * v - s * u) / radius) * radius
                sharp = np.clip(0.5 - distance, 0, 1)
                hole = ndimage.binary_fill_holes(sharp > 0.5) & (sharp < 0.5)
                # Blurred colour runs into the hole of a ring, hence its half-filled versions.
                for sigma, fill in product((0.5, 1.0, 1.6, 2.2), (0.0, 0.3, 0.6) if hole.any() else (0.0,)):
                    filled = np.maximum(sharp, fill * hole)
                    soft = np.clip((ndimage.gaussian_filter(filled, sigma) - 0.2) / 0.6, 0, 1)
                    mask, x, y, scale = _normalise(soft)
                    masks.append(mask)
                    middle = (SIZE - 1) / 2
                    notes.append((name, scale / radius, (x - middle) / radius, (y - middle) / radius))
    return np.array(masks, np.float32), notes


def match_shape(region: Region) -> FoundObject:
    """The object that a region is, by the mask most like it."""
    bank, notes = _shape_bank()
    mask, x, y, scale = _normalise(region.coverage)
    likeness = bank @ mask
    best = int(np.argmax(likeness))
    name, root_area, dx, dy = notes[best]
    radius = scale / root_area
    confidence = float(max(likeness[best], 0))
    shape = name if confidence >= MIN_MATCH else "unknown"
    x, y = x - dx * radius, y - dy * radius
    return FoundObject(color_name(region.color), shape, float(x), float(y), float(radius), confidence)
