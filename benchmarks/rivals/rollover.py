"""Rollover budget forcing: what a step does not need of its budget is left to the next."""

from dataclasses import dataclass, field

import torch

from guidance.panel import Panel

from .model import Model, Sampled

State = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Rollover:
    """Rollover budget forcing (arXiv 2503.19385) with a sampler that draws noise.

    Of several initial latents the one with the best clean prediction is taken. Then each step has a quota of draws. A
    draw leads to next latents, of which the denoiser makes a clean prediction; where that is better than the best so
    far, of any step, it is taken at once, and the rest of the quota rolls over to the next step. Else the best of the
    quota is taken. What is left at the last draw but one is used up there, as the authors' code does. So every image
    has the same passes, and the rows of a batch stand at different steps.

    The paper first makes a flow stochastic, and its interpolant that of variance-preserving diffusion. DDIM with
    ``eta=1`` is that already, so nothing is converted here. Predictions are compared as clean latents, by evaluators at
    noise level 0. With one initial latent and a quota of 1 this is DDIM with ``eta=1``.

    Args:
        panel: evaluators, which are told that there is no noise.
        scale: of guidance.
        quota: draws of each step, at least 1.
        initial: latents to choose the first from, at least 1.
    """

    panel: Panel = field(repr=False)
    scale: float
    quota: int
    initial: int

    def passes(self, steps: int) -> int:
        """For each image."""
        return 2 * (self.initial + self.quota * (steps - 1))

    def __call__(self, model: Model) -> Sampled:
        state = self.begin(model)  # of each row: the clean prediction and the noise that it goes on from
        index = torch.zeros(len(model.prompts), dtype=torch.long)  # the step that it stands before
        quota, tried = torch.full_like(index, self.quota), torch.zeros_like(index)
        found, best = state, state[0]  # what it was led to at best, in this step; its best clean prediction so far
        for _ in range(self.quota * (model.steps - 1)):
            new = self.look(model, model.lead(*state, index, index + 1, model.draw()), index + 1)
            found = pick((tried == 0) | self.better(model, new[0], found[0]), new, found)
            ahead, tried = self.better(model, new[0], best), tried + 1
            (best,) = pick(ahead, (new[0],), (best,))
            go = (ahead | (tried >= quota)) & (index < model.steps - 2)
            quota = torch.where(go, self.quota + quota - tried, quota)
            tried, index = torch.where(go, 0, tried), index + go.long()
            state = pick(go, found, state)
        if model.steps > 1:
            state, index = found, index + 1
        latents = model.lead(*state, index, index + 1)
        return Sampled(latents, torch.full((len(latents), model.steps), self.scale))

    def begin(self, model: Model) -> State:
        """What the best of the initial latents is seen to hold."""
        state = self.look(model, model.draw(), 0)
        for _ in range(self.initial - 1):
            new = self.look(model, model.draw(), 0)
            state = pick(self.better(model, new[0], state[0]), new, state)
        return state

    def look(self, model: Model, latents: torch.Tensor, index: int | torch.Tensor) -> State:
        """The clean prediction and the noise at latents, two passes each."""
        cond, uncond = model.predict(latents, index)
        guided = uncond + self.scale * (cond - uncond)
        return model.clean(latents, guided, index), model.noise(latents, guided, index)

    def better(self, model: Model, clean: torch.Tensor, than: torch.Tensor) -> torch.Tensor:
        """The rows whose clean prediction evaluators like better than another ``(rows,)`` bool."""
        pair = torch.stack([than, clean], 1)
        total = self.panel.ask(lambda space: pair, lambda space: 0.0, model.prompts, 0.0)[0].cpu()
        return total[:, 1] > total[:, 0]


def pick(take: torch.Tensor, new: State, old: State) -> State:
    """Rows of `new` where to `take` them ``(rows,)``, of `old` elsewhere."""
    where = lambda a, b: torch.where(take.view(-1, *[1] * (a.ndim - 1)).to(a.device), a, b)  # noqa: E731
    return tuple(where(a, b) for a, b in zip(new, old, strict=True))
