"""How hosts lay out latents and predictions: to what evaluators read, and to the shape of the latents of a step."""

import math
from collections.abc import Callable
from typing import Any

import torch

Known = dict[str, Any]  # the local variables of the pipeline's call
Unpack = Callable[[Any, Known, torch.Tensor], torch.Tensor]

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


def frames_height_width(pipe: Any, known: Known) -> tuple[int, ...]:
    """Of LTX's latents; modular pipelines keep only those of the video."""
    names = ("latent_num_frames", "latent_height", "latent_width")
    if names[0] in known:
        return tuple(int(known[name]) for name in names)
    frames = (known["num_frames"] - 1) // pipe.vae_temporal_compression_ratio + 1
    return frames, *(known[name] // pipe.vae_spatial_compression_ratio for name in ("height", "width"))


def packed_frames(last: bool) -> Unpack:
    """Of LTX's ``(batch, tokens, C)``: ``(batch, C, F, H, W)``, without the tokens of what else is given, which come
    before those of the video, or after where they are not the `last`."""

    def unpack(pipe: Any, known: Known, latents: torch.Tensor) -> torch.Tensor:
        if latents.ndim != 3:
            return latents
        shape = frames_height_width(pipe, known)
        tokens = math.prod(shape)
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


def length_first(pipe: Any, known: Known, latents: torch.Tensor) -> torch.Tensor:
    """Sound ``(batch, L, C)`` to ``(batch, C, L)``."""
    return latents.transpose(1, 2)


def one_more_axis(pipe: Any, known: Known, latents: torch.Tensor) -> torch.Tensor:
    """``(1, batch, C, F, H, W)`` to ``(batch, C, F, H, W)`` (Cosmos 3)."""
    return latents.squeeze(0) if latents.ndim == 6 else latents


def all_places(pipe: Any, known: Known, latents: torch.Tensor) -> torch.Tensor:
    """``(batch, F · H · W, C)`` to ``(batch, C, F, H, W)``, where a local variable holds latents of that shape
    (Sana-WM)."""
    if latents.ndim == 5:
        return latents
    return latents.transpose(1, 2).unflatten(2, known["latents"].shape[2:])


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


def alone(pipe: Any, known: Known, prediction: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
    """Of a batch of one, without its axis (Wan-Animate 2)."""
    return prediction[None]


def place_by_place(pipe: Any, known: Known, prediction: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
    """``(batch, C, F, H, W)`` to ``(batch, F · H · W, C)``."""
    return prediction.flatten(2).transpose(1, 2)


def with_given(pipe: Any, known: Known, prediction: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
    """What is given of a video has a velocity that is known (Cosmos 2.5)."""
    if "gt_velocity" not in known:
        return prediction
    return known["gt_velocity"] + prediction * (1 - known["cond_mask"])


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
    return (sample.float() - prediction.float()) / share_of_noise(pipe, known)


def share_of_noise(pipe: Any, known: Known) -> torch.Tensor:
    """As PRX on pixels takes it of a timestep."""
    return torch.clamp(known["t"].float() / pipe.scheduler.config.num_train_timesteps, min=0.05)


def preconditioned(pipe: Any, known: Known, prediction: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
    """The denoiser is preconditioned (arXiv 2206.00364, Table 1), and has a channel that nobody reads."""
    weight = pipe.scheduler.scale_model_input(known["sigma"], known["t"])
    return known["inv_sigma"] * known["latent_model_input"][: len(sample)] + weight * prediction[:, :-1]


def left_half(pipe: Any, known: Known, prediction: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
    """The reference picture stands to the right of the latents."""
    return prediction[..., : sample.shape[-1]]
