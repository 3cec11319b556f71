"""The judge on trial: scenes whose truth is known, as they are and spoilt."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..captions import CATEGORIES, caption
from ..scenes import make_scene
from .spoil import degrade, wrong_spec
from .verdict import judge


def _vae_round_trip(folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """A function that encodes (posterior mean) and decodes one uint8 picture with a diffusers ``AutoencoderKL``."""
    import torch  # both are heavy and only this branch needs them
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(folder).eval()

    @torch.no_grad()
    def round_trip(image: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].to(vae.dtype) / 127.5 - 1
        decoded = vae.decode(vae.encode(pixels).latent_dist.mode()).sample[0]
        return ((decoded.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()

    return round_trip


def self_test(n: int, vae: Path | None = None) -> dict:
    """Judges `n` renders of each category and split, as they are, degraded, and after the VAE where one is given.

    Returns ``{condition: {split: {category: {"accuracy": a, "false_accept": f, "background": b}}}}``: the share judged
    right, the share judged right for a caption with one thing changed, the share whose named background is right.
    """
    conditions: dict[str, Callable] = {"clean": lambda image, rng: image, "degraded": degrade}
    if vae is not None:
        round_trip = _vae_round_trip(vae)
        conditions["vae"] = lambda image, rng: round_trip(image)
    report: dict = {name: {"train": {}, "test": {}} for name in conditions}
    for split in ("train", "test"):
        for category in CATEGORIES:
            tally = {name: Counter() for name in conditions}
            for index in range(n):
                scene = make_scene(7_000_000 + index, split, category)
                rng = np.random.default_rng(index)
                wrong = caption(wrong_spec(scene.spec, rng))
                for name, change in conditions.items():
                    image = change(scene.image, rng)
                    verdict = judge(image, scene.caption)
                    tally[name]["right"] += verdict.correct
                    tally[name]["accepted"] += judge(image, wrong).correct
                    tally[name]["named"] += "background" in verdict.attributes
                    tally[name]["background"] += verdict.attributes.get("background", False)
            for name, t in tally.items():
                report[name][split][category] = {"accuracy": t["right"] / n, "false_accept": t["accepted"] / n}
                report[name][split][category]["background"] = t["background"] / t["named"] if t["named"] else None
    return report
