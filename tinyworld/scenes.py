"""Draws tinyworld scenes: 64×64 RGB pictures whose every object is known.

Shapes are signed distance functions, so edges, shading and soft shadows are smooth at any size. Everything is a
function of a NumPy generator: the same seed gives the same pixels.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .captions import SceneSpec, caption, sample_spec

SIZE = 64
PALETTE = {
    "red": (222, 40, 40),
    "orange": (247, 140, 28),
    "yellow": (242, 222, 50),
    "green": (40, 165, 70),
    "cyan": (50, 205, 220),
    "blue": (45, 85, 228),
    "purple": (140, 58, 192),
    "pink": (248, 130, 192),
}
# White letters would vanish on these plates.
_LIGHT_PLATES = ("orange", "yellow", "cyan", "pink")


@dataclass(frozen=True)
class SceneObject:
    """One drawn object: centre ``(x, y)`` and ``radius`` in pixels, y downwards."""

    color: str
    shape: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Scene:
    """``image`` is uint8 ``(64, 64, 3)``; ``objects`` and ``spec`` are its exact truth."""

    image: np.ndarray
    caption: str
    spec: SceneSpec
    objects: tuple[SceneObject, ...]


# ------------------------------------------------------------------- signed distances, in units of the radius


def _circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.hypot(x, y) - 0.95


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(abs(x), abs(y)) - 0.83


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    y = y - 0.2
    return np.maximum(y, 0.866 * abs(x) - 0.5 * y) - 0.6


def _diamond(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (1.25 * abs(x) + abs(y) - 1.05) / 1.6


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = abs(x), abs(y)
    return np.minimum(np.maximum(x - 0.97, y - 0.33), np.maximum(x - 0.33, y - 0.97))


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    inner, outer = 0.44, 1.1
    fifth = np.pi / 5
    angle = np.abs((np.arctan2(x, -y) + fifth) % (2 * fifth) - fifth)
    radius = np.hypot(x, y)
    px, py = radius * np.cos(angle), radius * np.sin(angle)
    ex, ey = inner * np.cos(fifth) - outer, inner * np.sin(fifth)
    return ((px - outer) * ey - py * ex) / np.hypot(ex, ey)


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return abs(np.hypot(x, y) - 0.73) - 0.25


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x = abs(x)
    lobe = np.hypot(x - 0.45, y + 0.36) - 0.53
    tip = np.maximum(0.74 * x + 0.67 * y - 0.62, -0.36 - y)
    return np.minimum(lobe, tip)


SDF: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "diamond": _diamond,
    "cross": _cross,
    "star": _star,
    "ring": _ring,
    "heart": _heart,
}

_Y, _X = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)


# ------------------------------------------------------------------------------------------------ background


def _smooth_noise(rng: np.random.Generator, cells: int) -> np.ndarray:
    """Bilinear value noise in [-1, 1], ``(64, 64)``."""
    grid = rng.uniform(-1, 1, (cells + 1, cells + 1)).astype(np.float32)
    at = np.linspace(0, cells, SIZE, endpoint=False, dtype=np.float32)
    i, f = at.astype(int), at % 1
    rows = grid[i] * (1 - f)[:, None] + grid[i + 1] * f[:, None]
    return rows[:, i] * (1 - f) + rows[:, i + 1] * f


def _background(rng: np.random.Generator, style: str) -> np.ndarray:
    """Low-chroma ground ``(64, 64, 3)`` in 0–255 with a gradient and a fine texture."""
    level = {"light": rng.uniform(195, 225), "dark": rng.uniform(45, 70)}.get(style, rng.uniform(105, 150))
    angle = rng.uniform(0, 2 * np.pi)
    along = (np.cos(angle) * (_X - 32) + np.sin(angle) * (_Y - 32)) / 32
    ground = level + rng.uniform(4, 12) * along + 4 * _smooth_noise(rng, 8) + 2.5 * _smooth_noise(rng, 32)
    if style == "striped":
        tilt = rng.uniform(-0.3, 0.3)
        stripes = _Y + tilt * _X if rng.random() < 0.5 else _X + tilt * _Y
        ground += 20 * np.clip(3 * np.sin(2 * np.pi * stripes / rng.uniform(11, 15) + angle), -1, 1)
    elif style == "checkered":
        pitch = np.pi / rng.uniform(9, 12)
        phase = rng.uniform(0, 6, 2)
        ground += 20 * np.clip(5 * np.sin(pitch * _X + phase[0]) * np.sin(pitch * _Y + phase[1]), -1, 1)
    tint = 1 + rng.uniform(-0.03, 0.03) * np.array([1, 0, -1], np.float32)
    return ground[..., None] * tint


# ---------------------------------------------------------------------------------------------------- objects


def _paint(canvas: np.ndarray, alpha: np.ndarray, color: np.ndarray, box: tuple[slice, slice]) -> None:
    canvas[box] += alpha[..., None] * (color - canvas[box])


def _draw_solid(
    canvas: np.ndarray,
    rng: np.random.Generator,
    sdf: Callable,
    color: str,
    x: float,
    y: float,
    radius: float,
    tilt: float = 0.12,
) -> None:
    """Soft shadow, then a shaded and lightly textured body, in a window around the object."""
    reach = int(np.ceil(1.2 * radius)) + 5
    box = (
        slice(max(0, int(y) - reach), min(SIZE, int(y) + reach + 1)),
        slice(max(0, int(x) - reach), min(SIZE, int(x) + reach + 1)),
    )
    turn = rng.uniform(-tilt, tilt)
    dx, dy = (_X[box] - x) / radius, (_Y[box] - y) / radius
    c, s = np.cos(turn), np.sin(turn)
    u, v = c * dx + s * dy, c * dy - s * dx
    shadow = sdf(u - 2.0 / radius, v - 2.5 / radius) * radius
    _paint(canvas, 0.4 * np.clip(0.6 - shadow / 4, 0, 1), canvas[box] * 0.45, box)
    distance = sdf(u, v) * radius
    rgb = np.array(PALETTE[color], np.float32) * (1 + rng.uniform(-0.05, 0.05, 3))
    shade = 1.0 - 0.12 * (dx + dy) / 1.4 + 0.03 * np.sin(rng.uniform(0.8, 1.4) * (_X[box] - _Y[box]))
    rim = 1 - 0.15 * np.clip(1 + distance / 1.5, 0, 1)
    _paint(canvas, np.clip(0.5 - distance, 0, 1), rgb * (shade * rim)[..., None], box)


@lru_cache(maxsize=64)
def _glyph(letter: str, size: int) -> np.ndarray:
    """Coverage of one letter in [0, 1], cropped to its ink."""
    font = ImageFont.load_default(size)
    _, _, right, bottom = map(int, font.getbbox(letter))
    image = Image.new("L", (right + 2, bottom + 2))
    ImageDraw.Draw(image).text((0, 0), letter, font=font, fill=255)
    ink = np.clip(np.asarray(image, np.float32) / 170, 0, 1)  # a little bolder: thin strokes drown in 64 pixels
    rows, columns = np.where(ink.max(1) > 0.2)[0], np.where(ink.max(0) > 0.2)[0]
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


LETTERS_ALONE, LETTERS_AMONG = 22, 11  # font sizes: of a sign alone in its picture, and of one among other objects


def _lettering(word: str, size: int) -> tuple[list[np.ndarray], int, int, int]:
    """The glyphs of a word, the gap between them, and the width and height of all together, in pixels."""
    glyphs, gap = [_glyph(letter, size) for letter in word], round(3 * size / LETTERS_ALONE)
    width = sum(g.shape[1] for g in glyphs) + gap * (len(glyphs) - 1)
    return glyphs, gap, width, max(g.shape[0] for g in glyphs)


def letter_boxes(word: str, sign: SceneObject, size: int = LETTERS_ALONE) -> np.ndarray:
    """Where the letters of `word` are on its `sign`: top, bottom, left and right of each in pixels, int ``(n, 4)``."""
    glyphs, gap, width, height = _lettering(word, size)
    left, top = round(sign.x - width / 2), round(sign.y - height / 2)
    rights = np.cumsum([g.shape[1] + gap for g in glyphs]) - gap + left
    return np.array([(top, top + g.shape[0], r - g.shape[1], r) for g, r in zip(glyphs, rights, strict=True)])


def _draw_sign(
    canvas: np.ndarray, rng: np.random.Generator, color: str, word: str, size: int = LETTERS_ALONE
) -> SceneObject:
    glyphs, _, width, height = _lettering(word, size)
    pad = 1.5 + 3 * size / LETTERS_ALONE  # from the letters to the edge of the plate
    half_w, half_h = width / 2 + pad, height / 2 + pad
    x, y = rng.uniform(half_w + 2, SIZE - half_w - 2), rng.uniform(half_h + 3, SIZE - half_h - 3)
    x, y = (SIZE / 2 if half_w + 2 > SIZE - half_w - 2 else x), float(y)

    def plate(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        qx, qy = abs(u) * half_w - half_w + 2, abs(v) * half_w - half_h + 2
        return (np.hypot(np.maximum(qx, 0), np.maximum(qy, 0)) + np.minimum(np.maximum(qx, qy), 0) - 2) / half_w

    _draw_solid(canvas, rng, plate, color, x, y, half_w, tilt=0.0)
    ink = np.full(3, 22.0 if color in _LIGHT_PLATES else 245.0, np.float32)
    sign = SceneObject(color, "sign", x, y, half_w)
    for glyph, (top, bottom, left, right) in zip(glyphs, letter_boxes(word, sign, size), strict=True):
        _paint(canvas, glyph, ink, (slice(top, bottom), slice(left, right)))
    return sign


def _place(rng: np.random.Generator, spec: SceneSpec) -> list[tuple[float, float, float]] | None:
    """One attempt at centres and radii with at least 3 px between objects; ``None`` when they do not fit."""
    total = sum(group.count for group in spec.groups)
    low, high = {1: (10, 14), 2: (9, 12), 3: (8, 10.5), 4: (7.5, 9)}.get(total, (7.2, 8.4))
    placed: list[tuple[float, float, float]] = []
    for index, group in enumerate(spec.groups):
        for _ in range(group.count):
            radius = rng.uniform(low, high)
            edge = 1.1 * radius + 2
            bounds = {"x": [edge, SIZE - edge], "y": [edge, SIZE - edge]}
            if spec.relation:
                axis = "x" if spec.relation in ("left of", "right of") else "y"
                first_is_low = spec.relation in ("left of", "above")
                if (index == 0) == first_is_low:
                    bounds[axis][1] = min(bounds[axis][1], SIZE / 2 - 4)
                else:
                    bounds[axis][0] = max(bounds[axis][0], SIZE / 2 + 4)
            for _ in range(30):
                x, y = rng.uniform(*bounds["x"]), rng.uniform(*bounds["y"])
                if all(np.hypot(x - a, y - b) > 1.08 * (radius + r) + 3 for a, b, r in placed):
                    placed.append((x, y, radius))
                    break
            else:
                return None
    return placed


def render(spec: SceneSpec, rng: np.random.Generator) -> tuple[np.ndarray, tuple[SceneObject, ...]]:
    """Draws `spec`; returns the uint8 image ``(64, 64, 3)`` and the objects in it."""
    styles = ("light", "dark", "striped", "checkered")
    canvas = _background(rng, spec.background or str(rng.choice(styles)))
    if spec.text is not None:
        objects = [_draw_sign(canvas, rng, spec.sign_color, spec.text)]
    else:
        while (places := _place(rng, spec)) is None:
            pass
        kinds = [group for group in spec.groups for _ in range(group.count)]
        objects = [SceneObject(g.color, g.shape, *p) for g, p in zip(kinds, places, strict=True)]
        for o in objects:
            _draw_solid(canvas, rng, SDF[o.shape], o.color, o.x, o.y, o.radius)
    canvas += rng.normal(0, 2, canvas.shape)
    return np.clip(canvas, 0, 255).astype(np.uint8), tuple(objects)


def make_scene(seed: int, split: str = "train", category: str | None = None) -> Scene:
    """The scene of this `seed`: same seed, same pixels and caption. `split` and `category` as in `sample_spec`."""
    rng = np.random.default_rng(seed)
    spec = sample_spec(rng, split, category)
    text = caption(spec, rng)
    image, objects = render(spec, rng)
    return Scene(image, text, spec, objects)


def stream(seed: int, split: str = "train") -> Iterator[Scene]:
    """Endless scenes: number `i` is ``make_scene`` of a seed that depends on `(seed, i)` alone."""
    for index in range(2**31):
        yield make_scene(int(np.random.SeedSequence((seed, index)).generate_state(1)[0]), split)
