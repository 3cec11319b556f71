"""The particulars of hosts: where a pipeline departs from ``denoiser -> u + s (c - u) -> scheduler.step``.

A host is one row of `HOSTS`, found by the beginning of its class's name, the longest that fits. A pipeline without a
row is taken to be plain; what is not plain about it is found out at the first step (`reading`), or it is refused.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from guidance.formula import Formula, Rescaled

from .formulas import (
    BatchRescaled,
    Clipped,
    FirstChannels,
    FromConditional,
    NormLimited,
    OfCleanLatents,
    TokenFloored,
    TokenLimited,
    TokenRenormalised,
    WeightedSum,
    WithReference,
)

Known = dict[str, Any]  # the local variables of the pipeline's call
Unpack = Callable[[Any, Known, torch.Tensor], torch.Tensor]

DISTILLED = "it is distilled: it makes one pass a step, so there is no scale to choose."
COPIES = "it steps by copies of its scheduler, one for each frame, of which nothing can be seen."

# ------------------------------------------------------------------------------------------------------------ layouts


def as_is(pipe: Any, known: Known, latents: torch.Tensor) -> torch.Tensor:
    """Latents that are ``(batch, C, H, W)`` or ``(batch, C, F, H, W)`` already."""
    return latents


def patches(size: int) -> Unpack:
    """Of ``(batch, tokens, C · size²)``: tokens are squares of `size` latents, row by row, channels before places."""

    def unpack(pipe: Any, known: Known, latents: torch.Tensor) -> torch.Tensor:
        if latents.ndim != 3:
            return latents
        tokens = latents.shape[1]
        height, width = (known.get(name) or known[f"calculated_{name}"] for name in ("height", "width"))
        rows = round(math.sqrt(tokens * height / width))
        latents = latents.unflatten(1, (rows, tokens // rows)).unflatten(3, (-1, size, size))
        return latents.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)

    return unpack


def channels_within(pipe: Any, known: Known, latents: torch.Tensor) -> torch.Tensor:
    """The same as ``patches(2)``, places before channels (Ideogram 4)."""
    if latents.ndim == 3:
        latents = latents.unflatten(2, (4, -1)).transpose(2, 3).flatten(2)
    return patches(2)(pipe, known, latents)


def layers(pipe: Any, known: Known, latents: torch.Tensor) -> torch.Tensor:
    """Of several pictures in one sequence: ``(batch, C, layers, H, W)`` (Qwen-Image-Layered)."""
    split = latents.unflatten(1, (known["layers"] + 1, -1)).flatten(0, 1)
    return patches(2)(pipe, known, split).unflatten(0, (len(latents), -1)).transpose(1, 2)


def one_frame(pipe: Any, known: Known, latents: torch.Tensor) -> torch.Tensor:
    """A picture as a video of one frame: ``(batch, C, H, W)``."""
    return latents.squeeze(2)


def packed_frames(last: bool) -> Unpack:
    """Of LTX's ``(batch, tokens, C)``: ``(batch, C, F, H, W)``, without the tokens of what else is given, which come
    before those of the video, or after where they are not the `last`."""

    def unpack(pipe: Any, known: Known, latents: torch.Tensor) -> torch.Tensor:
        if latents.ndim != 3:
            return latents
        names = ("latent_num_frames", "latent_height", "latent_width")
        frames, height, width = shape = tuple(int(known[name]) for name in names)
        tokens = frames * height * width
        latents = latents[:, -tokens:] if last else latents[:, :tokens]
        return latents.unflatten(1, shape).movedim(-1, 1)  # its patches are single latents

    return unpack


def all_frames(pipe: Any, known: Known, latents: torch.Tensor) -> torch.Tensor:
    """Of a stretch of a long video."""
    frames = latents.shape[1] // (known["latent_height"] * known["latent_width"])
    return packed_frames(True)(pipe, known | {"latent_num_frames": frames}, latents)


def last_item(pipe: Any, known: Known, latents: torch.Tensor) -> torch.Tensor:
    """Of ``(batch, items, C, F, H, W)``, reference pictures before what is made: ``(batch, C, F, H, W)``, of pictures
    ``(batch, C, H, W)`` (JoyImage)."""
    latents = latents[:, -1]
    return latents.squeeze(2) if latents.shape[2] == 1 else latents


def first_patches(pipe: Any, known: Known, latents: torch.Tensor) -> torch.Tensor:
    """``(batch, patches, C, 1, p, p)``, those of what is made before those of reference pictures, to ``(batch, C, H,
    W)`` (JoyImage)."""
    size = latents.shape[-1]
    rows, columns = (known[name] // (pipe.vae_scale_factor_spatial * size) for name in ("height", "width"))
    latents = latents[:, : rows * columns, :, 0].unflatten(1, (rows, columns))
    return latents.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def frames_first(pipe: Any, known: Known, latents: torch.Tensor) -> torch.Tensor:
    """``(batch, F, C, H, W)`` to ``(batch, C, F, H, W)``."""
    return latents.transpose(1, 2)


def channels_last(pipe: Any, known: Known, latents: torch.Tensor) -> torch.Tensor:
    """``(batch, F, H, W, C)``, of pictures with one frame, to ``(batch, C, F, H, W)`` or ``(batch, C, H, W)``."""
    latents = latents.movedim(-1, 1)
    return latents.squeeze(2) if latents.shape[2] == 1 else latents


# -------------------------------------------------------------------------------------------------------- predictions


def like_latents(pipe: Any, known: Known, prediction: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
    """A prediction in the shape of the latents ``(batch, ...)``: without an empty axis, without the tokens of reference
    pictures, which come after those of the latents, without a learned variance, and without a first frame that is
    given."""
    if prediction.ndim == sample.ndim + 1 and 1 in prediction.shape[2:]:
        prediction = prediction.squeeze(2 + prediction.shape[2:].index(1))
    if prediction.ndim != sample.ndim:
        return prediction
    channels, wanted = prediction.shape[1], sample.shape[1]
    if channels > wanted and (prediction.ndim == 3 or channels == 2 * wanted):
        prediction = prediction[:, :wanted]
    if prediction.ndim == 5 and prediction.shape[2] == sample.shape[2] + 1:
        prediction = prediction[:, :, 1:]
    return prediction


def last_tokens(pipe: Any, known: Known, prediction: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
    """Those of the latents come after those of the prompt."""
    return prediction[:, -sample.shape[1] :]


def unpacked(pipe: Any, known: Known, prediction: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
    """The latents were unpacked for the step."""
    if prediction.ndim == 3 and sample.ndim == 5:
        prediction = packed_frames(True)(pipe, known, prediction)
    return like_latents(pipe, known, prediction, sample)


def velocity(pipe: Any, known: Known, prediction: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
    """The denoiser predicts the clean picture (PRX on pixels)."""
    share = torch.clamp(known["t"].float() / pipe.scheduler.config.num_train_timesteps, min=0.05)
    return (sample - prediction) / share


def preconditioned(pipe: Any, known: Known, prediction: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
    """The denoiser is preconditioned (arXiv 2206.00364, Table 1), and has a channel that nobody reads."""
    weight = pipe.scheduler.scale_model_input(known["sigma"], known["t"])
    return known["inv_sigma"] * known["latent_model_input"][: len(sample)] + weight * prediction[:, :-1]


def left_half(pipe: Any, known: Known, prediction: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
    """The reference picture stands to the right of the latents."""
    return prediction[..., : sample.shape[-1]]


# ----------------------------------------------------------------------------------------------------------- formulas


def plain(pipe: Any, known: Known) -> Formula:
    """`Formula`, rescaled where the pipeline or its guider is told to."""
    rescale = getattr(pipe, "guidance_rescale", None)
    rescale = known.get("guidance_rescale") if rescale is None else rescale
    rescale = getattr(known.get("guider"), "guidance_rescale", None) if rescale is None else rescale
    return Rescaled(float(rescale)) if rescale else Formula()


def renormalised_if(switch: str) -> Callable[[Any, Known], Formula]:
    """`TokenRenormalised` where a local variable of this name says so, else `Formula`."""
    return lambda pipe, known: TokenRenormalised() if known.get(switch) else Formula()


def bria(pipe: Any, known: Known) -> Formula:
    """`BatchRescaled` and clipped, as the pipeline is told to."""
    clip = known.get("clip_value")
    return BatchRescaled(clip) if known.get("normalize") else Clipped(clip) if clip else Formula()


def z_image(pipe: Any, known: Known) -> Formula:
    """`FromConditional`, limited where the pipeline is told to."""
    most = float(getattr(pipe, "_cfg_normalization", 0.0) or 0.0)
    return NormLimited(most) if most > 0 else FromConditional()


def longcat(pipe: Any, known: Known) -> Formula:
    """`TokenLimited`, if the pipeline is told to."""
    return TokenLimited(known["cfg_renorm_min"]) if known.get("enable_cfg_renorm") else Formula()


def ltx2(pipe: Any, known: Known) -> Formula:
    """`OfCleanLatents` at this step's sigma, with what is given of the video where there is something."""
    given = None
    if known.get("clean_latents") is not None and known.get("conditioning_mask") is not None:
        given = known["clean_latents"], known["conditioning_mask"][: len(known["latents"])]
    rescale = float(pipe.guidance_rescale or 0.0)
    return OfCleanLatents(known["latents"], pipe.scheduler.sigmas[known["i"]], rescale, given)


