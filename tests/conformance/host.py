"""What the conformance tests know of a host: how to build it tiny, how to call it, and what evaluators see of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline

PROMPTS = ["two red circles", "a sign saying go"]
STEPS = 6


@dataclass(frozen=True)
class Host:
    """A diffusers pipeline at a tiny random configuration.

    Attributes:
        name: of the support table and the tests, as ``flux-kontext``.
        build: makes the pipeline; called under a fixed seed, with everything it needs made locally.
        call: keyword arguments of a call beside the scale, the number of steps, the generator and the output type, for
            the two of `PROMPTS`; a function, for it may make pictures.
        shape: of the latents of one sample as evaluators see them, ``(C, H, W)`` or, for video, ``(C, F, H, W)``.
        scale: the argument that is the pipeline's own scale of classifier-free guidance; with a dot, an attribute of
            one of its parts, as ``guider.guidance_scale``.
        output: the attribute of the pipeline's output that holds the latents.
        common: whether it is among the most used, and so in the default test run.
        note: what a reader of the support table should know, "" where nothing.
        refused: words of the message by which `guide` refuses this host, "" where it is supported.
        exact: whether the result is the stock pipeline's bit for bit; else within rounding.
        changes: whether the pipeline changes its own scale from step to step, so that a static one is something else.
    """

    name: str
    build: Callable[[], DiffusionPipeline]
    call: Callable[[], dict[str, Any]]
    shape: tuple[int, ...]
    scale: str = "guidance_scale"
    output: str = "images"
    common: bool = False
    note: str = ""
    refused: str = ""
    exact: bool = True
    changes: bool = False

    def make(self) -> DiffusionPipeline:
        """The pipeline, always the same."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            pipe = self.build()
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def run(self, pipe: DiffusionPipeline, scale: float, steps: int = STEPS, **kwargs: Any) -> torch.Tensor:
        """The latents that a call at `scale` ends with."""
        generator = [torch.Generator().manual_seed(i) for i in range(len(PROMPTS))]
        torch.manual_seed(0)  # some samplers draw from the global generator
        arguments = {"num_inference_steps": steps, "generator": generator, "output_type": "latent"}
        part, _, name = self.scale.rpartition(".")
        if part:
            setattr(getattr(pipe, part), name, scale)
        else:
            arguments[name] = scale
        # `None` where a pipeline has no such argument.
        arguments = {key: value for key, value in (arguments | self.call() | kwargs).items() if value is not None}
        with torch.no_grad():
            output = pipe(**arguments)
        return getattr(output, self.output)


HOSTS: dict[str, Host] = {}


def register(*hosts: Host) -> None:
    """Adds hosts to `HOSTS`."""
    for host in hosts:
        assert host.name not in HOSTS, host.name
        HOSTS[host.name] = host
