"""Feynman–Kac steering: several particles for each prompt, and those that the evaluators like are copied."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch

from evaluators.base import Evaluator

from .panel import Panel
from .schedules import check_scale, check_window
from .step import Decision, DenoisingStep

POTENTIALS = ("max", "difference")


class FeynmanKac(Panel):
    r"""Resamples each prompt's particles while they are denoised (arXiv 2501.06848).

    .. math:: i' \sim \mathrm{Multinomial}(w), \quad w_i \propto \prod_t G_t^{(i)}, \quad
        G_t = e^{\lambda (r_t - r_{t+1})} \;\text{(difference)} \quad\text{or}\quad
        e^{\lambda \max_{s \ge t} r_s} \;\text{(max)}

    ``r_t`` is the evaluators' combined score of a particle among those of its prompt, at the pipeline's own guidance
    scale; what is the same for all of them cancels in the weights. The last step is always one of resampling, and there
    `max` divides by what it used before, so that both end with ``exp(λ r_0)``. A group is resampled only where its
    effective sample size ``1 / Σ w²`` is below ``threshold · particles``; until then its weights multiply up.

    Copies part only where the scheduler adds noise (DDPM, Euler ancestral, DDIM with ``eta > 0``); with another they
    stay copies. A particle whose score is not finite is not copied.

    Example::

        with guide(pipe, FeynmanKac([clip], particles=4)):
            images = pipe("two red circles", num_images_per_prompt=4).images

    Args:
        evaluators, weights: as of `GreedySearch`, at least one evaluator.
        particles: images of each prompt, at least 2; the batch is one group of neighbouring rows for each prompt, as
            `num_images_per_prompt` makes it.
        strength: λ, above 0. A calibrated evaluator's scores are in units of its spread over the *scales* of one
            latent, of which particles from different noise lie several apart; another's in units of its spread over
            particles.
        potential: one of `POTENTIALS`.
        start, stop: the stretch of the steps in which to resample, ``0 <= start < stop <= 1``.
        every: resample at every n-th of them.
        threshold: above ``1 / particles``, at most 1.
        seed: of the resampling, which draws from no other generator.

    Raises:
        ValueError, TypeError: an argument outside what is said here.
    """

    def __init__(
        self,
        evaluators: Sequence[Evaluator | Callable],
        particles: int,
        strength: float = 2.0,
        potential: str = "max",
        weights: Mapping[str, float] | None = None,
        start: float = 0.0,
        stop: float = 1.0,
        every: int = 1,
        threshold: float = 0.8,
        seed: int = 0,
    ) -> None:
        super().__init__(evaluators, weights)
        if not self.evaluators:
            raise ValueError("`evaluators` is empty: particles are told apart by at least one evaluator.")
        if not isinstance(particles, int) or particles < 2:
            raise ValueError(f"`particles` must be an integer of at least 2, got {particles!r}.")
        if check_scale("strength", strength) == 0:
            raise ValueError("`strength` must be above 0.")
        if potential not in POTENTIALS:
            raise ValueError(f"`potential` must be one of {POTENTIALS}, got {potential!r}.")
        check_window(start, stop)
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"`every` must be an integer of at least 1, got {every!r}.")
        if not 1 / particles < threshold <= 1:  # the effective sample size is at least 1
            raise ValueError(f"`threshold` must be above 1 / particles and at most 1, got {threshold!r}.")
        self.particles, self.strength, self.potential = particles, float(strength), potential
        self.start, self.stop, self.every, self.threshold, self.seed = start, stop, every, threshold, seed

    def check(self, sample: torch.Tensor, prompt: Sequence[str] | None) -> None:
        """As `Panel.check`; ValueError also where the batch is not made of groups of `particles` with one prompt."""
        size = self.particles
        one_prompt = prompt is None or all(len(set(prompt[i : i + size])) == 1 for i in range(0, len(sample), size))
        if len(sample) % size or not one_prompt:
            raise ValueError(
                f"`particles` is {size}, and the {len(sample)} images are not that many of each prompt: pass "
                f"`num_images_per_prompt={size}`."
            )
        super().check(sample, prompt)

    def decide(self, step: DenoisingStep) -> Decision:
        """The pipeline's own prediction, and the rows ``(batch,)`` that go on."""
        shape = (len(step.sample) // self.particles, self.particles)
        if step.index == step.start_index:
            self.generator = torch.Generator().manual_seed(self.seed)
            # Of every particle: the logarithm of its weight since the last resampling and of all its potentials, and
            # the reward that the next potential is made from.
            self.log_weight, self.log_spent = torch.zeros(2, *shape, device=step.sample.device)
            self.reward = torch.full(shape, 0.0 if self.potential == "difference" else -math.inf).to(step.sample.device)
        last = step.index == step.num_steps - 1
        if not last and (step.since(self.start) % self.every or not self.start <= step.progress <= self.stop):
            return Decision(None, {})
        reward, record = self.ask(
            lambda space: step.candidates((step.own_scale,), space).squeeze(1).unflatten(0, shape),
            step.noise_level,
            step.prompt and step.prompt[:: self.particles],
            step.timestep,
        )
        if not any(record["weights"].values()):  # nobody can tell
            return Decision(None, {})
        rows = self.resample(reward, last)
        return Decision(None, {"reward": reward.flatten(), "rows": rows}, rows=rows)

    def resample(self, reward: torch.Tensor, last: bool) -> torch.Tensor:
        """Weighs particles by their `reward` ``(groups, particles)`` and draws the rows ``(batch,)`` that go on."""
        known = reward.isfinite()
        if self.potential == "difference":
            log_potential = self.strength * (reward - self.reward)
            self.reward = torch.where(known, reward, self.reward)
        else:
            self.reward = torch.where(known, torch.maximum(reward, self.reward), self.reward)
            log_potential = self.strength * reward - self.log_spent if last else self.strength * self.reward
        self.log_spent = torch.where(known, self.log_spent + log_potential, self.log_spent)
        self.log_weight = torch.where(known, self.log_weight + log_potential, -math.inf)
        hopeless = self.log_weight.isinf().all(1, keepdim=True)
        self.log_weight = self.log_weight.masked_fill(hopeless, 0.0)

        weight = self.log_weight.softmax(1)
        rows = torch.arange(weight.numel(), device=weight.device).view_as(weight)
        # Drawn on the CPU: the same on every device.
        drawn = torch.multinomial(weight.cpu(), self.particles, replacement=True, generator=self.generator)
        size = 1 / weight.square().sum(1, keepdim=True)
        uneven = size < (1 - 1e-5) * self.threshold * self.particles  # rounding is no reason to resample
        rows = torch.where(uneven, rows[:, :1] + drawn.to(rows.device), rows).flatten()
        self.log_weight = self.log_weight.masked_fill(uneven, 0.0)
        self.reward, self.log_spent = (x.flatten()[rows].view_as(weight) for x in (self.reward, self.log_spent))
        return rows