def ltx2_image(pipe: Any, known: Known) -> Formula:
    """The same, of all frames but the first, which is given.

    Raises:
        ValueError: the prediction is rescaled with its first frame and goes on without.
    """
    if pipe.guidance_rescale:
        raise ValueError("`guidance_rescale` must be 0: it would be measured on a frame that is left out afterwards.")
    latents = known["latents"]
    return OfCleanLatents(latents[:, :, 1:] if latents.ndim == 5 else latents, pipe.scheduler.sigmas[known["i"]], 0.0)


def ltx_image(pipe: Any, known: Known) -> Formula:
    """`Formula`; raises ValueError as `ltx2_image`."""
    if pipe.guidance_rescale:
        raise ValueError("`guidance_rescale` must be 0: it would be measured on a frame that is left out afterwards.")
    return plain(pipe, known)


def instructed(pipe: Any, known: Known, parts: tuple[torch.Tensor, ...]) -> WithReference:
    """InstructPix2Pix: prompt, picture, neither."""
    own = getattr(pipe, "image_guidance_scale", None)
    cond, reference, uncond = parts
    scale = known["image_guidance_scale"] if own is None else own
    return WithReference(uncond, reference, cond, scale, reference_first=False)


def dreamlite(pipe: Any, known: Known, parts: tuple[torch.Tensor, ...]) -> WithReference:
    """Neither, picture, prompt."""
    uncond, reference, cond = parts
    return WithReference(uncond, reference, cond, pipe.image_guidance_scale, reference_first=False)


