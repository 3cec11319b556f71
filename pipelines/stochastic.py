"""Samplers that draw noise at each step, which a search over draws needs."""

import inspect
from typing import Any

DRAWING = ("Ancestral", "SDE", "DDPM", "LCM", "TCD")  # in the names of those that draw already


def make_stochastic(pipe: Any) -> dict[str, Any]:
    """Lets the sampler of a diffusers pipeline draw noise at each step, where it is known how: DDIM by ``eta``, flow
    matching by ``stochastic_sampling``, others by `EulerAncestralDiscreteScheduler` in their place, if it is of their
    kind.

    Returns:
        What the pipeline's call takes for it besides.
    """
    from diffusers import DDIMScheduler, EulerAncestralDiscreteScheduler, FlowMatchEulerDiscreteScheduler

    scheduler: Any = pipe.scheduler
    config: Any = scheduler.config
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        if "stochastic_sampling" in config and not config.get("invert_sigmas"):
            pipe.scheduler = type(scheduler).from_config(config, stochastic_sampling=True)
    elif isinstance(scheduler, DDIMScheduler):
        if "eta" in inspect.signature(pipe.__call__).parameters:
            return {"eta": 1.0}
    elif any(word in type(scheduler).__name__ for word in DRAWING):
        pass  # it draws already
    elif EulerAncestralDiscreteScheduler in getattr(scheduler, "compatibles", ()):
        pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(config)
    return {}
