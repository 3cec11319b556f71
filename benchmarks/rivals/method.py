"""One way of making an image, as benchmarks compare them."""

from dataclasses import dataclass, field
from typing import Any

from pipelines.successive_halving import image_steps

from .model import Sampler

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
        options: what else the pipeline is called with; of a sampler only which kind of sampler it is.
        rungs: after which shares of them the worse half of the n is dropped (`successive_halving`); `None` for none.
        sampler: what makes the image in the place of the pipeline and its guidance, whose n is 1.
        asked: whether the embedded vision-language model chooses among finished images, in the evaluators' place.
    """

    guidance: Any = None
    n: int = 1
    best: bool = False
    steps: int = STEPS
    options: dict[str, Any] = field(default_factory=dict)
    rungs: tuple[float, ...] | None = None
    sampler: Sampler | None = None
    asked: bool = False

    @property
    def passes(self) -> int:
        """Of the denoiser, for each image that is kept: at most so many."""
        if self.sampler is not None:
            return self.sampler.passes(self.steps)
        return 2 * image_steps(self.n, self.rungs or (), self.steps)


def named(*parts: Any) -> str:
    """The name of a method: its family and what is particular about it."""
    return ":".join(f"{p:g}" if isinstance(p, float) else str(p) for p in parts)
