"""The one training loop of this repo: accelerate, EMA, checkpoint and resume, progress bar, metrics as JSON lines."""

import argparse
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers.training_utils import EMAModel
from tqdm.auto import tqdm

from commands.arguments import positive, scale

Loss = Callable[[torch.nn.Module, Any], tuple[torch.Tensor, dict[str, float]]]


def add_arguments(parser: argparse.ArgumentParser, *, batch_size: int, lr: float, minutes: float) -> None:
    """Adds what every recipe shares. The budget is wall-clock (`--minutes`) or an exact number of steps (`--steps`)."""
    parser.add_argument("--out", type=Path, required=True, help="folder of the trained weights, checkpoints and log")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=positive, default=batch_size)
    parser.add_argument("--lr", type=float, default=lr, help="peak learning rate (warm-up, then cosine to zero)")
    parser.add_argument("--minutes", type=_above_0, default=minutes, help="training time, resumed time included")
    parser.add_argument("--steps", type=positive, default=None, help="exact number of steps, instead of --minutes")
    parser.add_argument("--ema", type=float, default=0.999, help="decay of the averaged weights that are shipped")
    parser.add_argument("--mixed-precision", choices=("no", "bf16", "fp16"), default="no")
    parser.add_argument("--checkpoint-minutes", type=float, default=5.0)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --out")


def _above_0(text: str) -> float:
    if (value := scale(text)) == 0:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


class _Progress:
    """How far the run is; saved with every checkpoint."""

    def __init__(self) -> None:
        self.step, self.seconds = 0, 0.0

    def state_dict(self) -> dict[str, float]:
        return {"step": self.step, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.step, self.seconds = int(state["step"]), float(state["seconds"])


def fit(
    args: argparse.Namespace,
    model: torch.nn.Module,
    batch_of: Callable[[int], Any],
    loss_of: Loss,
    matrices: Sequence[torch.nn.Parameter] = (),
    prepare: Callable[[float], None] | None = None,
) -> dict:
    """Trains `model` in place and leaves the averaged weights in it.

    Args:
        args: the namespace filled by `add_arguments`.
        batch_of: step number to batch; a function of the step, so that a resumed run continues the same stream.
            With several processes each asks for its own numbers.
        loss_of: ``(model, batch)`` to the scalar loss and metrics to log. Tensors are moved by the recipe.
        matrices: parameters of two dimensions that Muon trains (Jordan et al. 2024; in torch from 2.9 on), at AdamW's
            learning rate by the scale of arXiv 2502.16982; AdamW trains the others.
        prepare: called before each step with the share of the training that is over; its time is not training time.

    Returns:
        ``{"steps", "samples", "minutes", "hardware", ...}`` for the model card, with the last logged metrics.
    """
    accelerator = Accelerator(mixed_precision=args.mixed_precision)
    set_seed(args.seed + accelerator.process_index)
    model.to(accelerator.device)
    by_muon = {id(parameter) for parameter in matrices}
    others = [parameter for parameter in model.parameters() if id(parameter) not in by_muon]
    optimizers: list[Any] = [torch.optim.AdamW(others, lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01)]
    if by_muon:
        muon = torch.optim.Muon(matrices, lr=args.lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
        optimizers.append(muon)
    ema = EMAModel(model.parameters(), decay=args.ema, use_ema_warmup=True, power=0.75, foreach=True)
    raw = model
    model, *optimizers = accelerator.prepare(model, *optimizers)
    progress = _Progress()
    accelerator.register_for_checkpointing(progress, ema)
    checkpoint = args.out / "checkpoint"
    args.out.mkdir(parents=True, exist_ok=True)
    if args.resume and checkpoint.exists():
        accelerator.load_state(str(checkpoint))
        accelerator.print(f"resumed at step {progress.step}, {progress.seconds / 60:.1f} minutes")

    log = (args.out / "metrics.jsonl").open("a")
    before, started, saved = progress.seconds, time.monotonic(), time.monotonic()
    sums: dict[str, float] = {}
    count, last = 0, {}
    bar = tqdm(total=args.steps, initial=progress.step, disable=not accelerator.is_main_process, mininterval=5)
    model.train()
    while True:
        progress.seconds = before + time.monotonic() - started
        done = progress.step / args.steps if args.steps else progress.seconds / (60 * args.minutes)
        if done >= 1:
            break
        if prepare is not None:
            asked = time.monotonic()
            prepare(done)
            started += time.monotonic() - asked
        warm_up, decay = min(1.0, (progress.step + 1) / 200), 0.01 + 0.495 * (1 + math.cos(math.pi * done))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = args.lr * warm_up * decay
        batch = batch_of(progress.step * accelerator.num_processes + accelerator.process_index)
        with accelerator.autocast():
            loss, metrics = loss_of(model, batch)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()} at step {progress.step}; lower --lr or resume")
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        ema.step(raw.parameters())
        progress.step += 1
        count += 1
        bar.update()
        for name, value in {"loss": loss.detach(), **metrics}.items():
            sums[name] = sums.get(name, 0.0) + float(value)
        if progress.step % 100 == 0:
            last = {name: round(value / count, 5) for name, value in sums.items()}
            row = {"step": progress.step, "minutes": round(progress.seconds / 60, 2), **last}
            bar.set_postfix(last)
            if accelerator.is_main_process:
                log.write(json.dumps(row) + "\n")
                log.flush()
            sums, count = {}, 0
        if time.monotonic() - saved > 60 * args.checkpoint_minutes:
            accelerator.save_state(str(checkpoint))
            saved = time.monotonic()
    accelerator.save_state(str(checkpoint))
    bar.close()
    ema.copy_to(raw.parameters())
    raw.eval()
    return {
        "steps": progress.step,
        "samples": progress.step * args.batch_size * accelerator.num_processes,
        "minutes": round(progress.seconds / 60, 1),
        "hardware": hardware(),
        "command": " ".join(["python", *sys.orig_argv[1:]]),
        "seed": args.seed,
        "metrics": last,
    }


def write_report(out: Path, report: dict) -> None:
    """Keeps and prints what `fit` and the recipe found, for the model card."""
    (out / "report.json").write_text(json.dumps(report, indent=1))
    print(json.dumps(report, indent=1))


def hardware() -> str:
    """The machine in words, for model cards and result files."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"{os.cpu_count()} CPU cores ({platform.machine()}), torch {torch.__version__}"
