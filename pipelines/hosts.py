"""The particulars of hosts: where a pipeline departs from ``denoiser -> u + s (c - u) -> scheduler.step``.

A host is one row of `HOSTS`, found by the beginning of its class's name, the longest that fits. A pipeline without a
row is taken to be plain; what is not plain about it is found out at the first step (`reading`), or it is refused.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from guidance.formula import Formula, Rescaled

from .formulas import (
    BatchRescaled,
    Clipped,
    Extrapolated,
    FirstChannels,
    FromConditional,
    NormLimited,
    OfCleanLatents,
    OfCleanPictures,
    TokenFloored,
    TokenLimited,
    TokenRenormalised,
    WeightedSum,
    WithReference,
)
from .layouts import (
    Known,
    Unpack,
    all_frames,
    all_places,
    alone,
    as_is,
    channels_last,
    channels_within,
    first_patches,
    frames_first,
    last_item,
    last_tokens,
    layers,
    left_half,
    length_first,
    like_latents,
    one_frame,
    one_more_axis,
    packed_frames,
    patches,
    place_by_place,
    preconditioned,
    share_of_noise,
    unpacked,
    velocity,
    with_given,
)

DISTILLED = "it is distilled: it makes one pass a step, so there is no scale to choose."
EMBEDDING = "it denoises an embedding, not a picture."
CLEAN = "it guides predictions of the clean video, mixed with what is given of it."
COPIES = "it steps by copies of its scheduler, one for each frame, of which nothing can be seen."

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


def kandinsky6(pipe: Any, known: Known) -> Formula:
    """`Formula`.

    Raises:
        ValueError: sound is made beside the video.
    """
    if known.get("sample_audio"):
        raise ValueError(
            "`sample_audio` must be False: sound is guided by the same scale, where it cannot be replaced."
        )
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
    "AceStep": Host(refused="it guides by projection, with a momentum (APG)."),
    "Anima": Host(unpack=one_frame),
    "AnyFlow": Host(unpack=frames_first),
    "Bria": Host(formula=bria, unpack=patches(2)),
    "BriaFibo": Host(unpack=lambda pipe, known, x: patches(2 if known.get("do_patching") else 1)(pipe, known, x)),
    "CogVideoX": Host(unpack=frames_first),
    "ConsisID": Host(unpack=frames_first),
    "Cosmos2TextToImage": Host(refused=CLEAN),
    "Cosmos2VideoToWorld": Host(refused=CLEAN),
    "Cosmos2_5": Host(read=with_given),
    "Cosmos3Omni": Host(unpack=one_more_axis),
    "CosmosTextToWorld": Host(refused=CLEAN),
    "CosmosVideoToWorld": Host(refused=CLEAN),
    "CycleDiffusion": Host(refused="it guides two prompts side by side, each by a scale of its own."),
    "DiTPipeline": Host(refused="its scheduler steps conditional and unconditional rows as one batch."),
    "DreamLiteMobile": Host(refused=DISTILLED),
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
    "Kandinsky3": Host(formula=lambda pipe, known: Extrapolated()),
    "KandinskyPrior": Host(refused=EMBEDDING),
    "KandinskyV22Prior": Host(refused=EMBEDDING),
    "Kandinsky5I2V": Host(unpack=channels_last, read=last_tokens),
    "Kandinsky6": Host(formula=kandinsky6, unpack=channels_last),
    "Kandinsky5": Host(unpack=channels_last),
    "Krea2": Host(formula=lambda pipe, known: FromConditional(), unpack=patches(2)),
    "HunyuanImageRefiner": Host(unpack=one_frame),
    "LTX": Host(unpack=packed_frames(True), read=unpacked),
    "LTXI2VLong": Host(unpack=all_frames, read=unpacked),
    "LTXImageToVideo": Host(formula=ltx_image, unpack=packed_frames(True), read=unpacked),
    "LTX2": Host(formula=ltx2, unpack=packed_frames(False), read=unpacked),
    "LTX2ImageToVideo": Host(formula=ltx2_image, unpack=packed_frames(False), read=unpacked),
    "LatentConsistency": Host(refused=DISTILLED),
    "LongCatAudio": Host(unpack=length_first),
    "LongCatImage": Host(formula=longcat, unpack=patches(2)),
    "Lumina2": Host(formula=renormalised_if("cfg_normalization")),
    "LuminaPipeline": Host(formula=lambda pipe, known: FirstChannels(3)),
    "NucleusMoE": Host(formula=lambda pipe, known: TokenRenormalised(), unpack=patches(2)),
    "OmniGen": Host(three=omnigen),
    "OvisImage": Host(unpack=patches(2)),
    "PRXPixel": Host(
        formula=lambda pipe, known: OfCleanPictures(
            known["latents"], share_of_noise(pipe, known), pipe.transformer.dtype
        ),
        read=velocity,
    ),
    "QwenImage": Host(formula=lambda pipe, known: TokenRenormalised(), unpack=patches(2)),
    "QwenImage21": Host(unpack=patches(1), read=last_tokens),
    "QwenImageLayered": Host(formula=renormalised_if("cfg_normalize"), unpack=layers),
    "SanaSprint": Host(refused=DISTILLED),
    "SanaWM": Host(unpack=all_places, read=place_by_place),
    "ShapE": Host(refused="it denoises the parameters of a shape, not a picture."),
    "SkyReelsV2DiffusionForcing": Host(refused=COPIES),
    "StableCascade": Host(refused="its scheduler keeps no noise levels, by which candidates are compared."),
    "StableVideoDiffusion": Host(refused="it guides every frame by a scale of its own."),
    "StableDiffusionPanorama": Host(refused="it steps by states of its scheduler, one for each window, unseen."),
    "StableDiffusionParadigms": Host(refused="it takes many steps at once."),
    "StableDiffusionLatentUpscale": Host(read=preconditioned),
    "StableDiffusionInstructPix2Pix": Host(three=instructed),
    "StableDiffusionXLInstructPix2Pix": Host(three=instructed),
    "TextToVideoZero": Host(refused="it steps by copies of its scheduler, of which nothing can be seen."),
    "VisualCloze": Host(refused=DISTILLED),
    "WanAnimate2": Host(read=alone),
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
