"""How right are the pictures? Dynamic guidance against every fixed schedule, on the same prompts and the same noise.

    python -m benchmarks.quality --json [--quick] [--prompts FILE] [--work DIR] > results.json

The judge (`tinyworld.judge`, classical vision) and the Fréchet distance's classifier never take part in guidance. Fixed
schedules are swept and the best static scale is chosen *on the prompts reported*, which favours the baseline.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from evaluators import Context
from guidance import SCHEDULES, GreedySearch, Schedule
from pipelines import TinyWorldPipeline
from tinyworld import WEIGHTS
from tinyworld.captions import CATEGORIES, caption, parse_caption, sample_spec
from tinyworld.features import PixelClassifier
from tinyworld.judge import judge
from tinyworld.scenes import make_scene
from training.loop import hardware

from .provenance import commit

STATIC = (1.5, 2.0, 3.0, 4.5, 6.0, 8.0, 10.0, 13.0)
SHAPED = (3.0, 4.5, 6.0, 8.0)
BATCH = 32
STEPS = 20


def held_out_prompts(n: int, seed: int = 0) -> list[str]:
    """`n` captions of combinations that training never saw, the categories in turn."""
    rng = np.random.default_rng((seed, 20))
    return [caption(sample_spec(rng, "test", CATEGORIES[i % len(CATEGORIES)]), rng) for i in range(n)]


def methods(pipe: TinyWorldPipeline, quick: bool) -> dict[str, GreedySearch | Schedule]:
    """Every method by name, e.g. ``static:6``."""
    table: dict[str, GreedySearch | Schedule] = {"dynamic": pipe.guidance}
    for name, schedule in SCHEDULES.items():
        scales = (STATIC[1::2] if quick else STATIC) if name == "static" else (SHAPED[2:3] if quick else SHAPED)
        table |= {f"{name}:{scale:g}": schedule(scale) for scale in scales}
    return table


@torch.no_grad()
def run(
    pipe: TinyWorldPipeline, guidance: GreedySearch | Schedule, prompts: Sequence[str], seeds: Sequence[int]
) -> dict:
    """Generates an image per prompt and seed. Returns ``correct``, ``score``, ``clip`` and ``scale`` per image (in
    prompt-major order) and the uint8 images ``(n, 64, 64, 3)``."""
    clip = pipe.guidance.evaluators["clip"]
    rows = [(prompt, seed * 1_000_003 + i) for i, prompt in enumerate(prompts) for seed in seeds]
    result: dict = {"correct": [], "score": [], "clip": [], "scale": []}
    images = []
    for start in range(0, len(rows), BATCH):
        texts, noise = zip(*rows[start : start + BATCH], strict=True)
        latents = pipe(
            list(texts),
            num_inference_steps=STEPS,
            generator=[torch.Generator().manual_seed(s) for s in noise],
            guidance=guidance,
            output_type="latent",
        )
        result["clip"] += clip(latents.images[:, None], Context(list(texts), 0.0, 0.0))[:, 0].tolist()
        result["scale"] += latents.guidance_trace.scales.T.tolist()
        pixels = pipe.vae.decode(latents.images / pipe.vae.config.scaling_factor).sample
        batch = ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
        images.append(batch)
        verdicts = [judge(image, text) for image, text in zip(batch, texts, strict=True)]
        result["correct"] += [int(v.correct) for v in verdicts]
        result["score"] += [v.score for v in verdicts]
    return result | {"images": np.concatenate(images)}


def frechet_distance(images: np.ndarray, real: torch.Tensor) -> float:
    """torchmetrics' Fréchet distance on the features of `tinyworld.features`."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    feature = PixelClassifier.from_pretrained(WEIGHTS / "features").eval()
    metric = FrechetInceptionDistance(feature=feature, normalize=False, input_img_size=(3, 64, 64))
    metric.update(real, real=True)
    metric.update(torch.from_numpy(images).permute(0, 3, 1, 2), real=False)
    return round(float(metric.compute()), 4)


