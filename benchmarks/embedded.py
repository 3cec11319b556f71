"""The embedded model as benchmarks sample it."""

import diffusers
import torch
from diffusers import DDIMScheduler

import tinyworld
from pipelines import TinyWorldPipeline
from tinyworld.pipeline import scale_search
from training.quick import quicken


def load() -> TinyWorldPipeline:
    """With DDIM, which draws noise where a method asks for it, and with the search over scales, on which methods are
    built."""
    folder = tinyworld.WEIGHTS / "text_to_image"
    scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
    pipe = TinyWorldPipeline.from_pretrained(folder, scheduler=scheduler)
    pipe.guidance = scale_search(list(pipe.guidance.evaluators.values()))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def prepare(pipe: TinyWorldPipeline, compile: bool) -> None:
    """Makes `pipe` as fast as ``--compile`` says, and diffusers quiet."""
    if compile:
        quicken(pipe)
    else:
        for module in (pipe.unet, pipe.vae):
            module.to(memory_format=torch.channels_last)  # a sixth faster on a CPU
    diffusers.utils.logging.set_verbosity_error()  # every guider warns that guiders are new
