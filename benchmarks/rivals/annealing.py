"""Annealing guidance: a small network that says how strongly to guide, trained for this model.

    python -m benchmarks.rivals.annealing

The recipe is the paper's (arXiv 2506.24108): scenes of the training split with noise, one step of CFG++ at the strength
that the network says, and two losses, by a balance λ that the network is told: the error of the guided prediction of
the noise, ``1 - λ``, and how far both predictions are apart after the step, λ, each measured in its running mean, for
the second is far smaller. The captions' embeddings are noised as CADS does (arXiv 2310.17347). Sampling is by CFG++.
What is trained belongs to the weights that it was trained with, and is refused with others.
"""

import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm.auto import tqdm

import tinyworld
from commands.parser import Parser
from guidance.cfg_plus_plus import at_strength
from guidance.step import Decision, DenoisingStep
from tinyworld.scenes import make_scene
from training.vae import encode

from .. import embedded
from ..provenance import weights_digest
from .model import Model

FILE = Path(__file__).with_name("annealing.safetensors")
SEED = 7_000_000  # of the first scene
EMBEDDING = 4  # numbers for each input
HIDDEN, LAYERS = 128, 3
CADS = 0.025
STEPS = 20  # of the sampling that it is trained for


class Strength(torch.nn.Module):
    """The strength of CFG++ from the timestep, ``|c - u|`` in units of the noise, and the balance λ."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [3 * EMBEDDING, *[HIDDEN] * (LAYERS + 1)]
        layers = [part for pair in pairwise(sizes) for part in (torch.nn.Linear(*pair), torch.nn.ReLU())]
        self.head = torch.nn.Sequential(*layers, torch.nn.Linear(HIDDEN, 1))
        self.register_buffer("typical", torch.tensor(1.0))  # norm, by which inputs are divided

    def forward(self, timestep: torch.Tensor, norm: torch.Tensor, balance: torch.Tensor) -> torch.Tensor:
        """All ``(rows,)``, the strength as well; the timestep in thousands."""
        values = torch.stack([timestep, norm / self.typical, balance], 1)
        turns = torch.arange(1, EMBEDDING, device=values.device)
        features = torch.cat([values[..., None], (values[..., None] * turns).cos()], -1)
        return 1 + self.head(features.flatten(1))[:, 0]


class Annealing:
    """CFG++ at the strength that a network says, as guidance of any pipeline of these weights.

    Args:
        network: trained.
        balance: λ in [0, 1]: from the likeliest picture to the one in which both predictions agree.
    """

    def __init__(self, network: Strength, balance: float) -> None:
        self.network, self.balance = network.eval(), balance
        self.digest = str(sum(float(p.detach().double().abs().sum()) for p in network.parameters()))

    def decide(self, step: DenoisingStep) -> Decision:
        """The prediction whose step is that of CFG++, and its scale ``(batch,)``."""
        alpha, sigma = step.level
        apart = (step.denoised(step.pred_cond) - step.denoised(step.pred_uncond)) * (alpha / sigma)
        rows = step.full(1.0)
        with torch.no_grad():
            time = torch.as_tensor(step.timestep, device=rows.device) / 1000 * rows
            strength = self.network.to(apart.device)(time, apart.flatten(1).float().norm(dim=1), self.balance * rows)
        return at_strength(step, strength)


def trained(weights: str) -> Strength | None:
    """The network that was trained with text-to-image weights of this digest, `None` where there is none."""
    if not FILE.exists():
        return None
    with safe_open(FILE, "pt") as file:
        if (file.metadata() or {}).get("weights") != weights:
            return None
        network = Strength()
        network.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118  # no mapping
    return network


def noised(text: torch.Tensor, time: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Embeddings ``(rows, tokens, dim)`` with CADS's noise, the more of it the larger the `time` ``(rows,)`` in [0, 1],
    brought back to their mean and spread."""
    share = (1 - time).clamp(0, 1).view(-1, 1, 1)
    mixed = share.sqrt() * text + CADS * (1 - share).sqrt() * noise
    mean, spread = (f(mixed, (1, 2)) for f in (lambda x, d: x.mean(d, True), lambda x, d: x.std(d, keepdim=True)))
    return (mixed - mean) / (spread + 1e-6) * text.std((1, 2), keepdim=True) + text.mean((1, 2), keepdim=True)


