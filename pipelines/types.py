"""Types of hosts, for type checkers. Nothing is an instance of them."""

from collections.abc import Callable
from typing import Any

from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from guidance.schedulers import Scheduler


class Pipeline(DiffusionPipeline):
    """A pipeline that samples: what `DiffusionPipeline` leaves to its subclasses to declare."""

    scheduler: Scheduler
    vae_scale_factor: int
    __call__: Callable[..., Any]
