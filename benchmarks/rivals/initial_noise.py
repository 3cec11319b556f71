"""Search over the initial noise: neighbours of the best so far, each made into a whole picture."""

from dataclasses import dataclass, field

import torch

from guidance.panel import Panel

from .epsilon_greedy import neighbour
from .model import Model, Sampled


@dataclass(frozen=True)
class ZeroOrder:
    """Zero-order search over the initial noise (arXiv 2501.09732) with a sampler that draws none.

    A picture is made from the pivot, then in each round from each of its neighbours; the best of all so far is the next
    pivot. Evaluators choose by finished latents. With a `radius` of 1 neighbours are new draws, which is the paper's
    random search, and best of N.

    Args:
        panel: evaluators, which are told that there is no noise.
        scale: of guidance.
        radius: of the neighbourhood, above 0 and at most 1, see `neighbour`.
        rounds, neighbours: at least 1 each.
    """

    panel: Panel = field(repr=False)
    scale: float
    radius: float
    rounds: int
    neighbours: int

    def passes(self, steps: int) -> int:
        """For each image that is kept."""
        return 2 * steps * (1 + self.rounds * self.neighbours)

    def __call__(self, model: Model) -> Sampled:
        pivot = model.draw()
        best = self.picture(model, pivot)
        # Draws of others than the first picture come from where `best_of` has the noise of its other pictures from.
        streams, count = [g.initial_seed() for g in model.generators], 0
        for _ in range(self.rounds):
            centre = pivot
            for _ in range(self.neighbours):
                count += 1
                fresh = [torch.Generator().manual_seed(seed + 500_009 * count) for seed in streams]
                other = torch.cat([torch.randn((1, *model.shape), generator=g) for g in fresh])
                noise = neighbour(centre, other.to(centre.device), self.radius)
                made = self.picture(model, noise)
                pair = torch.stack([best, made], 1)
                total = self.panel.ask(lambda space, pair=pair: pair, lambda space: 0.0, model.prompts, 0.0)[0]
                take = (total[:, 1] > total[:, 0]).view(-1, 1, 1, 1)
                best, pivot = torch.where(take, made, best), torch.where(take, noise, pivot)
        return Sampled(best, torch.full((len(best), model.steps), self.scale))

    def picture(self, model: Model, latents: torch.Tensor) -> torch.Tensor:
        """The finished latents of initial ones."""
        for index in range(model.steps):
            cond, uncond = model.predict(latents, index)
            guided = uncond + self.scale * (cond - uncond)
            clean, noise = model.clean(latents, guided, index), model.noise(latents, guided, index)
            latents = model.lead(clean, noise, index, index + 1)
        return latents
