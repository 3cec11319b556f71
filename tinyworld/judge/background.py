"""The background: light, dark, or which waves it is made of."""

from functools import lru_cache

import numpy as np
from scipy import ndimage

from ..scenes import SIZE
from .regions import Region


@lru_cache(maxsize=1)
def _waves() -> tuple[np.ndarray, np.ndarray]:
    """Unit waves over the image ``(n, 4096)`` complex: stripes of every tilt and pitch, and the diagonal waves whose
    sums are checkers; and for each whether it is a checker's."""
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    stripes = [
        (a, b)
        for period in np.linspace(11, 15, 6)
        for tilt in np.linspace(-0.3, 0.3, 9)
        for a, b in ((1 / period, tilt / period), (tilt / period, 1 / period))
    ]
    checkers = [(1 / (2 * p), side / (2 * p)) for p in np.linspace(9, 12, 9) for side in (1, -1)]
    waves = np.array([np.exp(2j * np.pi * (a * x + b * y)).ravel() for a, b in stripes + checkers], np.complex64)
    return waves, np.arange(len(waves)) >= len(stripes)


def find_background(rgb: np.ndarray, regions: list[Region]) -> str:
    """One of `BACKGROUNDS`, from the brightness of what no object covers and from its strongest wave."""
    objects = np.any([region.solid for region in regions], axis=0) if regions else np.zeros((SIZE, SIZE), bool)
    ground = ~ndimage.binary_dilation(objects, iterations=4)
    if ground.sum() < 100:
        ground = ~objects
    grey = rgb.mean(-1)
    level = float(np.median(grey[ground]))
    if level > 172:
        return "light"
    if level < 87:
        return "dark"
    waves, checkered = _waves()
    energy = np.abs(waves @ np.where(ground, grey - grey[ground].mean(), 0).ravel().astype(np.float32))
    # A checkerboard splits its energy over two diagonals.
    return "checkered" if np.sqrt(2) * energy[checkered].max() > energy[~checkered].max() else "striped"
