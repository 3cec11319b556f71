"""Pictures of latents, beside a pipeline that is at work."""

import copy
from typing import Any

import torch
from PIL import Image

from evaluators.pixel.preview import decode


class Decoder:
    """Latents ``(n, C, H, W)`` to PIL images, while the pipeline may be at work elsewhere."""

    def __init__(self, pipe: Any) -> None:
        self.vae = pipe.vae
        if self.vae.dtype == torch.float16 and self.vae.config.get("force_upcast", False):
            self.vae = copy.deepcopy(self.vae).float()  # `decode` would change the pipeline's own for a while

    @torch.inference_mode()
    def __call__(self, latents: torch.Tensor) -> list[Image.Image]:
        rows = [decode(self.vae, row[None])[0].cpu() for row in latents]  # large ones fit one at a time
        return [Image.fromarray((row * 255).round().byte().permute(1, 2, 0).numpy()) for row in rows]
