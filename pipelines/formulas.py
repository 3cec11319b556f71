"""What pipelines do besides ``u + s (c - u)``: one class for each, bit for bit as the pipeline computes it."""

import torch

from guidance.formula import Formula, times

Prediction = torch.Tensor


class TokenRenormalised(Formula):
    """``u + s (c - u)``, each token, or each row of a picture, at the norm of its conditional prediction (Qwen-Image,
    Lumina 2)."""

    affine = False
    axis = -1  # over which the norm is taken

    def __call__(self, pred_uncond: Prediction, pred_cond: Prediction, scale: torch.Tensor) -> Prediction:
        guided = super().__call__(pred_uncond, pred_cond, scale)
        wanted, norm = (torch.norm(x, dim=self.axis, keepdim=True) for x in (pred_cond, guided))
        return guided * self.factor(wanted, norm)

    def factor(self, wanted: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
        """What a token of this `norm` is multiplied by to have the `wanted` one."""
        return wanted / norm


class TokenLimited(TokenRenormalised):
    """The same, never enlarged and not to less than a share `least` (LongCat-Image)."""

    def __init__(self, least: float) -> None:
        self.least = least

    def factor(self, wanted: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
        return (wanted / (norm + 1e-8)).clamp(min=self.least, max=1.0)


class TokenFloored(TokenRenormalised):
    """The same as `TokenRenormalised`, over channels, with a floor under what is divided by (JoyImage)."""

    axis = 2

    def factor(self, wanted: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
        return wanted / norm.clamp_min(1e-6)


class FromConditional(Formula):
    """``c + s (c - u)``: here a scale of 0 is no guidance (Z-Image, Cosmos, Krea 2)."""

    unguided = 0.0

    def __call__(self, pred_uncond: Prediction, pred_cond: Prediction, scale: torch.Tensor) -> Prediction:
        return pred_cond + times(scale, pred_cond - pred_uncond)


class Extrapolated(FromConditional):
    """The same as ``(s + 1) c - s u``, which rounds otherwise (Kandinsky 3)."""

    def __call__(self, pred_uncond: Prediction, pred_cond: Prediction, scale: torch.Tensor) -> Prediction:
        return times(scale + 1.0, pred_cond) - times(scale, pred_uncond)


class NormLimited(FromConditional):
    """``c + s (c - u)`` at no more than `most` times the norm of the conditional prediction (Z-Image)."""

    affine = False

    def __init__(self, most: float) -> None:
        self.most = most

    def __call__(self, pred_uncond: Prediction, pred_cond: Prediction, scale: torch.Tensor) -> Prediction:
        guided = super().__call__(pred_uncond, pred_cond, scale)
        rows = []  # one by one, as the pipeline does: a norm of a batch rounds otherwise
        for row, cond in zip(guided, pred_cond, strict=True):
            norm, most = torch.linalg.vector_norm(row), torch.linalg.vector_norm(cond) * self.most
            rows.append(torch.where(norm > most, row * (most / norm), row))
        return torch.stack(rows)


class Clipped(Formula):
    """``u + s (c - u)``, no further from 0 than `most` (Bria 3)."""

    affine = False

    def __init__(self, most: float | None) -> None:
        self.most = most

    def __call__(self, pred_uncond: Prediction, pred_cond: Prediction, scale: torch.Tensor) -> Prediction:
        guided = self.guided(pred_uncond, pred_cond, scale)
        return guided if not self.most else guided.clip(-self.most, self.most)

    def guided(self, pred_uncond: Prediction, pred_cond: Prediction, scale: torch.Tensor) -> Prediction:
        """What is clipped."""
        return super().__call__(pred_uncond, pred_cond, scale)


class BatchRescaled(Clipped):
    """Seven tenths of it at the spread of the conditional prediction, over the whole batch, then clipped (Bria 3)."""

    def guided(self, pred_uncond: Prediction, pred_cond: Prediction, scale: torch.Tensor) -> Prediction:
        guided = super().guided(pred_uncond, pred_cond, scale)
        return guided * (0.7 * (pred_cond.std() / guided.std())) + 0.3 * guided


class WeightedSum(Formula):
    """``s c + (1 - s) u``: the same but for rounding (Ideogram 4)."""

    def __call__(self, pred_uncond: Prediction, pred_cond: Prediction, scale: torch.Tensor) -> Prediction:
        return times(scale, pred_cond) + times(1.0 - scale, pred_uncond)


class FirstChannels(Formula):
    """``u + s (c - u)`` of the first channels; the others are the conditional ones (Lumina-Next)."""

    def __init__(self, channels: int) -> None:
        self.channels = channels

    def __call__(self, pred_uncond: Prediction, pred_cond: Prediction, scale: torch.Tensor) -> Prediction:
        n = self.channels
        return torch.cat([super().__call__(pred_uncond[:, :n], pred_cond[:, :n], scale), pred_cond[:, n:]], dim=1)


class OfCleanLatents(Formula):
    """Guided where the predictions are of the clean latents, ``c + (s - 1) (c - u)``, perhaps rescaled, and a velocity
    again (LTX-2).

    Args:
        latents: before the step, as the pipeline has them.
        sigma: at this step.
        given: clean latents that are known, and how far they hold, in [0, 1]; `None` for none.
    """

    def __init__(
        self,
        latents: torch.Tensor,
        sigma: torch.Tensor,
        guidance_rescale: float,
        given: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> None:
        self.latents, self.sigma, self.guidance_rescale, self.given = latents, sigma, guidance_rescale, given
        self.affine = not guidance_rescale

    def __call__(self, pred_uncond: Prediction, pred_cond: Prediction, scale: torch.Tensor) -> Prediction:
        # LTX-2 reads them in float32, whatever its transformer runs in.
        uncond, cond = (self.latents - velocity.float() * self.sigma for velocity in (pred_uncond, pred_cond))
        guided = cond + times(scale - 1, cond - uncond)
        if self.guidance_rescale:
            from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

            guided = rescale_noise_cfg(guided, cond, guidance_rescale=self.guidance_rescale)
        if self.given is not None:
            clean, holds = self.given
            guided = (guided * (1 - holds) + clean * holds).to(guided.dtype)
        return (self.latents - guided) / self.sigma


class OfCleanPictures(Formula):
    """``u + s (c - u)`` of predictions of the clean picture, and a velocity again (PRX on pixels).

    Args:
        latents: before the step.
        share: what is noise in them, which a velocity is divided by.
        dtype: of the predictions, in which they become one.
    """

    def __init__(self, latents: torch.Tensor, share: torch.Tensor, dtype: torch.dtype) -> None:
        self.latents, self.share, self.dtype = latents, share, dtype

    def __call__(self, pred_uncond: Prediction, pred_cond: Prediction, scale: torch.Tensor) -> Prediction:
        uncond, cond = ((self.latents - velocity * self.share).to(self.dtype) for velocity in (pred_uncond, pred_cond))
        return (self.latents - super().__call__(uncond, cond, scale)) / self.share


class WithReference(Formula):
    """Three passes, one of them with the reference picture and without a prompt: ``u + s (c - r) + s_r (r - u)``
    (InstructPix2Pix, arXiv 2211.09800).

    Args:
        uncond, reference, cond: the three, of which `guide` makes two for everything but this formula.
        image_guidance_scale: ``s_r``, the pipeline's own.
        reference_first: whether the reference's term is added first.
    """

    def __init__(
        self,
        uncond: Prediction,
        reference: Prediction,
        cond: Prediction,
        image_guidance_scale: float,
        reference_first: bool,
    ) -> None:
        self.three = uncond, reference, cond
        self.image_guidance_scale, self.reference_first = image_guidance_scale, reference_first

    def two(self) -> tuple[Prediction, Prediction]:
        """The predictions at the scales 0 and 1, between which all others lie on a line."""
        uncond, reference, cond = self.three
        at_0 = uncond + self.image_guidance_scale * (reference - uncond)
        return at_0, at_0 + (cond - reference)

    def __call__(self, pred_uncond: Prediction, pred_cond: Prediction, scale: torch.Tensor) -> Prediction:
        uncond, reference, cond = self.three
        terms = [times(scale, cond - reference), self.image_guidance_scale * (reference - uncond)]
        first, second = terms[::-1] if self.reference_first else terms
        return uncond + first + second
