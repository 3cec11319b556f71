"""Beam search over scales: what the greedy search costs itself by never looking back."""

from collections.abc import Callable, Mapping, Sequence

import torch

from evaluators.base import Evaluator

from .search import SCALES, GreedySearch
from .step import Decision, DenoisingStep


class BeamSearch(GreedySearch):
    """Keeps the `width` best paths of each image instead of one.

    A path is a row of the batch. At a searched step every row has its candidates, and the best of all the candidates of
    a group are its rows from there on, the best first; at the first searched step all come from the group's first row.
    A width of 1 is the greedy search. The price is `width` times the denoiser's passes: `GuidanceTrace.nfe` has those
    of a row, an image costs those of its group.

    Example::

        with guide(pipe, BeamSearch([clip], width=3)):
            best = pipe("two red circles", num_images_per_prompt=3).images[::3]

    Args:
        evaluators, scales, weights, start, stop, every: as of `GreedySearch`.
        width: at least 1 and at most as many as `scales`; the batch is one group of neighbouring rows for each image.

    Raises:
        ValueError, TypeError: an argument outside what is said here.
    """

    def __init__(
        self,
        evaluators: Sequence[Evaluator | Callable],
        width: int,
        scales: Sequence[float] = SCALES,
        weights: Mapping[str, float] | None = None,
        start: float = 0.0,
        stop: float = 1.0,
        every: int = 1,
    ) -> None:
        super().__init__(evaluators, scales, weights, start, stop, every)
        if not isinstance(width, int) or not 1 <= width <= len(self.scales):
            raise ValueError(f"`width` must be an integer from 1 to the number of `scales`, got {width!r}.")
        self.width = width

    def check(self, sample: torch.Tensor, prompt: Sequence[str] | None) -> None:
        """As `Panel.check`; ValueError also where the batch is not made of groups of `width` with one prompt."""
        self.check_groups("width", self.width, sample, prompt)

    def decide(self, step: DenoisingStep) -> Decision:
        """The scale of every row ``(batch,)`` and the row that it goes on from."""
        if step.index == step.start_index:
            self.branched = False
        if (unsearched := self.unsearched(step)) is not None:
            return Decision(*unsearched)
        groups, candidates = len(step.sample) // self.width, len(self.scales)
        total, record = self.ask(
            lambda space: step.candidates(self.scales, space).unflatten(0, (groups, self.width)).flatten(1, 2),
            step.noise_level,
            step.prompt and step.prompt[:: self.width],
            step.timestep,
        )
        by_row = lambda x: x.unflatten(1, (self.width, candidates)).flatten(0, 1)  # noqa: E731
        record |= {"scores": {k: by_row(v) for k, v in record["scores"].items()}, "total": by_row(total)}
        if not any(record["weights"].values()):
            return Decision(None, record)
        # At first only one row: those of a group may have started from noise of their own.
        seen = total if self.branched else total[:, :candidates]
        self.branched = True
        alike, seen = (seen == seen[:, :1]).all(1), seen.nan_to_num(nan=-torch.inf)
        value, best = seen.topk(self.width, dim=1)
        best = torch.where(value.isinf(), best[:, :1], best)  # fewer than `width` could be scored
        own = torch.arange(len(step.sample), device=total.device)
        parents = (own[:: self.width, None] + best // candidates).flatten()
        scale = torch.tensor(self.scales, device=total.device)[best % candidates].flatten()
        blind = (alike | value[:, 0].isinf()).repeat_interleave(self.width)  # nothing can be told, as in the search
        parents, scale = torch.where(blind, own, parents), torch.where(blind, step.own_scale, scale)
        return Decision(scale, record | {"parents": parents}, parents=parents)