def batches(vae: Any, size: int) -> Iterator[tuple[list[str], torch.Tensor]]:
    """Captions and latents ``(size, C, H, W)`` of scenes of the training split, without end."""
    first = SEED
    while True:
        scenes = [make_scene(first + i, "train") for i in range(size)]
        first += size
        yield [scene.caption for scene in scenes], encode(vae, np.stack([s.image for s in scenes])).float()


def losses(
    model: Model, network: Strength, clean: torch.Tensor, index: torch.Tensor, balance: torch.Tensor, g: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of latents `clean` ``(rows, C, H, W)``, noised to before the steps `index` ``(rows,)``: the error of the guided
    noise, and how far both predictions are apart after the step, both ``(rows,)``."""
    alpha, sigma = model.level(index, len(clean))
    noise = torch.randn(clean.shape, generator=g)
    latents = alpha * clean + sigma * noise
    with torch.no_grad():
        x0_cond, x0_uncond = (model.clean(latents, p, index) for p in model.predict(latents, index))
        uncond_noise = (latents - alpha * x0_uncond) / sigma
        norm = ((x0_cond - x0_uncond) * alpha / sigma).flatten(1).norm(dim=1)
    strength = network(model.timesteps[index] / 1000, norm, balance).view(-1, 1, 1, 1)
    guided = x0_uncond + strength * (x0_cond - x0_uncond)
    error = ((latents - alpha * guided) / sigma - noise).square().mean((1, 2, 3))
    after = model.lead(guided, uncond_noise, index, index + 1)
    cond, uncond = (model.clean(after, p, index + 1) for p in model.predict(after, index + 1))
    alpha, sigma = model.level(index + 1, len(clean))
    return error, ((cond - uncond) * alpha / sigma).square().mean((1, 2, 3))


def train(pipe: Any, updates: int = 600, batch: int = 32, steps: int = STEPS, seed: int = 0) -> Strength:
    """The network for the weights of `pipe`."""
    g = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Strength()
    pipe.unet.requires_grad_(False)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.01)
    means = [1.0, 1.0]
    source, bar = batches(pipe.vae, batch), tqdm(range(updates), desc="annealing")
    for update in bar:
        captions, clean = next(source)
        model = Model(pipe, captions, [g] * batch, steps)
        index = torch.randint(0, steps - 1, (batch,), generator=g)  # the last step leads to no prediction
        noise = torch.randn(model.text.shape, generator=g)
        model.text = noised(model.text.detach(), model.timesteps[index] / 1000, noise)
        if update == 0:
            with torch.no_grad():
                apart = losses(model, network, clean, index, torch.zeros(batch), g)[1]
            network.typical.fill_(float((apart * clean[0].numel()).sqrt().mean()))
        balance = torch.rand(batch, generator=g)
        shares = 1 - balance, balance
        terms = losses(model, network, clean, index, balance, g)
        pair = [(share * term).mean() for share, term in zip(shares, terms, strict=True)]
        keep = 0.0 if update == 0 else 0.99
        means = [keep * mean + (1 - keep) * float(loss.detach()) for mean, loss in zip(means, pair, strict=True)]
        optimizer.zero_grad()
        (pair[0] + pair[1] * (means[0] / max(means[1], 1e-8))).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        bar.set_postfix(error=f"{means[0]:.4f}", apart=f"{means[1]:.5f}")
    return network.eval()


def main(argv: list[str] | None = None) -> int:
    parser = Parser("python -m benchmarks.rivals.annealing", __doc__)
    parser.add_argument("--updates", type=int, default=600, help="of 32 scenes each")
    args = parser.parse_args(argv)
    network = train(embedded.load(), args.updates)
    weights = weights_digest(tinyworld.WEIGHTS / "text_to_image")
    save_file(network.state_dict(), FILE, {"weights": weights, "updates": str(args.updates)})
    print(FILE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
