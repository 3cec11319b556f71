"""What the search costs: wall clock and FLOPs of dynamic guidance over those of static guidance.

    online-guidance benchmark overhead --json
    online-guidance benchmark overhead --shape sdxl --steps 30 --json

The denoiser is the embedded one or has the genuine configuration of SD 1.5 or SDXL with random numbers (cost does not
depend on them); the search is the embedded default, evaluators included. FLOPs are matrix products, convolutions and
attention, counted on the meta device: what is element-wise (the candidates themselves, the schedulers' steps, norms) is
left out on both sides, and so is the search's one look before a run. The ratio is over the denoiser alone, without VAE
and text encoder, which would flatter it; of the wall clock, the embedded text encoder is part.
"""

import copy
import functools
import json
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import diffusers
import torch
import transformers
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch.utils.flop_counter import FlopCounterMode

import tinyworld
from commands.arguments import draws, positive, scales
from commands.parser import Parser
from evaluators import EVALUATORS, Context, load_evaluators
from guidance import GreedySearch
from pipelines import guide
from tinyworld.pipeline import PANEL, SCALES, scale_search
from training.loop import hardware

from .provenance import commit
from .rivals import noise_search

EMBEDDED = tuple(name for name in EVALUATORS if (tinyworld.WEIGHTS / name).is_dir())
PROMPT = 'two red signs saying "CAB"'  # which every evaluator has a say on
GUIDANCE_SCALE = 4.0  # static; no cost depends on it

CONFIGS: dict[str, dict[str, Any]] = {
    "sd15": {
        "sample_size": 64,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        "block_out_channels": (320, 640, 1280, 1280),
        "layers_per_block": 2,
        "attention_head_dim": 8,
        "cross_attention_dim": 768,
    },
    "sdxl": {
        "sample_size": 128,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (320, 640, 1280),
        "layers_per_block": 2,
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
        "use_linear_projection": True,
    },
}
TOKENS = {"tinyworld": 24, "sd15": 77, "sdxl": 77}


def count(function: Callable[[], Any]) -> int:
    """FLOPs of calling `function`: two for every multiply–add of its products, convolutions and attentions."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        function()
    return counter.get_total_flops()


def denoiser_flops(config: dict[str, Any], batch_size: int, tokens: int) -> int:
    """FLOPs of one step's two predictions, ``[uncond, cond]`` in one batch."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config)
        rows, size = 2 * batch_size, config["sample_size"]
        latents = torch.empty(rows, config["in_channels"], size, size)
        text = torch.empty(rows, tokens, config["cross_attention_dim"])
        added = {"text_embeds": torch.empty(rows, 1280), "time_ids": torch.empty(rows, 6)}
        timestep = torch.empty(rows)
    extra = {"added_cond_kwargs": added} if config.get("addition_embed_type") == "text_time" else {}
    return count(lambda: unet(latents, timestep, text, **extra))


def evaluator_flops(evaluators: Iterable[Any], shape: tuple[int, ...]) -> dict[str, tuple[int, int]]:
    """FLOPs of each evaluator's scoring of candidates of `shape` ``(batch, candidates, C, H, W)`` at one step, and once
    for every run (the prompt's encoding, which is remembered). Heads find what their CLIP saw, as in a run."""
    twins = [twin.to("meta") for twin in copy.deepcopy(list(evaluators))]
    context, counts = Context([PROMPT] * shape[0], 0.0, 0.5), []
    for _ in range(2):  # new candidates each time: what was seen of the last ones is remembered too
        candidates = torch.empty(shape, device="meta")
        counts.append({twin.name: count(functools.partial(twin, candidates, context)) for twin in twins})
    return {name: (later, counts[0][name] - later) for name, later in counts[1].items()}


def searched_steps(search: GreedySearch, steps: int) -> int:
    """How many of `steps` the search looks at."""
    last = max(1, steps - 1)
    inside = [i for i in range(steps) if search.start <= i / last <= search.stop]
    return len(inside[:: search.every]) if candidates(search) > 1 else 0


def candidates(search: GreedySearch) -> int:
    """How many are scored at each step: draws, if there are several, and scales, if there are several."""
    return sum(number for number in (search.noises, len(search.scales)) if number > 1) or 1


def flops(search: GreedySearch, config: dict[str, Any], tokens: int, steps: int, batch_size: int) -> dict[str, Any]:
    """FLOPs of a run with the search over those of the denoiser alone."""
    size = config["sample_size"]
    shape = (batch_size, candidates(search), config["in_channels"], size, size)
    scoring = evaluator_flops(search.evaluators.values(), shape)
    denoiser, searched = denoiser_flops(config, batch_size, tokens), searched_steps(search, steps)
    extra = sum(searched * step + once for step, once in scoring.values()) if searched else 0
    return {
        "flops_ratio": 1 + extra / (steps * denoiser),
        "candidates": candidates(search),
        "searched_steps": searched,
        "denoiser_flops_per_step": denoiser,
        "evaluator_flops_per_step_ratio": sum(step for step, _ in scoring.values()) / denoiser,
        "evaluator_flops_per_step": {name: step for name, (step, _) in scoring.items()},
        "evaluator_flops_per_run": {name: once for name, (_, once) in scoring.items()},
    }


