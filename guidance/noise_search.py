"""The search over what the sampler draws, too: which noise a step adds decides more of a picture than its scale."""

import inspect
from collections.abc import Callable, Mapping, Sequence

import torch

from evaluators.base import Evaluator

from .search import SCALES, GreedySearch
from .step import Decision, DenoisingStep

DETERMINISTIC = (
    "`scheduler` {} adds no noise here, so there are no draws to choose among: pass `eta=1.0` with DDIM, or take an "
    "ancestral scheduler."
)


class NoiseSearch(GreedySearch):
    r"""Searches the noise that a stochastic sampler adds at each step together with the guidance scale.

    .. math:: (s_t, z_t) = \arg\max_{s \in S, \, z \in \{z_1 \dots z_N\}} \sum_e w_e(t) \, z_e(x_{t-1}(s, z)), \quad
        x_{t-1}(s, z) = \mathrm{step}(u + s (c - u), z)

    Choosing among a step's draws by a value function is SVDD (arXiv 2408.08252), here at temperature 0 and together
    with the scale. Evaluators that read noisy latents are the value function, so that the denoiser runs as often as
    without the search.

    The scheduler must draw noise: DDIM with ``eta > 0``, DDPM, Euler ancestral, LCM, SDE-DPM-Solver++. The seeds of the
    draws come from the pipeline's `generator`, so that a picture can be made again.

    Example::

        pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
        with guide(pipe, NoiseSearch([clip, discriminator], noises=8)):
            image = pipe("two red circles").images[0]

    Args:
        evaluators, weights, scales, start, stop, every: as of `GreedySearch`, at least one evaluator. A step that is
            not searched adds the noise that the pipeline itself would.
        noises: draws at each searched step, at least 2; candidates are all pairs of a scale and a draw.

    Raises:
        ValueError, TypeError: an argument outside what is said here; and from the first step, a scheduler that adds no
            noise.
    """

    def __init__(
        self,
        evaluators: Sequence[Evaluator | Callable],
        scales: Sequence[float] = SCALES,
        noises: int = 8,
        weights: Mapping[str, float] | None = None,
        start: float = 0.0,
        stop: float = 1.0,
        every: int = 1,
    ) -> None:
        super().__init__(evaluators, scales, weights, start, stop, every)
        if not any(evaluator.space == "noisy" for evaluator in self.evaluators.values()):
            raise ValueError("`evaluators` has none that reads noisy latents: only these tell draws apart.")
        if not isinstance(noises, int) or noises < 2:
            raise ValueError(f"`noises` must be an integer of at least 2, got {noises!r}.")
        self.noises = noises

    def decide(self, step: DenoisingStep) -> Decision:
        """The scale of every row ``(batch,)`` and the generators of its noise. In the record, what was said of the
        scales is of the draw that was chosen, and ``noise`` ``(batch,)`` is its number."""
        if (unsearched := self.unsearched(step)) is not None:
            return Decision(*unsearched)
        if "generator" not in inspect.signature(type(step.scheduler).step).parameters:
            raise ValueError(DETERMINISTIC.format(type(step.scheduler).__name__))
        generators = draws(step, self.noises)

        def candidates(space: str) -> torch.Tensor:
            found = step.candidates(self.scales, space, generators)
            first, last = found[:, 0], found[:, -len(self.scales)]  # one scale with two draws
            if space == "noisy" and step.index < step.num_steps - 1 and torch.equal(first, last):
                raise ValueError(DETERMINISTIC.format(type(step.scheduler).__name__))
            return found

        total, record = self.ask(candidates, step.noise_level, step.prompt, step.timestep)
        best = total.nan_to_num(nan=-torch.inf).argmax(dim=1)
        noise, at = best // len(self.scales), best % len(self.scales)
        row = torch.arange(len(best), device=best.device)
        of_noise = lambda values: values.unflatten(1, (self.noises, -1))[row, noise]  # noqa: E731
        record |= {"scores": {name: of_noise(values) for name, values in record["scores"].items()}}
        record |= {"total": of_noise(total), "noise": noise}
        scale = self.scale_of(at, total, step)
        return Decision(scale, record, generator=[generators[k][i] for i, k in enumerate(noise.tolist())])


def draws(step: DenoisingStep, noises: int) -> list[list[torch.Generator]]:
    """`noises` lists of one generator for each row, seeded from the pipeline's own."""
    given, rows = step.step_kwargs.get("generator"), len(step.sample)
    streams = given if isinstance(given, list) else [given] * rows
    table = []
    for _ in range(noises):
        generators = []
        for stream in streams:
            device = torch.device("cpu") if stream is None else stream.device
            seed = int(torch.randint(2**62, (1,), generator=stream, device=device))
            generators.append(torch.Generator(device).manual_seed(seed))
        table.append(generators)
    return table
