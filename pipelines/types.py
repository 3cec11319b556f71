"""Types of hosts, for type checkers. Nothing is an instance of them."""

from typing import Any

from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from guidance.schedulers import Scheduler


class Pipeline(DiffusionPipeline):
    """A pipeline that samples: what `DiffusionPipeline` leaves to its subclasses to declare."""

    scheduler: Scheduler
    vae_scale_factor: int

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...
