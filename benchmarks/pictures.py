"""Pictures of prompts by a method, judged, and kept in a folder as long as nothing that they depend on has changed."""

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tinyworld
from evaluators import Evaluator
from guidance import GreedySearch, Guider, Schedule
from pipelines import TinyWorldPipeline, best_of, successive_halving
from tinyworld.asking import embedded_judge
from tinyworld.judge import judge
from training.vae import encode

from .provenance import weights_digest
from .rivals import Method
from .rivals.model import Model

BATCH = {"cpu": 32, "cuda": 256}  # pictures made together; a GPU waits for the launches of smaller ones


@functools.cache
def asked(device: torch.device) -> Evaluator:
    """The one whom methods ask."""
    return embedded_judge().to(device)


def run(
    pipe: TinyWorldPipeline,
    method: Method,
    prompts: Sequence[str],
    seeds: Sequence[int],
    folder: Path | None = None,
    bar: Any = None,
) -> dict[str, np.ndarray]:
    """An image per prompt and seed, in prompt-major order; batches are kept in `folder` and read from there as long as
    nothing that they depend on has changed, the code apart. `bar` (tqdm) is told the passes that were made.

    Returns:
        Per image ``correct``, ``score``, ``nfe``, ``scale`` and ``timestep`` ``(images, steps)``, the uint8 ``images``
        ``(images, 64, 64, 3)``, and what the VAE makes of them, ``latents`` ``(images, 4, 16, 16)``.
    """
    parts = []
    for batch, file in batches(pipe, method, prompts, seeds, folder):
        new = file is None or not file.exists()
        parts.append(finished(file, lambda batch=batch: make(pipe, method, batch)))
        if new and bar is not None:
            bar.update(method.passes * len(batch))
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def batch_size(pipe: TinyWorldPipeline) -> int:
    """Of pictures that `pipe` makes together."""
    return BATCH.get(pipe.device.type, BATCH["cpu"])


def batches(
    pipe: TinyWorldPipeline, method: Method, prompts: Sequence[str], seeds: Sequence[int], folder: Path | None
) -> Iterator[tuple[list[tuple[str, int]], Path | None]]:
    """The batches of `run`, prompts and seeds of their noise, and where each is kept."""
    rows = [(prompt, seed * 1_000_003 + i) for i, prompt in enumerate(prompts) for seed in seeds]
    size = max(1, batch_size(pipe) // method.n)
    for start in range(0, len(rows), size):
        batch = rows[start : start + size]
        yield batch, None if folder is None else folder / f"{depends(pipe, method, batch)}.npz"


def pending(
    pipe: TinyWorldPipeline, method: Method, prompts: Sequence[str], seeds: Sequence[int], folder: Path | None
) -> int:
    """The passes of the denoiser that `run` has still to make."""
    found = batches(pipe, method, prompts, seeds, folder)
    return sum(method.passes * len(batch) for batch, file in found if file is None or not file.exists())


def depends(pipe: TinyWorldPipeline, method: Method, rows: Sequence[tuple[str, int]]) -> str:
    """A digest of everything but a method's name, which says what is special about its guidance, and the code."""
    names = {"text_to_image"}
    values = [method.n, method.best, method.steps, method.options, rows]
    values += [] if method.rungs is None else [method.rungs]
    values += [] if method.sampler is None else [repr(method.sampler)]
    values += [] if not hasattr(method.guidance, "digest") else [method.guidance.digest]
    if method.best or not isinstance(method.guidance, (Schedule, Guider)):
        names |= {*pipe.guidance.evaluators, *getattr(method.guidance, "evaluators", ())}
        values.append(settings(pipe))
    if method.asked:
        names.add("lvlm")
        values.append("asked")
    values.append({name: weights_digest(tinyworld.WEIGHTS / name) for name in sorted(names)})
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


@torch.no_grad()
def make(
    pipe: TinyWorldPipeline,
    method: Method,
    rows: Sequence[tuple[str, int]],
    evaluators: Sequence[Evaluator] | None = None,
    final: Sequence[Evaluator] | None = None,
) -> dict[str, np.ndarray]:
    """One batch of `run`: prompts and the seeds of their noise. The first of a method's n images has the noise that
    those of other methods have. `evaluators` keep the best of them, by default those of the pipeline's search; where
    pictures are dropped on the way, `final` choose among finished ones in their place."""
    search: GreedySearch = pipe.guidance
    if method.asked:
        who = [asked(pipe.device)]
        evaluators, final = (evaluators, who) if method.rungs else (who, None)
    panel = list(search.evaluators.values()) if evaluators is None else list(evaluators)
    weights = {name: weight for name, weight in search.weights.items() if name in [e.name for e in panel]}
    texts, n = [text for text, _ in rows], method.n
    generators = [torch.Generator().manual_seed(seed + 500_009 * k) for _, seed in rows for k in range(n)]
    call = {
        "num_inference_steps": method.steps,
        "generator": generators,
        "guidance": method.guidance,
        "output_type": "latent",
    } | method.options
    kept, dropped = torch.arange(len(rows)) * n, method.rungs is not None
    if method.sampler is not None:
        model = Model(pipe, texts, generators, method.steps)
        sampled = method.sampler(model)
        latents, scales, nfe, timesteps = sampled.latents, sampled.scale, model.passes, model.timesteps.tolist()
    else:
        if method.best:
            halve = partial(successive_halving, rungs=method.rungs, final_evaluators=final)
            keep = halve if dropped else best_of
            best = keep(pipe, texts, n, panel, weights, **call)
            latents, kept = best.images, kept + best.chosen
        else:
            latents = pipe(texts, num_images_per_prompt=n, **call).images[::n]
        trace = pipe.guidance_trace  # which knows nothing of what was dropped
        nfe = torch.full((len(rows),), best.nfe) if dropped else trace.nfe.view(-1, n).sum(1)
        scales = torch.stack([trace.sample(int(row)).scales[:, 0] for row in kept])
        timesteps = [step["timestep"] for step in trace.steps]
    pixels = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample.cpu()
    images = ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    verdicts = [judge(image, text) for image, text in zip(images, texts, strict=True)]
    return {
        "correct": np.array([int(v.correct) for v in verdicts]),
        "score": np.array([v.score for v in verdicts]),
        "nfe": nfe.numpy(),
        "scale": scales.cpu().numpy(),
        "timestep": np.tile(timesteps, (len(rows), 1)),
        "images": images,
        "latents": encode(pipe.vae, images).numpy(),
    }


def finished(file: Path | None, make: Callable[[], dict[str, Any]]) -> dict[str, np.ndarray]:
    """What `make` returns, kept in (and read from) `file`."""
    if file is None:
        return make()
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".tmp.npz")
        np.savez(partial, **make())
        partial.rename(file)
    with np.load(file) as stored:
        return {key: stored[key] for key in stored.files}


def settings(pipe: TinyWorldPipeline) -> dict[str, Any]:
    """The search, as JSON."""
    search = pipe.guidance
    values = {k: v for k, v in vars(search).items() if k != "evaluators" and k[0] != "_"} | {
        "evaluators": list(search.evaluators)
    }
    calibration = {name: e.calibration and vars(e.calibration) for name, e in search.evaluators.items()}
    return json.loads(json.dumps(values | {"calibration": calibration}))


def folder(work: Path | None, *names: str) -> Path | None:
    """Where the batches of a method are kept."""
    return None if work is None else work.joinpath(*(name.replace(":", "_") for name in names))
