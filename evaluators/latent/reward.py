"""Human preference: which of two pictures would a person choose for this prompt?"""

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import nn

from .clip import LatentCLIP
from .head import CLIPHead, mlp


class LatentReward(CLIPHead):
    """Scores are rewards r under the Bradley–Terry model: ``P(a preferred to b) = sigmoid(r(a) - r(b))``.

    Trained on preference pairs whose pictures get noise of every level, from CLIP's own score on, as PickScore (arXiv
    2305.01569) trains CLIP on votes. It has an opinion on every prompt.
    """

    name = "reward"

    @register_to_config
    def __init__(
        self,
        features: int = 1536,
        text_dim: int = 128,
        clip: int | None = None,
        calibration: dict | None = None,
        linear: bool = False,
    ) -> None:
        super().__init__()
        # As the head of the CLIP that it begins as.
        self.image = nn.Sequential(nn.Linear(features, text_dim)) if linear else mlp(features, text_dim)
        self.text = nn.Linear(text_dim, text_dim)
        self.appeal = nn.Linear(text_dim, 1)  # of the picture, whatever the prompt

    def begin_as(self, clip: LatentCLIP) -> "LatentReward":
        """Makes this head say what `clip`, whose features it is to read, says; returns itself."""
        self.image.load_state_dict(clip.trunk.head.state_dict())
        with torch.no_grad():
            self.text.weight.copy_(float(clip.logit_scale.exp()) * torch.eye(len(self.text.weight)))
            for zero in (self.text.bias, self.appeal.weight, self.appeal.bias):
                zero.zero_()
        return self.read(clip)

    def asked(self, prompt: str) -> bool:
        return True

    def logits(self, features: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        image = F.normalize(self.image(features), dim=-1)
        return torch.einsum("bkd,bd->bk", image, query) + self.appeal(image)[..., 0]
