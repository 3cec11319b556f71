"""The search over what the sampler draws: which noise a step adds decides more of a picture than its scale."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from evaluators.base import Evaluator

from .panel import Panel, preferred
from .search import SCALES, GreedySearch
from .step import Decision, DenoisingStep

DETERMINISTIC = (
    "`scheduler` {} adds no noise at this step that its generator decides, so there are no draws to choose among: pass "
    "`eta=1.0` with DDIM, take a scheduler that draws at every step, or call `pipelines.make_stochastic`."
)


class NoiseSearch(GreedySearch):
    r"""Searches the noise that a stochastic sampler adds at each step, and then, if asked to, the guidance scale.

    .. math:: z_t = \arg\max_{z \in \{z_1 \dots z_N\}} \sum_e w_e(t) \, z_e(x_{t-1}(s_0, z)), \quad
        s_t = \arg\max_{s \in S} \sum_e w_e(t) \, z_e(x_{t-1}(s, z_t)), \quad
        x_{t-1}(s, z) = \mathrm{step}(u + s (c - u), z)

    Choosing among a step's draws by a value function is SVDD (arXiv 2408.08252), here at temperature 0. Evaluators that
    read noisy latents are the value function, so that the denoiser runs as often as without the search; only they are
    asked about draws, for predictions of the clean latents are the same for all.

    The scheduler must draw noise at every step: DDIM with ``eta > 0``, DDPM, Euler ancestral, LCM, SDE-DPM-Solver++.
    The seeds of the draws come from the `generator` that the pipeline passes to its scheduler, so that a picture can be
    made again; where it passes none (SD3, FLUX), from PyTorch's global one, as the scheduler's own draws do.

    Example::

        pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
        with guide(pipe, NoiseSearch([clip, discriminator])):
            image = pipe("two red circles").images[0]

    Args:
        evaluators, weights, start, stop, every, pull: as of `GreedySearch`, at least one evaluator. A step that is not
            searched adds the noise that the pipeline itself would.
        scales: candidate guidance scales as of `GreedySearch`; `None` leaves the pipeline's own ``s_0``. Where that is
            none of theirs, below the least or above the largest, draws are compared at the one next to it. A single
            one is static guidance.
        noises: draws at each searched step, at least 2.

    Raises:
        ValueError, TypeError: an argument outside what is said here; and from the first step, a scheduler that adds no
            noise.
    """

    def __init__(
        self,
        evaluators: Sequence[Evaluator | Callable],
        scales: Sequence[float] | None = None,
        noises: int = 8,
        weights: Mapping[str, float] | None = None,
        start: float = 0.0,
        stop: float = 1.0,
        every: int = 1,
        pull: float = 0.0,
    ) -> None:
        super().__init__(evaluators, SCALES if scales is None else scales, weights, start, stop, every, pull=pull)
        self.scales = () if scales is None else self.scales
        if not self.of_noise.evaluators:
            raise ValueError("`evaluators` has none that reads noisy latents: only these tell draws apart.")
        if not isinstance(noises, int) or noises < 2:
            raise ValueError(f"`noises` must be an integer of at least 2, got {noises!r}.")
        self.noises = noises

    @property
    def of_noise(self) -> Panel:
        """The evaluators that tell draws apart."""
        noisy = {name: evaluator for name, evaluator in self.evaluators.items() if evaluator.space == "noisy"}
        return Panel(list(noisy.values()), {name: weight for name, weight in self.weights.items() if name in noisy})

    def decide(self, step: DenoisingStep) -> Decision:
        """The scale of every row ``(batch,)``, if there are any to choose from, and the generators of its noise. In the
        record, ``noise`` ``(batch,)`` is the number of the draw that was chosen, ``noise_scores`` and ``noise_total``
        what was said of all of them, where draws differ; the rest is of the scales, with that draw."""
        if (unsearched := self.unsearched(step)) is not None:
            return Decision(*unsearched)
        if not any(map(step.due, self.of_noise.evaluators.values())):
            return Decision(step.previous, {})
        if "generator" not in inspect.signature(type(step.scheduler).step).parameters:
            raise ValueError(DETERMINISTIC.format(type(step.scheduler).__name__))
        scale = min(max(step.own_scale, min(self.scales)), max(self.scales)) if self.scales else step.own_scale
        chosen, told = self.choose(draws(step, self.noises), scale, step)
        if len(self.scales) < 2:
            return Decision(step.full(scale) if self.scales else None, told, generator=chosen)
        about = step.noise_level, step.prompt, step.timestep, step.due, step.alive
        total, asked = self.ask(lambda space: step.candidates(self.scales, space, [chosen], step.alive), *about)
        return Decision(self.scale_of(total, step), told | asked, generator=chosen)

    def choose(
        self, generators: list[list[torch.Generator]], scale: float, step: DenoisingStep
    ) -> tuple[list[torch.Generator], dict[str, Any]]:
        """The generator of each row, of those in `generators`, and how that came about. At a last step that adds no
        noise, as that of most samplers, nobody is asked."""
        found = step.candidates([scale], "noisy", generators, step.alive)
        if torch.equal(found[:, 0], found[:, -1]):
            if step.index < step.num_steps - 1:
                raise ValueError(DETERMINISTIC.format(type(step.scheduler).__name__))
            return generators[0], {}
        about = step.noise_level, step.prompt, step.timestep, step.due, step.alive
        total, told = self.of_noise.ask(lambda space: found, *about)
        noise = preferred(total)
        told |= {"noise": noise, "noise_scores": told.pop("scores"), "noise_total": told.pop("total")}
        return [generators[k][i] for i, k in enumerate(noise.tolist())], told


def draws(step: DenoisingStep, noises: int) -> list[list[torch.Generator]]:
    """`noises` lists of one generator for each row, seeded from the pipeline's own and where that is; where there is
    none, where the latents are."""
    given, rows = step.step_kwargs.get("generator"), len(step.sample)
    if isinstance(given, list):
        devices = [stream.device for stream in given]
        columns = [_seeds(stream, noises) for stream in given]
        table = [list(row) for row in zip(*columns, strict=True)]
    else:
        devices = [step.sample.device if given is None else given.device] * rows
        flat = _seeds(given, noises * rows)
        table = [flat[first : first + rows] for first in range(0, len(flat), rows)]
    return [[torch.Generator(d).manual_seed(seed) for d, seed in zip(devices, row, strict=True)] for row in table]


def _seeds(stream: torch.Generator | None, count: int) -> list[int]:
    """Of `stream`, or of PyTorch's global one; read at once, for a GPU is waited for."""
    device = torch.device("cpu") if stream is None else stream.device
    return torch.randint(2**62, (count,), generator=stream, device=device).tolist()
