"""Trains the pixel classifier of the Fréchet distance on tinyworld pictures: its own seed, architecture and data.

python -m tinyworld.recipes.features --out runs/features
"""

import argparse

import numpy as np
import torch
import torch.nn.functional as F

from training import loop

from ..features import PixelClassifier, targets
from ..scenes import make_scene


def scenes(first: int, n: int, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures uint8 ``(n, 3, 64, 64)`` and targets ``(n, TARGETS)``."""
    made = [make_scene(first + i, split) for i in range(n)]
    pixels = torch.from_numpy(np.stack([scene.image for scene in made])).permute(0, 3, 1, 2)
    return pixels, torch.stack([targets(scene.spec) for scene in made])


class Classifier(torch.nn.Module):
    """Features and head together."""

    def __init__(self, model: PixelClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.model.head(self.model(pixels))


def loss_of(model: torch.nn.Module, batch: tuple) -> tuple[torch.Tensor, dict[str, float]]:
    """Binary cross entropy over what the caption tells."""
    pixels, wanted = (t.to(next(model.parameters()).device) for t in batch)
    logits, told = model(pixels), wanted >= 0
    loss = F.binary_cross_entropy_with_logits(logits, wanted.clamp(min=0), weight=told.float())
    return loss, {"accuracy": ((logits > 0) == (wanted > 0.5))[told].float().mean()}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    loop.add_arguments(parser, batch_size=64, lr=2e-3, minutes=4)
    parser.set_defaults(seed=77)
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)
    model = PixelClassifier()
    start = args.seed << 40
    report = loop.fit(
        args, Classifier(model), lambda step: scenes(start + step * args.batch_size, args.batch_size, "all"), loss_of
    )
    with torch.no_grad():
        report["test"] = {
            k: float(v) for k, v in loss_of(Classifier(model), scenes(start + 2**39, 1000, "test"))[1].items()
        }
    model.save_pretrained(args.out / "features")
    loop.write_report(args.out, report)


if __name__ == "__main__":
    main()
