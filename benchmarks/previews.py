"""What judges of pictures cost at the real shapes: FLOPs of a guided run whose candidates are decoded and judged, over
those of static guidance.

    online-guidance benchmark previews --json --out benchmarks/results/previews.json
    online-guidance benchmark previews --shapes sdxl --candidates 5 --every 1 5

Counted on the meta device with the configurations of the published models, one picture of their usual size. Static
guidance is the denoiser's two passes a step, without VAE and text encoder. A searched step decodes every candidate
once, by the tiny decoder of the VAE's family (``tiny``), by that one from latents of half the size (``half``), by the
fitted linear map (``linear``) or by the VAE itself (``vae``), and a CLIP of open_clip judges it; the prompt is encoded
once a run. What is element-wise, resizing included, is left out.
"""

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, FluxTransformer2DModel

from commands.arguments import positive
from commands.parser import Parser

from .overhead import CONFIGS, TOKENS, count, denoiser_flops
from .provenance import commit

JUDGES = ("ViT-B-32", "ViT-H-14")  # of `open_clip` by default, and of PickScore and HPS
PREVIEWS = ("linear", "half", "tiny", "vae")
CHANNELS = {"sd15": 4, "sdxl": 4, "flux": 16}
SIDE = {"sd15": 64, "sdxl": 128, "flux": 128}  # of the latents: 512 and 1024 pixels


def flux_flops() -> int:
    """Of one step's two predictions by FLUX.1-dev, whose configuration is the default of the class, with true CFG."""
    with torch.device("meta"):
        model = FluxTransformer2DModel(guidance_embeds=True)
        tokens = (SIDE["flux"] // 2) ** 2
        inputs = {
            "hidden_states": torch.empty(2, tokens, 64),
            "encoder_hidden_states": torch.empty(2, 512, 4096),
            "pooled_projections": torch.empty(2, 768),
            "timestep": torch.empty(2),
            "guidance": torch.empty(2),
            "img_ids": torch.empty(tokens, 3),
            "txt_ids": torch.empty(512, 3),
        }
    return count(lambda: model(**inputs))


def step_flops(shape: str) -> int:
    """Of one step of static guidance."""
    return flux_flops() if shape == "flux" else denoiser_flops(CONFIGS[shape], 1, TOKENS[shape])


def preview_flops(shape: str) -> dict[str, int]:
    """Of one candidate's picture, by the kind of preview."""
    channels, side = CHANNELS[shape], SIDE[shape]
    with torch.device("meta"):
        tiny = AutoencoderTiny(latent_channels=channels)
        vae = AutoencoderKL(
            latent_channels=channels,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )
        whole, half = torch.empty(1, channels, side, side), torch.empty(1, channels, side // 2, side // 2)
    return {
        "linear": 2 * channels * 3 * side * side,
        "half": count(lambda: tiny.decoder(half)),
        "tiny": count(lambda: tiny.decoder(whole)),
        "vae": count(lambda: vae.decoder(whole)),
    }


def judge_flops(name: str) -> tuple[int, int]:
    """Of one picture, and of one prompt."""
    with torch.device("meta"):
        model = open_clip.create_model(name, device="meta")
        picture = torch.empty(1, 3, *model.visual.image_size)
        prompt = torch.zeros(1, 77, dtype=torch.long)
    return count(lambda: model.encode_image(picture)), count(lambda: model.encode_text(prompt))


def table(shapes: list[str], candidates: int, everys: list[int], steps: int) -> list[dict[str, Any]]:
    """A row for each shape, preview and judge: what one candidate costs of a step, and a run relative to static."""
    judges, rows = {name: judge_flops(name) for name in JUDGES}, []
    for shape in shapes:
        static, previews = step_flops(shape), preview_flops(shape)
        for kind, decode in previews.items():
            for name, (picture, prompt) in judges.items():
                ratios = {}
                for every in everys:
                    searched = len(range(0, steps, every))
                    extra = searched * candidates * (decode + picture) + prompt
                    ratios[str(every)] = round(1 + extra / (steps * static), 4)
                rows.append(
                    {
                        "shape": shape,
                        "preview": kind,
                        "judge": name,
                        "step_gflops": round(static / 1e9, 1),
                        "decode_gflops": round(decode / 1e9, 3),
                        "judge_gflops": round(picture / 1e9, 1),
                        "candidate_of_a_step": round((decode + picture) / static, 5),
                        "flops_ratio_every": ratios,
                    }
                )
    return rows


def main(argv: list[str] | None = None) -> None:
    parser = Parser("benchmark previews", __doc__)
    parser.add_argument("--shapes", nargs="+", choices=CHANNELS, default=list(CHANNELS))
    parser.add_argument("--candidates", type=positive, default=8, help="decoded at each searched step")
    parser.add_argument("--every", nargs="+", type=positive, default=[1, 5, 10], help="search at every n-th step")
    parser.add_argument("--steps", type=positive, default=20)
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("--out", type=Path, help="write the JSON there, too")
    args = parser.parse_args(argv)
    code = commit()
    rows = table(args.shapes, args.candidates, args.every, args.steps)
    report = {
        "commit": code,
        "torch": torch.__version__,
        "candidates": args.candidates,
        "steps": args.steps,
        "rows": rows,
    }
    text = json.dumps(report, indent=1)
    if args.out:
        args.out.write_text(text + "\n")
    if args.json:
        print(text)
        return
    for row in rows:
        ratios = "  ".join(f"every {every}: {ratio:.3f}" for every, ratio in row["flops_ratio_every"].items())
        print(f"{row['shape']:5} {row['preview']:7} {row['judge']:9} {ratios}")


if __name__ == "__main__":
    main()