def omnigen(pipe: Any, known: Known, parts: tuple[torch.Tensor, ...]) -> WithReference:
    """Prompt, neither, picture."""
    return WithReference(parts[1], parts[2], parts[0], known["img_guidance_scale"], reference_first=True)


# ---------------------------------------------------------------------------------------------------------- the table


@dataclass(frozen=True)
class Host:
    """What is particular about a pipeline.

    Attributes:
        formula: how it makes one prediction of two.
        unpack: its latents to what evaluators read, ``(batch, C, H, W)`` or ``(batch, C, F, H, W)``.
        read: what a denoiser returned to a prediction shaped as the latents of a step.
        three: the formula of a step with three passes, from them in the pipeline's order; `None` where there are two.
        denoisers: the attributes that hold the models whose passes sampling consists of.
        refused: why it cannot be guided, "" where it can.
    """

    formula: Callable[[Any, Known], Formula] = plain
    unpack: Unpack = as_is
    read: Callable[[Any, Known, torch.Tensor, torch.Tensor], torch.Tensor] = like_latents
    three: Callable[[Any, Known, tuple[torch.Tensor, ...]], WithReference] | None = None
    denoisers: tuple[str, ...] = ("unet", "transformer", "transformer_2")
    refused: str = ""


HOSTS = {
    "AnyFlow": Host(unpack=frames_first),
    "Bria": Host(formula=bria, unpack=patches(2)),
    "BriaFibo": Host(unpack=lambda pipe, known, x: patches(2 if known.get("do_patching") else 1)(pipe, known, x)),
    "CogVideoX": Host(unpack=frames_first),
    "ConsisID": Host(unpack=frames_first),
    "DreamLite": Host(read=left_half, three=dreamlite),
    "Flux": Host(unpack=patches(2)),
    "Flux2Pipeline": Host(refused=DISTILLED),
    "FluxControlImg2Img": Host(refused=DISTILLED),
    "FluxControlInpaint": Host(refused=DISTILLED),
    "FluxControlNetImg2Img": Host(refused=DISTILLED),
    "FluxControlNetInpaint": Host(refused=DISTILLED),
    "FluxControlPipeline": Host(refused=DISTILLED),
    "FluxFill": Host(refused=DISTILLED),
    "Ideogram4": Host(
        formula=lambda pipe, known: WeightedSum(),
        unpack=channels_within,
        read=last_tokens,
        denoisers=("transformer", "unconditional_transformer"),
    ),
    "JoyImage": Host(formula=lambda pipe, known: TokenFloored(), unpack=last_item),
    "JoyImageEditPlus": Host(formula=lambda pipe, known: TokenFloored(), unpack=first_patches),
    "Kandinsky5": Host(unpack=channels_last),
    "Krea2": Host(formula=lambda pipe, known: FromConditional(), unpack=patches(2)),
    "HunyuanImageRefiner": Host(unpack=one_frame),
    "LTX": Host(unpack=packed_frames(True), read=unpacked),
    "LTXI2VLong": Host(unpack=all_frames, read=unpacked),
    "LTXImageToVideo": Host(formula=ltx_image, unpack=packed_frames(True), read=unpacked),
    "LTX2": Host(formula=ltx2, unpack=packed_frames(False), read=unpacked),
    "LTX2ImageToVideo": Host(formula=ltx2_image, unpack=packed_frames(False), read=unpacked),
    "LatentConsistency": Host(refused=DISTILLED),
    "LongCatImage": Host(formula=longcat, unpack=patches(2)),
    "Lumina2": Host(formula=renormalised_if("cfg_normalization")),
    "LuminaPipeline": Host(formula=lambda pipe, known: FirstChannels(3)),
    "NucleusMoE": Host(formula=lambda pipe, known: TokenRenormalised(), unpack=patches(2)),
    "OmniGen": Host(three=omnigen),
    "OvisImage": Host(unpack=patches(2)),
    "PRXPixel": Host(read=velocity),
    "QwenImage": Host(formula=lambda pipe, known: TokenRenormalised(), unpack=patches(2)),
    "QwenImage21": Host(unpack=patches(1), read=last_tokens),
    "QwenImageLayered": Host(formula=renormalised_if("cfg_normalize"), unpack=layers),
    "SanaSprint": Host(refused=DISTILLED),
    "SkyReelsV2DiffusionForcing": Host(refused=COPIES),
    "StableDiffusionLatentUpscale": Host(read=preconditioned),
    "StableDiffusionInstructPix2Pix": Host(three=instructed),
    "StableDiffusionXLInstructPix2Pix": Host(three=instructed),
    "VisualCloze": Host(refused=DISTILLED),
    "ZImage": Host(formula=z_image),
}


def host_of(pipe: Any) -> Host:
    """The row of a pipeline's class or of the nearest base class that has one."""
    for cls in type(pipe).__mro__:
        rows = [name for name in HOSTS if cls.__name__.startswith(name)]
        if rows:
            return HOSTS[max(rows, key=len)]
    return Host()


def denoisers(pipe: Any) -> list[torch.nn.Module]:
    """The models whose forward passes sampling consists of."""
    found = (getattr(pipe, name, None) for name in host_of(pipe).denoisers)
    return [module for module in found if module is not None]
