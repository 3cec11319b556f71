"""One way of making an image, as benchmarks compare them."""

from dataclasses import dataclass, field
from typing import Any

STEPS = 20
ANCESTRAL = {"eta": 1.0}  # DDIM that draws noise at every step


@dataclass(frozen=True)
class Method:
    """How an image is made.

    Attributes:
        guidance: what `pipelines.guide` takes.
        n: images that are made for each one kept.
        best: whether the evaluators keep the best of the n; the first otherwise.
        steps: denoising steps.
        options: what else the pipeline is called with.
    """

    guidance: Any
    n: int = 1
    best: bool = False
    steps: int = STEPS
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def passes(self) -> int:
        """Of the denoiser, for each image that is kept: at most so many."""
        return 2 * self.n * self.steps
