"""A sampler of your own, where there is no diffusers scheduler: a step function and its noise levels."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

PREDICTIONS = ("epsilon", "v_prediction", "flow_prediction", "sample")


class PlainScheduler:
    """What `GuidedSampling` needs of a scheduler, made from a function.

    Example::

        sigmas = torch.linspace(1, 0, 31).tolist()
        euler = PlainScheduler(lambda velocity, i, x: x + (sigmas[i + 1] - sigmas[i]) * velocity, range(30),
                               [(1 - s, s) for s in sigmas], "flow_prediction")
        sampling = GuidedSampling(search, euler, prompt=["a fox"])

    Args:
        step: ``(prediction, timestep, latents) -> latents`` of the next step, without a memory of the steps before.
        timesteps: what `step` is called with, one for each step.
        noise_schedule: ``(alpha, sigma)`` with ``latents = alpha · x0 + sigma · noise``, before each step and after the
            last: one more than `timesteps`.
        prediction_type: one of `PREDICTIONS`: the noise; ``alpha · noise - sigma · x0``; ``noise - x0``; x0.
        affine: whether `step` is affine in the prediction, so that two calls give the candidates of every scale.

    Raises:
        ValueError: an argument outside what is said here.
    """

    def __init__(
        self,
        step: Callable[[torch.Tensor, Any, torch.Tensor], torch.Tensor],
        timesteps: Sequence[float],
        noise_schedule: Sequence[tuple[float, float]],
        prediction_type: str = "epsilon",
        affine: bool = True,
    ) -> None:
        if prediction_type not in PREDICTIONS:
            raise ValueError(f"`prediction_type` must be one of {PREDICTIONS}, got {prediction_type!r}.")
        if len(noise_schedule) != len(timesteps) + 1:
            raise ValueError(
                f"`noise_schedule` must be one longer than `timesteps`, got {len(noise_schedule)} and {len(timesteps)}."
            )
        self.function, self.affine = step, affine
        self.timesteps = torch.as_tensor(list(timesteps))
        self.noise_schedule = [(float(alpha), float(sigma)) for alpha, sigma in noise_schedule]
        self.config = {"prediction_type": prediction_type}

    def step(
        self, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, return_dict: bool = False
    ) -> tuple[torch.Tensor]:
        """The next latents, in a tuple as schedulers do."""
        return (self.function(model_output, timestep, sample),)
