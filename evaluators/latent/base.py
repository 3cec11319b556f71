"""What the learned latent evaluators share: saving, loading, calibration, and scoring many candidates at once."""

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin

from ..base import Calibration, Context


class LatentEvaluator(ModelMixin, ConfigMixin):  # type: ignore[misc]  # the two declare `config_name` differently
    """A diffusers model that reads latents ``(n, C, H, W)`` at unit variance and a noise share.

    Subclasses give `name`, `needs_prompt` and ``forward(candidates, context) -> scores``; their config holds
    `in_channels`, the `space` that the weights were trained in, and `calibration`, the dict form of `Calibration`,
    written by `calibrate`.
    """

    needs_prompt = False
    _supports_gradient_checkpointing = True

    @property
    def space(self) -> str:
        return self.config["space"]

    @property
    def in_channels(self) -> int:
        return self.config["in_channels"]

    @property
    def calibration(self) -> Calibration | None:
        values = self.config["calibration"]
        return Calibration(**{k: tuple(v) for k, v in values.items()}) if values else None

    def calibrate(self, calibration: Calibration) -> None:
        """Sets the calibration that `save_pretrained` writes into config.json."""
        self.register_to_config(calibration={k: list(v) for k, v in vars(calibration).items()})

    def follow(self, candidates: torch.Tensor) -> None:
        """Moves this model to the device of `candidates`."""
        if candidates.device != self.device:
            self.to(candidates.device)  # type: ignore[arg-type]  # diffusers' `wraps` takes `self` for an argument

    def flat(self, candidates: torch.Tensor, context: Context) -> tuple[torch.Tensor, torch.Tensor]:
        """``(batch, candidates, C, H, W)`` to one batch on this model's device, and its noise shares."""
        self.follow(candidates)
        latents = candidates.flatten(0, 1).to(self.dtype)
        level = torch.full((len(latents),), context.noise_level, device=latents.device, dtype=self.dtype)
        return latents, level
