"""What the judge must tell apart: a caption with one thing changed from a picture that is only the worse for wear."""

import io
from dataclasses import replace

import numpy as np
from PIL import Image
from scipy import ndimage

from ..captions import BACKGROUNDS, COLORS, LETTERS, MAX_COUNT, RELATIONS, SHAPES, SceneSpec
from ..scenes import SIZE


def degrade(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a VAE or a sampler might do to a uint8 picture: blur, lost resolution or JPEG, a colour shift, noise."""
    kind = rng.integers(3)
    if kind == 0:
        sigma = rng.uniform(0.6, 0.9)
        image = ndimage.gaussian_filter(image.astype(np.float32), (sigma, sigma, 0))
    elif kind == 1:
        small = Image.fromarray(image).resize((40, 40), Image.Resampling.BICUBIC)
        image = np.asarray(small.resize((SIZE, SIZE), Image.Resampling.BICUBIC), np.float32)
    else:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=40)
        image = np.asarray(Image.open(file), np.float32)
    image = image * rng.uniform(0.94, 1.06, 3) + rng.normal(0, 3, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def wrong_spec(spec: SceneSpec, rng: np.random.Generator) -> SceneSpec:
    """`spec` with one thing changed: a colour, a shape, a count by one, the relation turned round, a letter, the
    background."""

    def other(value: str, options: tuple[str, ...] | str) -> str:
        return str(rng.choice([option for option in options if option != value]))

    fields = ["background"] * (spec.background is not None) + ["relation"] * (spec.relation is not None)
    field = rng.choice(fields + (["text", "sign_color"] if spec.text else ["color", "shape", "count"]))
    if field == "background":
        return replace(spec, background=other(spec.background, BACKGROUNDS))
    if field == "relation":
        return replace(spec, relation=RELATIONS[RELATIONS.index(spec.relation) ^ 1])
    if field == "sign_color":
        return replace(spec, sign_color=other(spec.sign_color, COLORS))
    if field == "text":
        at = int(rng.integers(len(spec.text)))
        return replace(spec, text=spec.text[:at] + other(spec.text[at], LETTERS) + spec.text[at + 1 :])
    at = int(rng.integers(len(spec.groups)))
    group = spec.groups[at]
    if field == "count":
        up = group.count == 1 or (group.count < MAX_COUNT and rng.random() < 0.5)
        group = replace(group, count=group.count + (1 if up else -1))
    else:
        group = replace(group, **{field: other(getattr(group, field), COLORS if field == "color" else SHAPES)})
    return replace(spec, groups=(*spec.groups[:at], group, *spec.groups[at + 1 :]))
