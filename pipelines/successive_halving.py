"""Successive halving: several images of each prompt are begun, and the worse half is dropped on the way."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, cast

import torch
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from evaluators.base import Evaluator
from evaluators.pixel.preview import Preview, make_preview
from guidance import Static
from guidance.panel import Panel, in_their_places, preferred
from guidance.sampling import ALIVE, GuidedSampling
from guidance.schedulers import denoised

from .best_of import BestOf, check_arguments, pick
from .caller import calling_frame, known_to
from .hosts import denoisers, host_of
from .patch import indivisible, named, patch, take_rows
from .reading import tensor_of
from .types import Pipeline

HALVING: dict[str, Any] = {"n": 4, "rungs": (0.25,)}  # what was best of those that take as long as one whole image


def ends(rungs: Sequence[float], steps: int) -> list[int]:
    """After which of `steps`, from 1, the rungs drop."""
    return [max(1, math.ceil(rung * steps - 1e-9)) for rung in rungs]


def image_steps(n: int, rungs: Sequence[float], steps: int) -> int:
    """Of all images of a prompt together, where each is made in `steps`."""
    left, total = n, 0
    for begin, end in pairwise([0, *ends(rungs, steps), steps]):
        total, left = total + left * (end - begin), -(-left // 2)
    return total


def steps_within(n: int, rungs: Sequence[float], asked: int) -> int:
    """The most steps of each image with which all of a prompt make no more than `asked` together; at least 1."""
    return max((steps for steps in range(1, asked + 1) if image_steps(n, rungs, steps) <= asked), default=1)


@torch.no_grad()
def successive_halving(
    pipe: DiffusionPipeline,
    prompt: str | Sequence[str],
    n: int,
    evaluators: Sequence[Evaluator | Callable],
    weights: Mapping[str, float] | None = None,
    rungs: Sequence[float] = (0.25, 0.5),
    preview: str | Preview = "vae",
    final_evaluators: Sequence[Evaluator | Callable] | None = None,
    **kwargs: Any,
) -> BestOf:
    """Begins `n` images of each prompt and drops the worse half of them at each rung; of those that are finished the
    best is kept. More images are tried than by `best_of` with as many passes of the denoiser.

    The rule is that of best-arm identification (Jamieson and Talwalkar 2016, arXiv 1502.07943), which gives every round
    as much as the others; where the rounds end is left open here, for evaluators know little of the first steps. With
    20 steps, ``n=4`` and the rungs below, 4 · 5 + 2 · 5 + 10 steps are made: as many as for two whole images.

    Dropped rows stay in the pipeline's batch, all zeros, and the denoiser runs on the others only: no pipeline code is
    copied, and an image that is kept is what it would have been alone. A search asks its evaluators about the others
    only, and the VAE decodes the one that is kept. Where the denoiser cannot be run on a part of its rows (a cache,
    sound besides pictures) it runs whole, and `nfe` says so. The guidance is that of `best_of`; it must leave rows in
    their places, as all but `FeynmanKac` do.

    Example::

        best = successive_halving(pipe, ["a fox", "a sign"], 4, [clip, value], guidance_scale=6.0)

    Args:
        evaluators, weights: as of `GreedySearch`, at least one evaluator. Those of noisy latents see the latents after
            the step of a rung, the others its predictions of the clean latents, or the `preview` of these; of the
            images that are left, and at the end of finished ones, as by `best_of`, where more than one is left.
        rungs: after which share of the steps to drop, rising, in (0, 1). Half of an odd number is rounded up.
        preview: as of `guide`.
        final_evaluators: who chooses among those that are finished, all of them as loud; by default `evaluators`. A
            slow judge of pictures sees few of them there, and they are whole.
        kwargs: everything else that `pipe` takes.

    Returns:
        As `best_of`; the scores of those that were dropped are NaN, and the last one's too where no other was left to
        be compared with.

    Raises:
        ValueError: as `best_of`, or `rungs` are others than is said here, or `final_evaluators` is empty.
    """
    prompts, panel = check_arguments(prompt, n, evaluators, weights, kwargs)
    rungs = tuple(rungs)
    if not all(0 < rung < 1 for rung in rungs) or sorted(set(rungs)) != list(rungs):
        raise ValueError(f"`rungs` must rise and be above 0 and below 1, got {list(rungs)}.")
    if final_evaluators is not None and not len(final_evaluators):
        raise ValueError("`final_evaluators` is empty: leave it out, or name at least one.")
    last = panel if final_evaluators is None else Panel(final_evaluators)
    race = Race(pipe, (panel, last), prompts, n, rungs, preview)
    undo = [patch(module, "forward", partial(race.forward, module)) for module in denoisers(pipe)]
    undo.append(patch(cast(Any, pipe).scheduler, "step", race.step))
    if hasattr(vae := getattr(pipe, "vae", None), "decode"):
        undo.append(patch(vae, "decode", race.decode))
    before = ALIVE.set(None)
    try:
        call = {"num_images_per_prompt": n, "callback_on_step_end": race.after_step} | kwargs
        images = cast(Pipeline, pipe)(prompts, **call).images
    finally:
        ALIVE.reset(before)
        for undo_one in reversed(undo):
            undo_one()
    chosen, scores = race.result or race.finish()
    return BestOf(pick(images, chosen, n), chosen, scores, race.rows / len(prompts))


class Race:
    """One call of a pipeline, some of whose rows are dropped on the way.

    Args:
        panels: who drops at the rungs, and who chooses at the end.

    Attributes:
        left: the images of each prompt that are left, their places among its n ``(prompts, left)``.
        rows: of the denoiser, that ran so far.
        result: what `finish` returned after the last step; `None` before.
    """

    def __init__(
        self,
        pipe: Any,
        panels: tuple[Panel, Panel],
        prompts: list[str],
        n: int,
        rungs: tuple[float, ...],
        preview: str | Preview,
    ) -> None:
        self.pipe, self.prompts, self.n, self.rungs, self.preview = pipe, prompts, n, rungs, preview
        self.panel, self.last = panels
        self.left = torch.arange(n).expand(len(prompts), n)
        self.rows = 0
        self.alone = True  # whether the denoiser returns nothing besides its prediction
        self.clock = GuidedSampling(Static(1.0), pipe.scheduler)  # which knows steps and noise levels
        self.taken: dict[str, Any] = {}
        self.final: torch.Tensor | None = None
        self.result: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def alive(self) -> torch.Tensor:
        """The rows that are left, ``(prompts · n,)`` bool."""
        mask = torch.zeros(len(self.prompts), self.n, dtype=torch.bool)
        return mask.scatter(1, self.left, True).flatten()

    def forward(self, module: Any, stock: Callable, *args: Any, **kwargs: Any) -> Any:
        """The denoiser on the rows that are left, zeros for the others."""
        first = args[0] if args else next(iter(kwargs.values()))
        call = inspect.signature(stock).bind(*args, **kwargs)
        rows, alive = len(first), self.alive
        needed = alive.repeat(rows // len(alive))  # both passes in one batch, or each by itself
        # Guidance that leaves passes out itself (`Budget`) comes with other numbers of rows.
        whole = bool(alive.all()) or len(needed) != rows or not self.alone
        if whole or indivisible(module, call, needed):
            output = stock(*args, **kwargs)
            self.alone = self.alone and (not isinstance(output, (tuple, list)) or len(output) == 1)
            self.rows += rows
            return output
        keep = needed.nonzero()[:, 0]
        call.arguments.update(take_rows(call.arguments, rows, keep, isinstance(first, (tuple, list))))
        output = stock(*call.args, **call.kwargs)
        self.rows += len(keep)
        zeros = in_their_places(tensor_of(output), needed)
        filled: Any = list(zeros) if isinstance(output[0], (tuple, list)) else zeros
        return (filled,) if call.arguments.get("return_dict") is False else Transformer2DModelOutput(sample=filled)

    def decode(self, stock: Callable, z: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """The autoencoder's own; after the last step of the images that are kept alone, zeros for the others."""
        rows = len(self.prompts) * self.n
        # Frames of a video may come as rows, a part at a time.
        if self.result is None or len(z) != rows or z.numel() != cast(torch.Tensor, self.final).numel():
            return stock(z, *args, **kwargs)
        kept = torch.nn.functional.one_hot(self.result[0], self.n).bool().flatten()
        keep = kept.nonzero()[:, 0]
        output = stock(*(take_rows(value, rows, keep) for value in (z, *args)), **take_rows(kwargs, rows, keep))
        sample = in_their_places(output[0], kept)
        return (sample,) if isinstance(output, tuple) else DecoderOutput(sample=sample)

    def step(self, stock: Callable, *args: Any, **kwargs: Any) -> Any:
        """The scheduler's own step, of which it is kept what it was asked for."""
        self.taken = named(self.pipe.scheduler, args, kwargs)
        self.clock.advance(self.taken["timestep"])
        return stock(*args, **kwargs)

    def after_step(self, pipe: Any, step: int, timestep: Any, tensors: dict[str, torch.Tensor]) -> dict:
        """The pipeline made a step: is it one after which to drop?"""
        frame, latents = calling_frame(pipe, 1), tensors["latents"]
        known = known_to(frame, pipe) if frame else {}
        unpack = partial(host_of(pipe).unpack, pipe, known)
        if self.final is None:
            for panel in dict.fromkeys((self.panel, self.last)):  # which may be one
                panel.check(unpack(latents), [p for p in self.prompts for _ in range(self.n)])
        self.final = unpack(latents)
        done = self.clock.index - self.clock.start_index + 1
        total = len(self.clock.timesteps) - self.clock.start_index
        for _ in range(ends(self.rungs, total).count(done) if done < total else 0):
            scores = self.scores(unpack)
            best = scores.nan_to_num(nan=-torch.inf).argsort(dim=1, descending=True, stable=True)
            kept = best[:, : -(-scores.shape[1] // 2)].sort(1).values
            self.left = self.left.gather(1, kept)
        ALIVE.set(alive := self.alive)
        if done >= total and self.result is None:  # before the pictures are decoded
            self.result = self.finish()
        alive = alive.to(latents.device)
        if alive.all():
            return {}
        # Without a denoiser's guidance they would go anywhere, infinity included.
        return {"latents": torch.where(alive.view(-1, *[1] * (latents.ndim - 1)), latents, torch.zeros_like(latents))}

    def scores(self, unpack: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Of the images that are left, ``(prompts, left)``, at the step that was made last."""
        before, after = self.clock.noise[self.clock.index : self.clock.index + 2]
        level = lambda space: after if space == "noisy" else before  # noqa: E731
        share = lambda alpha, sigma: sigma / math.hypot(alpha, sigma)  # noqa: E731

        def candidates(space: str) -> torch.Tensor:
            if space == "noisy":
                return self.those_left(cast(torch.Tensor, self.final).float() / math.hypot(*after))
            sample, prediction = self.taken["sample"], self.taken["model_output"]
            prediction = prediction[:, : sample.shape[1]]  # a variance may come besides
            clean = self.those_left(unpack(denoised(self.pipe.scheduler, prediction, sample, before)).float())
            return self.shown(clean) if space == "pixels" else clean

        about = self.prompts, self.taken["timestep"]
        return self.panel.ask(candidates, lambda space: share(*level(space)), *about)[0].cpu()

    def those_left(self, latents: torch.Tensor) -> torch.Tensor:
        """Rows ``(prompts · n, ...)`` as ``(prompts, left, ...)``."""
        rows = torch.arange(len(self.prompts))[:, None]
        return latents.unflatten(0, (len(self.prompts), self.n))[rows, self.left]

    def shown(self, clean: torch.Tensor) -> torch.Tensor:
        """Clean latents ``(prompts, left, ...)`` as judges of pictures see them."""
        preview = make_preview(getattr(self.pipe, "vae", None), self.preview)
        return preview(clean.flatten(0, 1)).unflatten(0, clean.shape[:2])

    def finish(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Which image of each prompt is the best ``(prompts,)``, and the scores ``(prompts, n)``."""
        nothing = torch.full((len(self.prompts), self.n), torch.nan)
        if self.left.shape[1] == 1:  # nothing to choose: judges of pictures cost something
            return self.left[:, 0], nothing
        final = self.those_left(cast(torch.Tensor, self.final).float())
        show = lambda space: self.shown(final) if space == "pixels" else final  # noqa: E731
        scores = self.last.ask(show, lambda space: 0.0, self.prompts, 0.0)[0].cpu()
        chosen = self.left.gather(1, preferred(scores)[:, None])[:, 0]
        return chosen, nothing.scatter(1, self.left, scores)
