"""One batch of two from the same noise: row 0 as the search decides, row 1 at one scale, with pictures on the way."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from evaluators.pixel.preview import decode
from guidance import Decision, DenoisingStep, GreedySearch, GuidanceTrace
from guidance.noise_search import draws

from ..generate import denoise

PREVIEWS = 10  # of the pictures on the way, at most


@dataclass(frozen=True)
class Progress:
    """Where sampling is: steps decided out of `steps`, the dynamic row's `scale` at the last of them, and `images`,
    dynamic and static as predicted there, `None` at most steps."""

    done: int
    steps: int
    scale: float
    images: list[Image.Image] | None


@dataclass(frozen=True, eq=False)
class Result:
    """A finished run.

    Attributes:
        images: dynamic, static.
        trace: of the dynamic row.
        static: the other row's scale.
        predictions: ``(steps, 2, C, H, W)``, on the CPU: the unconditional and the conditional x0 prediction of the
            dynamic row at each step. That of a scale s is ``u + s (c - u)``, for x0 is affine in the prediction.
    """

    images: list[Image.Image]
    trace: GuidanceTrace
    static: float
    predictions: torch.Tensor

    def denoised(self, step: int) -> torch.Tensor:
        """The x0 predictions ``(candidates, C, H, W)`` that each candidate scale led to at `step`."""
        uncond, cond = self.predictions[step]
        scales = torch.tensor(self.trace.candidates).view(-1, 1, 1, 1)
        return uncond + scales * (cond - uncond)


class Decoder:
    """Latents ``(n, C, H, W)`` to PIL images, while the pipeline may be at work elsewhere."""

    def __init__(self, pipe: Any) -> None:
        self.vae = pipe.vae
        if self.vae.dtype == torch.float16 and self.vae.config.get("force_upcast", False):
            self.vae = copy.deepcopy(self.vae).float()  # `decode` would change the pipeline's own for a while

    @torch.inference_mode()
    def __call__(self, latents: torch.Tensor) -> list[Image.Image]:
        rows = [decode(self.vae, row[None])[0].cpu() for row in latents]  # large ones fit one at a time
        return [Image.fromarray((row * 255).round().byte().permute(1, 2, 0).numpy()) for row in rows]


class SideBySide:
    """A guidance for batches of two; see the module. `report` gets a `Progress` after every decision."""

    def __init__(
        self, search: GreedySearch, static: float, decode: Decoder, report: Callable[[Progress], None]
    ) -> None:
        self.guidance, self.static, self.decode, self.report = search, static, decode, report
        self.scales, self.check, self.noises = search.scales, search.check, search.noises
        self.predictions: list[torch.Tensor] = []

    def decide(self, step: DenoisingStep) -> Decision:
        streams = step.step_kwargs.get("generator")
        state = streams and streams[1].get_state()
        decision = Decision(*self.guidance.decide(step))
        if streams:
            streams[1].set_state(state)  # what the static picture draws is not the search's
        scale = step.full(step.own_scale) if decision.scale is None else decision.scale.clone()
        scale[1] = self.static
        generator = decision.generator
        if generator is not None:  # some pipelines (SD3, FLUX) pass none of their own
            generator = [generator[0], streams[1] if streams else draws(step, 1)[0][1]]
        uncond, cond = step.candidates((0.0, 1.0), "denoised").unbind(1)
        self.predictions.append(torch.stack([uncond[0], cond[0]]).cpu())
        images = None
        if step.index % -(-step.num_steps // PREVIEWS) == 0:
            images = self.decode(uncond + scale.view(-1, 1, 1, 1) * (cond - uncond))
        self.report(Progress(step.index + 1, step.num_steps, float(scale[0]), images))
        return decision._replace(scale=scale, generator=generator)


def run(
    pipe: Any,
    search: GreedySearch,
    prompt: str,
    seed: int,
    steps: int,
    static: float,
    decode: Decoder,
    report: Callable[[Progress], None],
) -> Result:
    """Samples `prompt` twice from the noise of `seed`. What `report` raises stops it."""
    guidance = SideBySide(search, static, decode, report)
    images, trace = denoise(pipe, guidance, [prompt] * 2, [seed] * 2, steps)
    return Result(images, trace.sample(0), static, torch.stack(guidance.predictions))
