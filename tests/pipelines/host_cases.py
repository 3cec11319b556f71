"""Every pipeline class that has a dynamic one, how it is called, and searches to call it with."""

from dataclasses import dataclass, field

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

import pipelines
from guidance import GreedySearch

PROMPTS = ["two red circles", "a blue star"]
OWN, CHOSEN = 3.0, 6.0
HOSTS = ("sd", "sdxl", "sd3", "flux")
EMBEDS = {
    "sd": ("prompt_embeds", "negative_prompt_embeds"),
    "sdxl": ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"),
    "sd3": ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"),
    "flux": ("prompt_embeds", "pooled_prompt_embeds"),
}


def picture(mode="RGB"):
    shape = (16, 16, 3) if mode == "RGB" else (16, 16)
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8), mode)


@dataclass
class Case:
    """A pipeline class and how its tests call it."""

    host: str
    name: str
    extra: dict = field(default_factory=dict)

    @property
    def channels(self):
        return 16 if self.host == "sd3" else 4

    def stock(self, stock, **components):
        """An instance of the diffusers class around the shared models, with a scheduler of its own."""
        parts = stock(self.host).components
        scheduler = type(parts["scheduler"]).from_config(parts["scheduler"].config)
        options = {"requires_safety_checker": False} if self.host == "sd" else {}
        pipe = getattr(diffusers, self.name)(**{**parts, "scheduler": scheduler, **components}, **options)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def dynamic(self, folder):
        pipe = getattr(pipelines, f"DynamicGuidance{self.name}").from_pretrained(folder(self.host))
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def __call__(self, pipe, scale=OWN, **kwargs):
        prompt = None if "prompt_embeds" in kwargs else PROMPTS
        arguments = {"prompt": prompt, "num_inference_steps": 4, "output_type": "np", **self.extra}
        if "generator" not in kwargs and "latents" not in kwargs:
            arguments["generator"] = torch.Generator().manual_seed(0)
        if self.host == "flux":
            arguments |= {"true_cfg_scale": scale}
            if "negative_prompt_embeds" not in kwargs:
                arguments["negative_prompt"] = [""] * len(kwargs.get("prompt", PROMPTS))
        else:
            arguments["guidance_scale"] = scale
        return pipe(**arguments | kwargs)


def text_to_image(host):
    names = {"sd": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"}
    names |= {"sd3": "StableDiffusion3Pipeline", "flux": "FluxPipeline"}
    return Case(host, names[host], {"height": 16, "width": 16})


def cases():
    for host in HOSTS:
        case = text_to_image(host)
        image = {"image": [picture()] * 2, "strength": 0.75} | ({} if host in ("sd", "sdxl") else case.extra)
        mask = {"mask_image": picture("L"), "height": 16, "width": 16}
        yield case
        yield Case(host, case.name.replace("Pipeline", "Img2ImgPipeline"), image)
        yield Case(host, case.name.replace("Pipeline", "InpaintPipeline"), image | mask)


ALL = {case.name: case for case in cases()}
every_class = pytest.mark.parametrize("case", ALL.values(), ids=list(ALL))
every_host = pytest.mark.parametrize("case", [text_to_image(host) for host in HOSTS], ids=HOSTS)


def only(scale=CHOSEN, **kwargs):
    """A search over a single scale: static guidance."""
    return GreedySearch([], scales=[scale], **kwargs)


class Capricious:
    """Scores are a hash of the candidate, so that the choice changes with every sample and step. Keeps what it saw."""

    name, space, needs_prompt, in_channels, calibration = "capricious", "noisy", True, None, None

    def __init__(self):
        self.seen = []

    def __call__(self, candidates, context):
        self.seen.append((tuple(candidates.shape), context))
        return torch.frac(candidates.flatten(2).double().sum(2).abs() * 1e3)

    @property
    def prompts(self):
        return {tuple(context.prompt) for _, context in self.seen}


def search(evaluator=None, scales=(1.0, 4.0, 8.0), **kwargs):
    return GreedySearch([evaluator or Capricious()], scales=scales, **kwargs)
