"""The embedded model for samplers whose steps are no scheduler's: predictions at any of its noise levels, and where a
clean prediction and a noise lead. Rows may stand at different steps. Every pass of the denoiser is counted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from guidance.schedulers import denoised, noise_schedule


class Model:
    """What a sampler of `benchmarks.rivals` works with.

    Args:
        pipe: a StableDiffusionPipeline with DDIM, whose ``set_timesteps`` is called.
        prompts: one for each row.
        generators: one for each row; the first that is drawn from it is the noise that the pipeline would begin with.
        steps: of denoising.

    Attributes:
        passes: of the denoiser, that each row took ``(rows,)``.
    """

    def __init__(self, pipe: Any, prompts: Sequence[str], generators: Sequence[torch.Generator], steps: int) -> None:
        self.pipe, self.prompts, self.generators, self.steps = pipe, list(prompts), list(generators), steps
        self.device = pipe.device
        pipe.scheduler.set_timesteps(steps, device=self.device)
        self.timesteps = pipe.scheduler.timesteps
        self.levels = torch.tensor(noise_schedule(pipe.scheduler), dtype=torch.float64, device=self.device)
        self.text, self.empty = pipe.encode_prompt(self.prompts, self.device, 1, True)
        side = pipe.unet.config.sample_size
        self.shape = (pipe.unet.config.in_channels, side, side)
        self.passes = torch.zeros(len(self.prompts), dtype=torch.long)

    def draw(self, rows: torch.Tensor | None = None) -> torch.Tensor:
        """Noise ``(rows, C, H, W)`` from each row's own generator."""
        which = range(len(self.prompts)) if rows is None else rows.tolist()
        drawn = [torch.randn((1, *self.shape), generator=self.generators[i]) for i in which]
        return torch.cat(drawn).to(self.device)

    def at(self, index: int | torch.Tensor, rows: int) -> torch.Tensor:
        """One index for each row."""
        return torch.as_tensor(index, device=self.device).expand(rows)

    def predict(
        self, latents: torch.Tensor, index: int | torch.Tensor, rows: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The conditional and the unconditional prediction, two passes, of `latents` that stand before step `index`.

        Args:
            latents: ``(rows, C, H, W)``.
            index: one, or one for each row.
            rows: whose prompts they have; `None` for all in turn.
        """
        rows = torch.arange(len(self.prompts)) if rows is None else rows
        self.passes += 2 * torch.bincount(rows, minlength=len(self.prompts))
        text = torch.cat([self.empty[rows], self.text[rows]])  # in the order of the pipeline
        time = self.timesteps[self.at(index, len(latents))].repeat(2)
        uncond, cond = self.pipe.unet(latents.repeat(2, 1, 1, 1), time, text, return_dict=False)[0].chunk(2)
        return cond, uncond

    def uncond(self, latents: torch.Tensor, index: int | torch.Tensor) -> torch.Tensor:
        """The unconditional prediction alone, one pass, of all rows."""
        self.passes += 1
        time = self.timesteps[self.at(index, len(latents))]
        return self.pipe.unet(latents, time, self.empty, return_dict=False)[0]

    def level(self, index: int | torch.Tensor, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Alpha and sigma ``(rows, 1, 1, 1)`` before step `index`; after the last at `steps`."""
        alpha, sigma = self.levels[self.at(index, rows)].float().view(rows, 2, 1, 1, 1).unbind(1)
        return alpha, sigma

    def clean(self, latents: torch.Tensor, prediction: torch.Tensor, index: int | torch.Tensor) -> torch.Tensor:
        """The clean latents that `prediction` implies."""
        return denoised(self.pipe.scheduler, prediction, latents, self.level(index, len(latents)))  # type: ignore[arg-type]

    def noise(self, latents: torch.Tensor, prediction: torch.Tensor, index: int | torch.Tensor) -> torch.Tensor:
        """The noise that `prediction` implies."""
        alpha, sigma = self.level(index, len(latents))
        return (latents - alpha * self.clean(latents, prediction, index)) / sigma

    def lead(
        self,
        clean: torch.Tensor,
        noise: torch.Tensor,
        index: int | torch.Tensor,
        to: int | torch.Tensor,
        fresh: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """DDIM (arXiv 2010.02502, eq. 12) from step `index` to any other: ``alpha · clean + sigma · noise`` there, with
        `fresh` noise in as large a share as ``eta = 1`` takes."""
        rows = len(clean)
        (alpha, sigma), (next_alpha, next_sigma) = self.level(index, rows), self.level(to, rows)
        if fresh is None:
            return next_alpha * clean + next_sigma * noise
        share = next_sigma / sigma * (1 - (alpha / next_alpha).square()).clamp_min(0).sqrt()
        kept = (next_sigma.square() - share.square()).clamp_min(0).sqrt()
        return next_alpha * clean + kept * noise + share * fresh


@dataclass(frozen=True)
class Sampled:
    """What a sampler returns.

    Attributes:
        latents: of the finished images ``(rows, C, H, W)``.
        scale: the guidance scale at each step ``(rows, steps)``.
    """

    latents: torch.Tensor
    scale: torch.Tensor


class Sampler(Protocol):
    """Makes one image for each row, the same from generators in the same state."""

    def passes(self, steps: int) -> int: ...

    def __call__(self, model: Model) -> Sampled: ...
