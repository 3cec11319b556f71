"""Guidance on a budget: unconditional passes that would change little are left out."""

from collections.abc import Sequence

import torch

from .feynman_kac import FeynmanKac
from .schedules import check_scale
from .step import Decision, DenoisingStep, Guidance


class Budget:
    r"""Any guidance, with fewer passes of the denoiser; each row saves its own.

    A pass that would have agreed with what is known already is not made. At every step that has both passes it is
    measured how far the clean prediction would have been off without the unconditional one:

    .. math:: e = |s - 1| \, \frac{\| x_0(u) - x_0(c - d) \|}{\| x_0(u + s (c - u)) \|}

    with ``d`` the direction ``c - u`` of the last step that had both. Where that is at most `tolerance` the next steps
    leave the pass out and go on with ``d``, whatever scale is chosen along it, until a `recheck` or until the scale is
    so large that the bound no longer holds. At ``s = 1`` the error is 0: there the pass is never needed.

    With ``reuse=False``, ``d`` is 0 instead, so that rows without the pass are not guided at all: this, with
    ``recheck=None``, is the rule of Adaptive Guidance (arXiv 2312.12487), which measures by the cosine of c and u.

    Example::

        with guide(pipe, Budget(GreedySearch([clip]))) as traces:
            image = pipe("two red circles").images[0]
        print(traces[-1].nfe)  # at most 2 for every step

    Args:
        guidance: a `GreedySearch`, a `Schedule` or anything else that decides on scales.
        tolerance: at least 0; 0 leaves out only what the scale 1 makes needless.
        reuse: whether to go on with the last direction or without guidance.
        recheck: a pass at least at every n-th step, at least 2; `None` for never again.

    Raises:
        ValueError, TypeError: an argument outside what is said here.
    """

    def __init__(self, guidance: Guidance, tolerance: float = 0.2, reuse: bool = True, recheck: int | None = 6) -> None:
        if not hasattr(guidance, "decide"):
            raise TypeError(f"`guidance` must be a GreedySearch or a Schedule, got {type(guidance).__name__}.")
        if isinstance(guidance, FeynmanKac):
            raise TypeError("`guidance` must leave rows in their places, and FeynmanKac does not.")
        check_scale("tolerance", tolerance)
        if recheck is not None and (not isinstance(recheck, int) or recheck < 2):
            raise ValueError(f"`recheck` must be None or an integer of at least 2, got {recheck!r}.")
        self.guidance, self.tolerance, self.reuse, self.recheck = guidance, tolerance, reuse, recheck
        self.scales, self.noises = getattr(guidance, "scales", ()), getattr(guidance, "noises", 1)

    def check(self, sample: torch.Tensor, prompt: Sequence[str] | None) -> None:
        """As of the guidance inside."""
        if hasattr(self.guidance, "check"):
            self.guidance.check(sample, prompt)

    def decide(self, step: DenoisingStep) -> Decision:
        """What the guidance inside decides, and the rows that need no unconditional pass next."""
        decision = Decision(*self.guidance.decide(step))
        scale = step.full(step.own_scale) if decision.scale is None else decision.scale
        skipped = step.full(0.0).bool() if step.skipped is None else step.skipped
        if step.index == step.start_index:
            self.off, self.rested = step.full(0.0), step.full(0.0)
        if not self.reuse and step.skipped is not None:
            scale = torch.where(skipped, step.formula.unguided, scale)
            decision = decision._replace(scale=scale, prediction=None)
        self.off = torch.where(skipped, self.off, self.off_by(step, scale))
        self.rested = torch.where(skipped, self.rested + 1, 0.0)
        skip = (scale - step.formula.unguided).abs() * self.off <= self.tolerance
        if self.recheck is not None:
            skip &= self.rested < self.recheck - 1
        return decision._replace(skip=skip if decision.skip is None else skip | decision.skip)

    def off_by(self, step: DenoisingStep, scale: torch.Tensor) -> torch.Tensor:
        """The error ``e / |s - 1|`` of each row ``(batch,)``."""
        known = step.direction if self.reuse and step.direction is not None else torch.zeros_like(step.pred_cond)
        x0 = step.denoised
        norm = lambda x: x.flatten(1).float().norm(dim=1)  # noqa: E731
        difference = x0(step.pred_uncond) - x0(step.pred_cond - known)
        return norm(difference) / norm(x0(step.guided(scale))).clamp_min(1e-12)