def host(shape: str, device: str, batch_size: int) -> tuple[DiffusionPipeline, dict[str, Any]]:
    """The stock pipeline of `shape` and the prompt to call it with, embedded where there is no text encoder."""
    if shape == "tinyworld":
        pipe = DiffusionPipeline.from_pretrained(tinyworld.WEIGHTS / "text_to_image")
        return pipe.to(device), {"prompt": [PROMPT] * batch_size, "output_type": "latent"}
    torch.manual_seed(0)
    with torch.device(device):
        unet = UNet2DConditionModel.from_config(CONFIGS[shape])
    vae = AutoencoderKL(block_out_channels=(32,) * 4, down_block_types=("DownEncoderBlock2D",) * 4)  # for its 8× only
    parts = {"unet": unet, "vae": vae, "text_encoder": None, "tokenizer": None, "scheduler": DDIMScheduler()}
    width = CONFIGS[shape]["cross_attention_dim"]
    call = {"output_type": "latent"} | {
        key: torch.randn(batch_size, TOKENS[shape], width) for key in ("prompt_embeds", "negative_prompt_embeds")
    }
    if shape == "sd15":
        pipe = StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    else:
        pipe = StableDiffusionXLPipeline(**parts, text_encoder_2=None, tokenizer_2=None)
        call |= {
            key: torch.randn(batch_size, 1280) for key in ("pooled_prompt_embeds", "negative_pooled_prompt_embeds")
        }
    dtype = torch.float16 if device.startswith("cuda") else torch.float32
    call = {k: v.to(device, dtype) if isinstance(v, torch.Tensor) else v for k, v in call.items()}
    return pipe.to(device, dtype), call


def wall_clock(
    pipe: DiffusionPipeline, search: GreedySearch, call: dict[str, Any], steps: int, batch_size: int, repeats: int
) -> dict[str, Any]:
    """Seconds of the stock pipeline and of the same pipeline guided by the search, in turns on the same seeds, whose
    noise is drawn where the latents are."""
    pipe.set_progress_bar_config(disable=True)
    eta = 1.0 if search.noises > 1 else 0.0
    call = call | {"num_inference_steps": steps, "guidance_scale": GUIDANCE_SCALE, "eta": eta}

    def seconds(seed: int) -> float:
        generator = torch.Generator(pipe.device).manual_seed(seed)
        start = time.perf_counter()
        pipe(**call, generator=generator)
        if pipe.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    def guided_seconds(seed: int) -> float:
        with guide(pipe, search, [PROMPT] * batch_size):
            return seconds(seed)

    times: dict[str, list[float]] = {"static": [], "dynamic": []}
    runs = {"static": seconds, "dynamic": guided_seconds}
    for repeat in range(-1, repeats):  # -1 warms up
        for kind in sorted(runs, reverse=bool(repeat % 2)):  # neither is always the first
            elapsed = runs[kind](max(0, repeat))
            if repeat >= 0:
                times[kind].append(elapsed)
    return {
        "wall_clock_ratio": statistics.median(d / s for s, d in zip(*times.values(), strict=True)),
        "static_seconds": times["static"],
        "dynamic_seconds": times["dynamic"],
    }


def measure(search: GreedySearch, shape: str, steps: int, batch_size: int, repeats: int, device: str) -> dict[str, Any]:
    """Everything that ``--json`` prints."""
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
    report = {"shape": shape, "steps": steps, "batch_size": batch_size, "repeats": repeats, "device": device}
    if shape == "tinyworld" or device.startswith("cuda"):
        pipe, call = host(shape, device, batch_size)
        report |= wall_clock(pipe, search, call, steps, batch_size, repeats)
    else:
        reason = f"the denoiser of {shape} takes a GPU, and `device` is {device}"
        report |= {"wall_clock_ratio": None, "wall_clock_reason": reason}
    embedded = tinyworld.WEIGHTS / "text_to_image"
    config = UNet2DConditionModel.load_config(embedded, subfolder="unet") if shape == "tinyworld" else CONFIGS[shape]
    report |= flops(search, config, TOKENS[shape], steps, batch_size)
    provenance = {"hardware": hardware(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    return report | provenance | {"commit": commit()}


def main(argv: list[str] | None = None) -> None:
    parser = Parser("benchmark overhead", __doc__)
    parser.add_argument("--evaluators", nargs="+", choices=EMBEDDED, default=PANEL)
    parser.add_argument("--scales", type=scales, help="the candidates, between commas; default the embedded search's")
    parser.add_argument("--noises", type=draws, help="search among so many draws of noise; then the scales, if given")
    parser.add_argument("--every", type=positive, help="search at every n-th step; default 2, among noise 1")
    parser.add_argument("--shape", choices=("tinyworld", *CONFIGS), default="tinyworld")
    parser.add_argument("--steps", type=positive, default=25)
    parser.add_argument("--batch-size", type=positive, default=4)
    parser.add_argument("--repeats", type=positive, default=5, help="of static and dynamic, in turns")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", action="store_true", help="print everything, as JSON")
    args = parser.parse_args(argv)
    panel = load_evaluators({name: tinyworld.WEIGHTS / name for name in args.evaluators})
    search = scale_search(panel, args.scales or SCALES)
    if args.noises:
        search = noise_search(search, args.scales, args.noises)
    search.every = args.every or search.every
    report = measure(search, args.shape, args.steps, args.batch_size, args.repeats, args.device)
    if args.json:
        print(json.dumps(report, indent=1))
        return
    seconds = report["wall_clock_ratio"]
    print(f"{args.shape}, {report['candidates']} candidates at {report['searched_steps']} of {args.steps} steps")
    print(f"FLOPs       dynamic / static = {report['flops_ratio']:.4f}")
    print("wall clock  " + (report["wall_clock_reason"] if seconds is None else f"dynamic / static = {seconds:.4f}"))


if __name__ == "__main__":
    main()
