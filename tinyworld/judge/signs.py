"""Signs: a word is read by laying letter templates over the ink of its plate."""

from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy import ndimage

from ..captions import LETTERS
from ..scenes import _glyph
from .regions import Region


def is_sign(rgb: np.ndarray, region: Region) -> bool:
    """A wide full rectangle with something written on it; the widest other object spans 28 px and is as high."""
    top, bottom, left, right = region.box
    height, width = bottom - top, right - left
    if width < 28 or height < 18 or width < 1.15 * height:
        return False
    # Letters whose colour has run to the rim leave bays in the plate.
    full = ndimage.binary_fill_holes(ndimage.binary_closing(np.pad(region.solid, 4), iterations=3))
    return full.sum() > 0.8 * width * height and (find_ink(rgb, region) > 0.5).mean() > 0.08


def find_ink(rgb: np.ndarray, region: Region) -> np.ndarray:
    """How much ink each pixel inside the plate's rim holds, in [0, 1]. Ink is black or white, whichever is there."""
    top, bottom, left, right = region.box
    inner = rgb[top + 2 : bottom - 2, left + 2 : right - 2]
    best = np.zeros(inner.shape[:2], np.float32)
    for level in (22.0, 245.0):
        toward = level - region.color
        ink = np.clip((inner - region.color) @ toward / (toward @ toward), 0, 1)
        best = ink if (ink > 0.6).sum() > (best > 0.6).sum() else best
    return np.clip((best - 0.15) / 0.7, 0, 1)


@lru_cache(maxsize=256)
def _letter_bank(letter: str, height: int) -> tuple[np.ndarray, int]:
    """Templates ``(n, height * width)`` of a letter with a blank column on both sides, at every vertical place in a
    strip of `height` rows and at two degrees of blur (``n`` = 2 × places); and their width."""
    glyph = _glyph(letter, 22)
    templates = []
    for sigma in (0.0, 0.8):
        for top in range(height - glyph.shape[0] + 1):
            below = height - top - glyph.shape[0]
            templates.append(ndimage.gaussian_filter(np.pad(glyph, ((top, below), (1, 1))), sigma).ravel())
    return np.array(templates), glyph.shape[1] + 2


def read_word(ink: np.ndarray) -> tuple[str, float]:
    """The word whose letters, drawn side by side, leave the least squared error over the whole strip ``(h, w)``.

    Also returns the correlation of the worst letter with what it was laid on.
    """
    height, width = ink.shape
    if height < _glyph("H", 22).shape[0]:
        return "", 0.0
    errors = {}
    for letter in LETTERS:
        bank, w = _letter_bank(letter, height)
        windows = sliding_window_view(ink, (height, w))[0].reshape(-1, height * w)
        errors[letter] = (windows**2).sum(1)[:, None] - 2 * windows @ bank.T + (bank**2).sum(1), w
    # best[x]: the least error of explaining the columns before x, for each vertical place and blur at once, by one
    # blank column (None) or one letter after what was best before it; came[x]: which.
    best, came = np.zeros((width + 1, len(bank))), [[]]
    for x in range(1, width + 1):
        options = {None: best[x - 1] + (ink[:, x - 1] ** 2).sum()}
        options |= {letter: best[x - w] + error[x - w] for letter, (error, w) in errors.items() if x >= w}
        stacked, names = np.array(list(options.values())), list(options)
        best[x] = stacked.min(0)
        came.append([names[i] for i in stacked.argmin(0)])
    variant, x = int(np.argmin(best[width])), width
    word, worst = "", 1.0
    while x > 0:
        letter = came[x][variant]
        if letter is None:
            x -= 1
            continue
        bank, w = _letter_bank(letter, height)
        x -= w
        worst = min(worst, float(np.corrcoef(ink[:, x : x + w].ravel(), bank[variant])[0, 1]))
        word = letter + word
    return word, worst if word else 0.0
