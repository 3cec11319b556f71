"""Foresight guidance: where conditional and unconditional sampling lead to the same, sought by iteration, early on."""

from dataclasses import dataclass

import torch

from .model import Model, Sampled

# Where the rounds of iterations begin, in shares of the steps, and how many of each four come there: the authors' own
# setting for 50 passes of SDXL, as the interval below.
BEGIN = (0.0, 0.125, 0.375)
SHARE = (0.5, 0.25, 0.25)
INTERVAL = 0.125  # of the steps, over which both are compared


@dataclass(frozen=True)
class Foresight:
    r"""Fixed-point iterations in early steps, CFG++ in all (arXiv 2510.21512, NeurIPS 2025).

    A latent is on the golden path where conditional and unconditional sampling lead to the same. An iteration goes from
    step t over a long interval by one step of DDIM with guidance, and back by one of unconditional DDIM inversion:

    .. math:: x_t \leftarrow f^u_{t - \Delta \to t} (f^{\gamma}_{t \to t - \Delta} (x_t))

    It takes three passes of the denoiser, a step of CFG++ two; without iterations this is CFG++.

    Args:
        strength: λ of CFG++, in [0, 1].
        scale: γ, of the guided leg.
        iterations: in all, spread as `SHARE` says.
    """

    strength: float
    scale: float
    iterations: int

    def passes(self, steps: int) -> int:
        """For each image."""
        return 2 * steps + 3 * self.iterations

    def plan(self, steps: int) -> dict[int, int]:
        """The iterations at each step that has some."""
        ends = [round(self.iterations * sum(SHARE[: i + 1])) for i in range(len(SHARE))]
        counts = [end - begin for begin, end in zip([0, *ends], ends, strict=False)]
        plan: dict[int, int] = {}
        for begin, count in zip(BEGIN, counts, strict=True):
            at = int(begin * steps)
            plan[at] = plan.get(at, 0) + count
        return plan

    def __call__(self, model: Model) -> Sampled:
        latents, plan = model.draw(), self.plan(model.steps)
        ahead = max(1, round(INTERVAL * model.steps))
        for index in range(model.steps):
            for _ in range(plan.get(index, 0)):
                latents = self.calibrated(model, latents, index, min(index + ahead, model.steps - 1))
            cond, uncond = model.predict(latents, index)
            guided = model.clean(latents, uncond + self.strength * (cond - uncond), index)
            latents = model.lead(guided, model.noise(latents, uncond, index), index, index + 1)
        return Sampled(latents, torch.full((len(latents), model.steps), self.strength))

    def calibrated(self, model: Model, latents: torch.Tensor, index: int, to: int) -> torch.Tensor:
        """One iteration over the interval from step `index` to step `to`."""
        cond, uncond = model.predict(latents, index)
        guided = uncond + self.scale * (cond - uncond)
        there = model.lead(model.clean(latents, guided, index), model.noise(latents, guided, index), index, to)
        back = model.uncond(there, to)
        return model.lead(model.clean(there, back, to), model.noise(there, back, to), to, index)
