"""The embedded model as benchmarks sample it."""

from diffusers import DDIMScheduler

import tinyworld
from pipelines import TinyWorldPipeline
from tinyworld.pipeline import scale_search


def load() -> TinyWorldPipeline:
    """With DDIM, which draws noise where a method asks for it, and with the search over scales, on which methods are
    built."""
    folder = tinyworld.WEIGHTS / "text_to_image"
    scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
    pipe = TinyWorldPipeline.from_pretrained(folder, scheduler=scheduler)
    pipe.guidance = scale_search(list(pipe.guidance.evaluators.values()))
    pipe.set_progress_bar_config(disable=True)
    return pipe