def paired_bootstrap(difference: np.ndarray, repeats: int = 10_000) -> dict[str, float]:
    """Mean of ``(prompts, seeds)`` differences with the 95 % interval over resampled prompts."""
    rng = np.random.default_rng(0)
    per_prompt = difference.mean(1)
    means = per_prompt[rng.integers(len(per_prompt), size=(repeats, len(per_prompt)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return {"mean": round(float(per_prompt.mean()), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer prompts and scales; within 8 minutes on 2 cores")
    parser.add_argument("--prompts", type=Path, help="captions to evaluate instead of the held-out ones, one a line")
    parser.add_argument("-n", type=int, help="number of held-out prompts (default 300, with --quick 60)")
    parser.add_argument("--seeds", type=int, default=1, help="images per prompt")
    parser.add_argument("--work", type=Path, help="folder that keeps finished methods; a second run goes on from there")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    args = parser.parse_args(argv)
    try:
        prompts = read_prompts(args)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    started = time.monotonic()
    pipe = TinyWorldPipeline.from_pretrained()
    pipe.set_progress_bar_config(disable=True)
    seeds = range(args.seeds)
    real = torch.from_numpy(
        np.stack([make_scene(5_000_000 + i, "test").image for i in range(600 if args.quick else 2000)])
    )
    real = real.permute(0, 3, 1, 2)
    report: dict = {"methods": {}}
    correct: dict[str, np.ndarray] = {}
    categories = np.repeat([parse_caption(p).category for p in prompts], args.seeds)
    bar = tqdm(methods(pipe, args.quick).items())
    for name, guidance in bar:
        bar.set_description(name)
        result = finished(args.work, name, lambda g=guidance: run(pipe, g, prompts, seeds))
        right = np.array(result["correct"])
        correct[name] = right.reshape(len(prompts), args.seeds)
        scale = np.array(result["scale"])
        report["methods"][name] = {
            "accuracy": round(float(right.mean()), 4),
            "categories": {c: round(float(right[categories == c].mean()), 4) for c in CATEGORIES if c in categories},
            "score": round(float(np.mean(result["score"])), 4),
            "frechet_distance": frechet_distance(result["images"], real),
            "clip_score": round(float(np.mean(result["clip"])), 3),
            "scale": {"mean": round(float(scale.mean()), 3), "per_step": scale.mean(0).round(2).tolist()},
        }
    static = {name: m["accuracy"] for name, m in report["methods"].items() if name.startswith("static:")}
    best = max(static, key=static.get)
    report |= {
        "best_static": best,
        "dynamic_minus_best_static": paired_bootstrap(correct["dynamic"] - correct[best]),
        "prompts": len(prompts),
        "seeds": args.seeds,
        "steps": STEPS,
        "search": {k: v for k, v in vars(pipe.guidance).items() if k != "evaluators"}
        | {"evaluators": list(pipe.guidance.evaluators)},
        "hardware": hardware(),
        "commit": commit(),
        "minutes": round((time.monotonic() - started) / 60, 1),
    }
    if args.json:
        print(json.dumps(report, indent=1))
    else:
        for name, m in sorted(report["methods"].items(), key=lambda item: -item[1]["accuracy"]):
            print(f"{name:14} accuracy {m['accuracy']:.3f}  Fréchet {m['frechet_distance']:8.3f}  {m['categories']}")
        print(f"dynamic - {best}: {report['dynamic_minus_best_static']}")
    return 0


def read_prompts(args: argparse.Namespace) -> list[str]:
    """The captions to evaluate; ValueError where they cannot be."""
    for name in ("n", "seeds"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ValueError(f"`{name}` must be at least 1, got {getattr(args, name)}.")
    if args.prompts is None:
        return held_out_prompts(args.n or (60 if args.quick else 300))
    if not args.prompts.is_file():
        raise ValueError(f"`--prompts` must be a text file, got {str(args.prompts)!r}.")
    prompts = [line.strip() for line in args.prompts.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not prompts:
        raise ValueError(f"`--prompts` {str(args.prompts)!r} holds no captions.")
    for prompt in prompts:
        parse_caption(prompt)
    return prompts


def finished(work: Path | None, name: str, make) -> dict:
    """What `make` returns, kept in (and read from) ``work/name.npz``."""
    if work is None:
        return make()
    file = work / f"{name.replace(':', '_')}.npz"
    if not file.exists():
        work.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".tmp.npz")
        np.savez(partial, **{k: np.asarray(v) for k, v in make().items()})
        partial.rename(file)
    with np.load(file) as stored:
        return {k: stored[k] for k in stored.files}


if __name__ == "__main__":
    sys.exit(main())
