"""The one training loop of this repo: accelerate, EMA, checkpoint and resume, progress bar, metrics as JSON lines."""

import argparse
import itertools
import json
import math
import multiprocessing
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast, set_seed
from diffusers.models.modeling_utils import ModelMixin
from diffusers.training_utils import EMAModel
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from commands.arguments import positive, scale

EVERY = 100  # steps between two lines of the log
WORKERS = 8  # that prepare batches for a GPU, at most
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
    parser.add_argument("--accumulate", type=positive, default=1, help="batches of a step, one after the other")
    parser.add_argument("--gradient-checkpointing", action="store_true", help="less memory, more time")
    parser.add_argument("--compile", action="store_true", help="torch.compile, also of what samples")
    parser.add_argument(
        "--workers", type=_from_0, help="processes that prepare batches; default: up to 8 for a GPU, else 0"
    )
    parser.add_argument("--checkpoint-minutes", type=float, default=5.0)
    parser.add_argument("--push-to-hub", metavar="OWNER/NAME", help="repository of the hub for the trained weights")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --out")


def _above_0(text: str) -> float:
    if (value := scale(text)) == 0:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def _from_0(text: str) -> int:
    if not text.strip().isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 0, got {text!r}")
    return int(text)


class _Progress:
    """How far the run is; saved with every checkpoint."""

    def __init__(self) -> None:
        self.step, self.seconds = 0, 0.0

    def state_dict(self) -> dict[str, float]:
        return {"step": self.step, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.step, self.seconds = int(state["step"]), float(state["seconds"])


def processes() -> PartialState:
    """This process among those of an ``accelerate launch --multi_gpu``, on a machine without a GPU, too."""
    return PartialState(cpu=not torch.accelerator.is_available())


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
        batch_of: number to batch; a function of the number, so that a resumed run continues the same stream. A step
            takes ``--accumulate`` batches in every process, each of another number: twice the processes or twice of
            those are the same training. Called in the processes of ``--workers``, ahead of time: it uses no GPU.
        loss_of: ``(model, batch)`` to the scalar loss and metrics to log. Tensors are moved by the recipe.
        matrices: parameters of two dimensions that Muon trains (Jordan et al. 2024; in torch from 2.9 on), at AdamW's
            learning rate by the scale of arXiv 2502.16982; AdamW trains the others.
        prepare: called before each step with the share of the training that is over; its time is not training time.

    Returns:
        ``{"steps", "samples", "minutes", "hardware", ...}`` for the model card, with the last logged metrics. Of
        several processes only the main one returns; the others are done, and exit.
    """
    accelerator = Accelerator(mixed_precision=args.mixed_precision, cpu=not torch.accelerator.is_available())
    set_seed(args.seed + accelerator.process_index)
    model.to(accelerator.device)
    by_muon = {id(parameter) for parameter in matrices}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in by_muon]
    optimizers: list[Any] = [torch.optim.AdamW(others, lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01)]
    if by_muon:
        muon = torch.optim.Muon(matrices, lr=args.lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
        optimizers.append(muon)
    ema = EMAModel(model.parameters(), decay=args.ema, use_ema_warmup=True, power=0.75, foreach=True)
    raw = model
    if args.gradient_checkpointing:
        for part in raw.modules():
            if isinstance(part, ModelMixin):
                part.enable_gradient_checkpointing()
    model, *optimizers = accelerator.prepare(model, *optimizers)
    trained = torch.compile(model) if args.compile else model
    progress = _Progress()
    accelerator.register_for_checkpointing(progress, ema)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.resume and (checkpoint := _newest(args.out)):
        accelerator.load_state(str(checkpoint))
        accelerator.print(f"resumed at step {progress.step}, {progress.seconds / 60:.1f} minutes")
    log = _Log(args.out / "metrics.jsonl", accelerator, progress)
    before, started, saved = progress.seconds, time.monotonic(), progress.seconds
    bar = tqdm(total=args.steps, initial=progress.step, disable=not accelerator.is_main_process, mininterval=5)
    batches = _batches(args, batch_of, progress.step, accelerator)
    raw.train()
    while True:
        progress.seconds = _of_main(before + time.monotonic() - started, accelerator)
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
        for turn in range(args.accumulate):
            batch = next(batches)
            last = turn == args.accumulate - 1
            with nullcontext() if last else accelerator.no_sync(model):
                with accelerator.autocast():
                    loss, metrics = loss_of(trained, batch)
                if not torch.isfinite(loss):
                    raise FloatingPointError(f"the loss is {loss.item()} at step {progress.step}; lower --lr or resume")
                accelerator.backward(loss / args.accumulate)
            log.add({"loss": loss.detach(), **metrics})
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        ema.step(raw.parameters())
        progress.step += 1
        bar.update()
        if progress.step % EVERY == 0:
            bar.set_postfix(log.write())
        if progress.seconds - saved > 60 * args.checkpoint_minutes:
            _save(accelerator, args.out, progress.step)
            saved = progress.seconds
    _save(accelerator, args.out, progress.step)
    del batches  # and its processes
    bar.close()
    if not accelerator.is_main_process:
        raise SystemExit(0)
    ema.copy_to(raw.parameters())
    raw.eval()
    return {
        "steps": progress.step,
        "samples": progress.step * args.batch_size * args.accumulate * accelerator.num_processes,
        "minutes": round(progress.seconds / 60, 1),
        "hardware": hardware(),
        **_memory(),
        "command": " ".join(["python", *sys.orig_argv[1:]]),
        "seed": args.seed,
        "metrics": log.last,
    }


class _Numbered(torch.utils.data.Dataset):
    """Batches by their number."""

    def __init__(self, batch_of: Callable[[int], Any]) -> None:
        self.batch_of = batch_of

    def __getitem__(self, number: int) -> Any:
        return self.batch_of(number)


def _batches(
    args: argparse.Namespace, batch_of: Callable[[int], Any], step: int, accelerator: Accelerator
) -> Iterator[Any]:
    """The batches of this process from `step` on, without end."""

    def numbers() -> Iterator[int]:
        for at in itertools.count(step):
            first = (at * accelerator.num_processes + accelerator.process_index) * args.accumulate
            yield from range(first, first + args.accumulate)

    workers, forks = args.workers, "fork" in multiprocessing.get_all_start_methods()
    if workers is None:
        workers = min(WORKERS, os.cpu_count() or 1) if forks and accelerator.device.type == "cuda" else 0
    if not workers:
        return map(batch_of, numbers())
    if not forks:
        raise ValueError(f"`--workers` must be 0 on {platform.system()}, which does not fork processes; got {workers}.")
    # Forked, for what a recipe's batches are made of is pickled by few of them; no worker touches a GPU.
    context: dict[str, Any] = {"multiprocessing_context": "fork", "prefetch_factor": 4}
    return iter(DataLoader(_Numbered(batch_of), batch_size=None, sampler=numbers(), num_workers=workers, **context))


class _Log:
    """Means of the metrics over `EVERY` steps and all processes, as JSON lines."""

    def __init__(self, path: Path, accelerator: Accelerator, progress: _Progress) -> None:
        self.path, self.accelerator, self.progress = path, accelerator, progress
        self.sums: dict[str, float] = {}
        self.count = 0
        self.last: dict[str, float] = {}
        if accelerator.is_main_process:  # what was logged after the checkpoint that a run goes on from comes again
            lines = path.read_text().splitlines() if progress.step and path.is_file() else []
            path.write_text("".join(f"{line}\n" for line in lines if json.loads(line)["step"] <= progress.step))

    def add(self, metrics: dict[str, Any]) -> None:
        self.count += 1
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)

    def write(self) -> dict[str, float]:
        """Writes a line and begins anew."""
        means = torch.tensor([value / self.count for value in self.sums.values()], device=self.accelerator.device)
        means = self.accelerator.reduce(means, "mean")
        self.last = {name: round(value, 5) for name, value in zip(self.sums, means.tolist(), strict=True)}
        row = {"step": self.progress.step, "minutes": round(self.progress.seconds / 60, 2), **self.last}
        if self.accelerator.is_main_process:
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        self.sums, self.count = {}, 0
        return self.last


def _of_main(seconds: float, accelerator: Accelerator) -> float:
    """The main process's clock, so that all of them stop at the same step."""
    if accelerator.num_processes == 1:
        return seconds
    return float(broadcast(torch.tensor(seconds, device=accelerator.device, dtype=torch.float32)))


def _newest(out: Path) -> Path | None:
    """The last whole checkpoint of a run."""
    return max(out.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]), default=None)


def _save(accelerator: Accelerator, out: Path, step: int) -> None:
    """A checkpoint gets its name when it is whole, and only then the one before goes."""
    part, whole = out / "checkpoint.part", out / f"checkpoint-{step}"
    if accelerator.is_main_process:
        shutil.rmtree(part, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(part))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(whole, ignore_errors=True)  # of a run before this one
        part.rename(whole)
        for old in out.glob("checkpoint-*"):
            if old != whole:
                shutil.rmtree(old)


def write_report(out: Path, report: dict) -> None:
    """Keeps and prints what `fit` and the recipe found, for the model card."""
    (out / "report.json").write_text(json.dumps(report, indent=1))
    print(json.dumps(report, indent=1))


def _memory() -> dict[str, float]:
    """What this process took of the GPU at most, where there is one."""
    if not torch.cuda.is_available():
        return {}
    return {"peak_memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2)}


def hardware() -> str:
    """The machine in words, for model cards and result files."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"{os.cpu_count()} CPU cores ({platform.machine()}), torch {torch.__version__}"
