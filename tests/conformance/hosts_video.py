"""Wan: the most used video pipelines, and those built on its transformer."""

from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanAnimatePipeline,
    WanAnimateTransformer3DModel,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
    WanVACEPipeline,
    WanVACETransformer3DModel,
    WanVideoToVideoPipeline,
)
from host import register
from parts_video import SIZE, clip, clip_vision, one_prompt, picture, row, umt5, wan_vae
from tiny import DIM

CHANNELS, FRAMES = 4, 5  # of the latents; of the video, which makes two frames of latents
SHAPE = (CHANNELS, 2, SIZE // 8, SIZE // 8)
IMAGE_TEXT = 512  # tokens of text that Wan 2.1's transformer expects behind those of an image


def transformer(kind: type = WanTransformer3DModel, **kwargs) -> WanTransformer3DModel:
    defaults = {
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": CHANNELS,
        "out_channels": CHANNELS,
        "text_dim": DIM,
        "freq_dim": 16,
        "ffn_dim": 16,
        "num_layers": 2,
        "rope_max_seq_len": 32,
    }
    return kind(**defaults | kwargs)


def unipc() -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


def wan(kind: type = WanPipeline, **parts):
    return kind(**{"vae": wan_vae(), "scheduler": unipc(), "transformer": transformer()} | umt5() | parts)


def moe(kind: type = WanPipeline, **kwargs):
    """Wan 2.2: one transformer for much noise, one for little."""
    models = {"transformer": transformer(**kwargs), "transformer_2": transformer(**kwargs)}
    return wan(kind, **models, boundary_ratio=0.875)


def animate():
    model = transformer(
        WanAnimateTransformer3DModel,
        in_channels=2 * CHANNELS + 4,
        latent_channels=CHANNELS,
        image_dim=DIM,
        added_kv_proj_dim=24,
        motion_encoder_channel_sizes={"4": 8, "8": 8, "16": 8},
        motion_encoder_size=16,
        motion_style_dim=8,
        motion_dim=4,
        motion_encoder_dim=8,
        face_encoder_hidden_dim=8,
        face_encoder_num_heads=2,
        inject_face_latents_blocks=2,
    )
    return wan(WanAnimatePipeline, transformer=model, **clip_vision())


def i2v(**parts):
    return wan(WanImageToVideoPipeline, **parts)


def i2v_transformer(**kwargs) -> WanTransformer3DModel:
    """Also reads a mask of 4 channels and the latents of the image."""
    return transformer(**{"in_channels": 2 * CHANNELS + 4} | kwargs)


def vace_transformer() -> WanVACETransformer3DModel:
    """Control: latents to keep and to change, and a mask of 8×8 channels."""
    return transformer(WanVACETransformer3DModel, vace_layers=[0, 1], vace_in_channels=2 * CHANNELS + 64)


FIRST_SCALE = "Its second scale is left to follow the first."
T2V = {"num_frames": FRAMES, "max_sequence_length": 16}
IMAGE = T2V | {"image": picture}

register(
    row("wan-t2v", wan, SHAPE, common=True, **T2V),
    row("wan-t2v-euler", lambda: wan(scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0)), SHAPE, **T2V),
    row("wan-2.2-t2v", moe, SHAPE, note=FIRST_SCALE, **T2V),
    row("wan-2.2-t2v-two-scales", moe, SHAPE, changes=True, guidance_scale_2=3.0, **T2V),
    row("wan-2.2-ti2v", lambda: wan(expand_timesteps=True), SHAPE, note="A timestep per token.", **T2V),
    row(
        "wan-i2v",
        lambda: i2v(transformer=i2v_transformer(image_dim=DIM, added_kv_proj_dim=24), **clip_vision()),
        SHAPE,
        **IMAGE | {"max_sequence_length": IMAGE_TEXT},
    ),
    row(
        "wan-2.2-i2v",
        lambda: i2v(transformer=i2v_transformer(), transformer_2=i2v_transformer(), boundary_ratio=0.875),
        SHAPE,
        note=FIRST_SCALE,
        **IMAGE,
    ),
    row(
        "wan-2.2-ti2v-image",
        lambda: i2v(expand_timesteps=True),
        SHAPE,
        note="The first frame of its latents is replaced at the end.",
        **IMAGE,
    ),
    row(
        "wan-v2v",
        lambda: wan(WanVideoToVideoPipeline),
        SHAPE,
        video=lambda: clip(FRAMES),
        strength=0.7,
        max_sequence_length=16,
    ),
    row(
        "wan-vace",
        lambda: wan(WanVACEPipeline, transformer=vace_transformer()),
        (CHANNELS, 3, *SHAPE[2:]),
        **T2V | one_prompt(),
        video=lambda: clip(FRAMES),
        reference_images=picture,
    ),
    row(
        "wan-2.2-vace",
        lambda: wan(
            WanVACEPipeline, transformer=vace_transformer(), transformer_2=vace_transformer(), boundary_ratio=0.875
        ),
        SHAPE,
        **T2V | one_prompt(),
    ),
    row(
        "wan-animate",
        animate,
        (CHANNELS, 3, *SHAPE[2:]),
        image=picture,
        note="Segments one after another, each with all steps; the latents are the last one's.",
        pose_video=lambda: clip(2 * FRAMES - 1),
        face_video=lambda: clip(2 * FRAMES - 1, 16),
        segment_frame_length=FRAMES,
        max_sequence_length=IMAGE_TEXT,
    ),
)
