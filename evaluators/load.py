"""Evaluators by name: the registry, and panels that share what their members have in common."""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from .base import Calibration, Evaluator, as_evaluator, calibrated
from .latent.base import LatentEvaluator
from .latent.clip import LatentCLIP
from .latent.counting import LatentCounting
from .latent.discriminator import LatentDiscriminator
from .latent.head import CLIPHead
from .latent.lrm import LRM
from .latent.reward import LatentReward
from .latent.text import LatentTextRendering
from .latent.value import LatentValue
from .pixel.aesthetic import Aesthetic, AestheticV2
from .pixel.checkpoint import loading
from .pixel.counting import DetectedCount
from .pixel.hps import HPS, HPSv21
from .pixel.image_reward import ImageReward
from .pixel.ocr import OCRScore
from .pixel.open_clip import OpenCLIPScore, OpenCLIPTower
from .pixel.pickscore import PickScore
from .pixel.vqa import VQAScore

EVALUATORS: dict[str, type] = {
    "clip": LatentCLIP,
    "discriminator": LatentDiscriminator,
    "reward": LatentReward,
    "text": LatentTextRendering,
    "counting": LatentCounting,
    "value": LatentValue,
    "lrm": LRM,
    "open_clip": OpenCLIPScore,
    "pickscore": PickScore,
    "hpsv2": HPS,
    "hpsv2.1": HPSv21,
    "image_reward": ImageReward,
    "aesthetic": Aesthetic,
    "aesthetic_v2": AestheticV2,
    "vqa": VQAScore,
    "ocr": OCRScore,
    "detector": DetectedCount,
}


def load_evaluator(name: str, source: str | Path | None = None, clip: LatentCLIP | None = None) -> Evaluator:
    """Loads the evaluator registered as `name` from its folder (or file, or hub id), one of public weights by default
    from where they are published. A head on a latent CLIP takes that `clip`, by default the one in the folder ``clip``
    beside its own.

    Raises:
        ValueError: no evaluator has this name, or the folder holds another one, or the head belongs to another CLIP, or
            `name` belongs to one VAE and there is no `source`.
        OSError: it cannot be read.
    """

    def load_clip(folder: Path) -> LatentCLIP:
        return clip or _load("clip", folder, load_clip, OpenCLIPTower.from_pretrained)

    return _load(name, source, load_clip, OpenCLIPTower.from_pretrained)


def load_evaluators(
    wanted: Mapping[str, str | Path | None] | Iterable[str | Evaluator | Callable],
    calibration: str | Path | None = None,
) -> list[Any]:
    """Loads a panel: names, ``name=source`` with a folder, file or hub id, or evaluators as they are; or a mapping from
    name to source. Heads of a latent CLIP share the panel's, or without one that beside their folders; judges on the
    same CLIP of open_clip share it. See `load_evaluator`.

    Args:
        calibration: the folder of ``online-guidance calibrate --out``, ``NAME.json`` for each evaluator, which then
            takes the place of its own.

    Raises:
        ValueError: besides what `load_evaluator` does, an evaluator is left without a calibration where others get one:
            it would speak louder than they.
    """
    items: Iterable[Any] = wanted
    if isinstance(wanted, Mapping):
        items = [name if source is None else f"{name}={source}" for name, source in wanted.items()]
    pairs = [item.partition("=")[::2] if isinstance(item, str) else (item, "") for item in items]
    clip_of_panel = dict(pair for pair in pairs if isinstance(pair[0], str)).get("clip")
    towers: dict[tuple[str, torch.dtype], OpenCLIPTower] = {}

    def load_tower(source: str | Path, name: str = "", dtype: torch.dtype = torch.float32) -> OpenCLIPTower:
        key = str(Path(source).resolve() if Path(source).is_dir() else source), dtype
        if key not in towers:
            towers[key] = OpenCLIPTower.from_pretrained(source, name or OpenCLIPScore.name, dtype=dtype)
        return towers[key]

    @functools.cache
    def load_clip(folder: Path) -> LatentCLIP:
        return _load("clip", folder, load_clip, load_tower)

    def load(name: Any, source: str) -> Any:
        if not isinstance(name, str):
            return name
        if name == "clip" and source:
            return load_clip(Path(source))
        return _load(name, source or None, lambda folder: load_clip(Path(clip_of_panel or folder)), load_tower)

    panel = [load(name, source) for name, source in pairs]
    return panel if calibration is None else [_calibrated(as_evaluator(one), Path(calibration)) for one in panel]


def _calibrated(evaluator: Evaluator, folder: Path) -> Evaluator:
    """`evaluator` with what `folder` has of it, else with its own calibration."""
    if (file := folder / f"{evaluator.name}.json").is_file():
        return calibrated(evaluator, Calibration.from_json(file))
    if evaluator.calibration is None:
        raise ValueError(f"`calibration` {str(folder)!r} has no {file.name}: calibrate {evaluator.name!r} there, too.")
    return evaluator


def _load(
    name: str,
    source: str | Path | None,
    load_clip: Callable[[Path], LatentCLIP],
    load_tower: Callable[..., OpenCLIPTower],
) -> Any:
    """One evaluator, where `load_clip` is asked for the folder ``clip`` beside its own."""
    if name not in EVALUATORS:
        raise ValueError(f"`evaluators` names {name!r}, which is unknown; there are {', '.join(sorted(EVALUATORS))}.")
    cls: Any = EVALUATORS[name]
    if source is None:
        if issubclass(cls, LatentEvaluator):
            raise ValueError(f"`evaluators` names {name!r}, which belongs to one VAE: give {name}=FOLDER.")
        default = next(iter(inspect.signature(cls.from_pretrained).parameters.values())).default
        default = getattr(cls, "DEFAULT_ID", default)
        if default is inspect.Parameter.empty:
            raise ValueError(f"`evaluators` names {name!r}, which may be any of many: give {name}=FOLDER.")
        source = default
    given: dict[str, Any] = {"load_tower": load_tower} if getattr(cls, "shares_tower", False) else {}
    with loading(name, source):
        if issubclass(cls, LatentEvaluator):
            if (held := cls.load_config(source).get("_class_name")) != cls.__name__:
                raise ValueError(
                    f"`evaluators` wants a {cls.__name__} for {name!r}, and {str(source)!r} holds a {held}."
                )
            if issubclass(cls, CLIPHead):
                given["clip"] = load_clip(Path(str(source)).parent / "clip")
        return cls.from_pretrained(source, **given).eval()
