"""Human preference: which of two pictures would a person choose for this prompt?"""

import torch
from diffusers.configuration_utils import register_to_config
from torch import nn

from .head import CLIPHead, mlp


class LatentReward(CLIPHead):
    """Scores are rewards r under the Bradley–Terry model: ``P(a preferred to b) = sigmoid(r(a) - r(b))``.

    Trained on preference pairs whose pictures get noise of every level. It has an opinion on every prompt.
    """

    name = "reward"

    @register_to_config
    def __init__(
        self,
        features: int = 1536,
        text_dim: int = 128,
        dim: int = 64,
        clip: int | None = None,
        calibration: dict | None = None,
    ) -> None:
        super().__init__()
        self.image, self.text = mlp(features, dim), mlp(text_dim, dim)
        self.appeal = nn.Linear(dim, 1)  # of the picture, whatever the prompt

    def asked(self, prompt: str) -> bool:
        return True

    def logits(self, features: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        image = self.image(features)
        return torch.einsum("bkd,bd->bk", image, query) + self.appeal(image)[..., 0]
