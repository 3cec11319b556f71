"""How long a benchmark takes, said before it begins and while it runs: passes of the denoiser take the time."""

import sys
import time
from collections.abc import Sequence
from typing import Any

from tqdm.auto import tqdm

from guidance import Static
from pipelines import TinyWorldPipeline

from . import pictures
from .rivals import Method

PROBE = 4  # steps


def progress(pipe: TinyWorldPipeline, passes: int, prompts: Sequence[str], workers: int = 0) -> Any:
    """A bar (tqdm) of so many `passes` of the denoiser, whose time at the speed of this machine is printed first, but
    not for several `workers`, of which only the bar can tell. `prompts` are what the speed is tried on."""
    if passes and not workers:
        per_second = speed(pipe, prompts)
        about = f"{passes:,} passes of the denoiser, {per_second:.0f} a second: about {duration(passes / per_second)}"
        print(about, file=sys.stderr, flush=True)
    return tqdm(total=passes, unit="passes", unit_scale=True, smoothing=0.02)


def speed(pipe: TinyWorldPipeline, prompts: Sequence[str]) -> float:
    """Passes a second of static guidance, in a whole batch; what has to be compiled is compiled before."""
    rows = [(prompts[i % len(prompts)], i) for i in range(pictures.batch_size(pipe))]
    method = Method(Static(3.0), steps=PROBE)
    pictures.make(pipe, method, rows)
    started = time.perf_counter()
    pictures.make(pipe, method, rows)
    return method.passes * len(rows) / (time.perf_counter() - started)


def duration(seconds: float) -> str:
    """In hours and minutes, rounded up to a minute."""
    hours, minutes = divmod(int(seconds // 60) + 1, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
