"""A run: pictures of one prompt by one method or two, from the same noise, with all that was seen on the way."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from PIL import Image

from guidance import Decision, DenoisingStep, Guidance, GuidanceTrace

from ..denoising import Several, denoise, rows_of
from .host import Host
from .methods import METHODS, draws_noise, guidance_of
from .settings import Settings

PREVIEWS = 10  # of the pictures on the way, at most


@dataclass(frozen=True)
class Progress:
    """Where a run is: `done` of `steps` of the method at `place`; `images` as predicted there, one for each picture,
    `None` at most steps. `share` is how much of the run is done, in [0, 1]."""

    place: int
    done: int
    steps: int
    share: float
    images: list[Image.Image] | None


@dataclass(frozen=True, eq=False)
class Picture:
    """A finished picture.

    Attributes:
        trace: of it alone.
        passes: of the denoiser, those of a picture that was not kept too.
        predictions: ``(steps, 2, C, H, W)``, on the CPU: the unconditional and the conditional x0 prediction at each
            step. That of a scale s is ``u + s (c - u)``, for x0 is affine in the prediction.
        tried: of the best of several which one it is, from 0, and the scores of them all, NaN of those dropped.
    """

    method: str
    seed: int
    image: Image.Image
    trace: GuidanceTrace
    passes: int
    predictions: torch.Tensor
    tried: tuple[int, tuple[float, ...]] | None = None

    def denoised(self, step: int) -> torch.Tensor:
        """The x0 predictions ``(candidates, C, H, W)`` that each candidate scale led to at `step`."""
        uncond, cond = self.predictions[step]
        scales = torch.tensor(self.trace.candidates).view(-1, 1, 1, 1)
        return uncond + scales * (cond - uncond)

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        return self.predictions.nbytes + 3 * self.image.width * self.image.height


@dataclass(frozen=True, eq=False)
class Run:
    """Attributes:
    rows: for each seed, a picture by each method.
    lost: the words of the prompt that no text encoder read, empty for none.
    """

    settings: Settings
    rows: list[list[Picture]]
    lost: str = ""


class Watched:
    """`guidance`, with a `report` after every decision, which may stop it by what it raises.

    Args:
        noises: what `denoise` asks: above 1 the sampler is to draw noise.
        record: whether predictions are kept and pictures decoded on the way; else `report` gets `None`.
    """

    def __init__(
        self,
        guidance: Guidance,
        report: Callable[[tuple[int, int, list[torch.Tensor] | None]], None],
        noises: int | None = None,
        record: bool = True,
    ) -> None:
        self.guidance, self.report, self.record = guidance, report, record
        self.scales = getattr(guidance, "scales", ())
        self.noises = getattr(guidance, "noises", 1) if noises is None else noises
        self.predictions: list[torch.Tensor] = []

    def check(self, sample: torch.Tensor, prompt: Any) -> None:
        """As of the guidance inside."""
        if hasattr(self.guidance, "check"):
            self.guidance.check(sample, prompt)

    def decide(self, step: DenoisingStep) -> Decision:
        decision = Decision(*self.guidance.decide(step))
        seen = None
        if self.record:
            scale = step.full(step.own_scale) if decision.scale is None else decision.scale
            uncond, cond = step.candidates((0.0, 1.0), "denoised").unbind(1)
            self.predictions.append(torch.stack([uncond, cond], 1).cpu())
            if step.index % -(-step.num_steps // PREVIEWS) == 0:
                seen = [*(uncond + scale.to(uncond).view(-1, 1, 1, 1) * (cond - uncond))]
        self.report((step.index + 1, step.num_steps, seen))
        return decision


def watching(guidance: Any, *args: Any, **kwargs: Any) -> tuple[Any, Watched]:
    """`guidance`, or that of `Several`, as `Watched` with these arguments: what `denoise` takes, and the latter."""
    several = isinstance(guidance, Several)
    watched = Watched(guidance.guidance if several else guidance, *args, **kwargs)
    return replace(guidance, guidance=watched) if several else watched, watched


def cost(settings: Settings) -> float:
    """How much work a run is, in steps of one picture."""
    return settings.steps * settings.pictures * sum(METHODS[name].cost for name in settings.methods)


def run(host: Host, settings: Settings, report: Callable[[Progress], None]) -> Run:
    """Makes the pictures, by one method after the other. What `report` raises stops it."""
    draws = draws_noise(settings, host.default.evaluators)
    by_method = []
    for place, name in enumerate(settings.methods):
        watch = partial(_tell, host, settings, place, report)
        with host.sampler(settings.sampler):
            by_method.append(_pictures(host, settings, name, watch, draws))
    return Run(settings, [list(row) for row in zip(*by_method, strict=True)])


def _tell(host: Host, settings: Settings, place: int, report: Callable[[Progress], None], seen: tuple) -> None:
    done, steps, latents = seen
    weights = [METHODS[name].cost for name in settings.methods]
    share = (sum(weights[:place]) + weights[place] * done / steps) / sum(weights)
    images = None if latents is None else host.decode(_first_left(torch.stack(latents), settings.pictures))
    report(Progress(place, done, steps, share, images))


def _first_left(latents: torch.Tensor, pictures: int) -> torch.Tensor:
    """Of those that were begun for each picture the first that was not dropped, which is all zeros then."""
    groups = latents.unflatten(0, (pictures, -1))
    return groups[torch.arange(pictures), groups.flatten(2).any(2).int().argmax(1).cpu()]


def _pictures(host: Host, settings: Settings, name: str, report: Callable[[tuple], None], draws: bool) -> list[Picture]:
    """Those by one method, a picture for each seed."""
    guidance = guidance_of(name, settings, host.default.evaluators, host.judges)
    how, watched = watching(guidance, report, noises=1 + draws)
    seeds = [settings.seed + i for i in range(settings.pictures)]
    options = {key: value for key, value in (("width", settings.width), ("height", settings.height)) if value}
    if settings.negative and "negative_prompt" in host.takes:
        options["negative_prompt"] = [settings.negative] * len(seeds)
    prompts, n = [settings.prompt] * len(seeds), rows_of(guidance)
    made = denoise(host.pipe, how, prompts, seeds, settings.steps, **options)
    tried: list[Any] = [None] * len(seeds)
    passes = made.trace.nfe.view(-1, n).sum(1).tolist()
    if made.best is not None:
        tried = [(k, tuple(row)) for k, row in zip(made.best.chosen.tolist(), made.best.scores.tolist(), strict=True)]
        passes = [round(made.best.nfe)] * len(seeds)
    predictions = torch.stack(watched.predictions)
    return [
        Picture(name, seed, image, made.trace_of(i), passes[i], predictions[:, made.rows[i]].clone(), tried[i])
        for i, (seed, image) in enumerate(zip(seeds, made.images, strict=True))
    ]
