"""Search over the noise trajectory: at each step new draws now and then, else neighbours of the best so far."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from guidance.panel import Panel, preferred

from .model import Model, Sampled

Step = Callable[[torch.Tensor], torch.Tensor]  # the noise that a step adds to the latents that it leads to


def neighbour(noise: torch.Tensor, drawn: torch.Tensor, radius: float) -> torch.Tensor:
    """`noise` turned towards another draw: still noise of unit variance; at a `radius` of 1 it is the other draw."""
    return (1 - radius**2) ** 0.5 * noise + radius * drawn


@dataclass(frozen=True)
class EpsilonGreedy:
    r"""ε-greedy noise trajectory search (arXiv 2506.03164).

    At each step the best draw so far is the pivot; in each round every candidate is a new draw with probability ε, else
    a neighbour of the pivot, and the best of them and the pivot is the next pivot. Two things differ from the paper:
    candidates are scored as `NoiseSearch` scores draws, by evaluators of the noisy latents that they lead to, where
    there it takes a pass of the denoiser for each, so that this has the passes of a single picture here; and a
    neighbour is turned towards another draw instead of moved, for noise of more than unit variance spoils a step.

    With ``epsilon=1`` and one round it is `NoiseSearch` at one scale.

    Args:
        panel: evaluators, of which those of noisy latents are asked.
        scale: of guidance.
        epsilon: in [0, 1].
        radius: of a neighbourhood, above 0 and at most 1.
        rounds, candidates: of each step; the first round has the first pivot among its candidates.
    """

    panel: Panel = field(repr=False)
    scale: float
    epsilon: float
    radius: float
    rounds: int
    candidates: int

    def passes(self, steps: int) -> int:
        """For each image."""
        return 2 * steps

    def __call__(self, model: Model) -> Sampled:
        latents = model.draw()
        # Of its own, so that the pictures of a batch do not depend on one another.
        greedy = [torch.Generator().manual_seed(g.initial_seed()) for g in model.generators]
        for index in range(model.steps):
            cond, uncond = model.predict(latents, index)
            guided = uncond + self.scale * (cond - uncond)
            clean, noise = model.clean(latents, guided, index), model.noise(latents, guided, index)

            def step(
                fresh: torch.Tensor, clean: torch.Tensor = clean, noise: torch.Tensor = noise, index: int = index
            ) -> torch.Tensor:
                return model.lead(clean, noise, index, index + 1, fresh)

            latents = step(self.search(model, step, index, greedy))
        return Sampled(latents, torch.full((len(latents), model.steps), self.scale))

    def search(self, model: Model, step: Step, index: int, greedy: Sequence[torch.Generator]) -> torch.Tensor:
        """The noise that this step adds ``(rows, C, H, W)``."""
        pivot = drawn(model.generators, model.shape).to(model.device)
        for turn in range(self.rounds):
            tried = [pivot]
            for _ in range(self.candidates - (turn == 0)):
                other = drawn(model.generators, model.shape).to(model.device)
                new = torch.cat([torch.rand(1, generator=g) for g in greedy]) < self.epsilon
                near = neighbour(pivot, other, self.radius)
                tried.append(torch.where(new.view(-1, 1, 1, 1).to(near.device), other, near))
            best = preferred(self.total(model, torch.stack([step(noise) for noise in tried], 1), index))
            pivot = torch.stack(tried, 1)[torch.arange(len(best)), best]
        return pivot

    def total(self, model: Model, candidates: torch.Tensor, index: int) -> torch.Tensor:
        """The combined score of next latents ``(rows, candidates, C, H, W)``."""
        alpha, sigma = model.levels[index + 1].tolist()
        norm = (alpha**2 + sigma**2) ** 0.5
        about = model.prompts, model.timesteps[index]
        return self.panel.ask(lambda space: candidates / norm, lambda space: sigma / norm, *about)[0]


def drawn(generators: Sequence[torch.Generator], shape: tuple[int, ...]) -> torch.Tensor:
    """A draw for each generator, of which only a seed is taken, as `NoiseSearch` does: ``(rows, ...)``."""
    seeds = [int(torch.randint(2**62, (1,), generator=g)) for g in generators]
    return torch.cat([torch.randn((1, *shape), generator=torch.Generator().manual_seed(seed)) for seed in seeds])
