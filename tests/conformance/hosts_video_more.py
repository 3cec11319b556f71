"""Pipelines that stand on Wan's autoencoder and text encoder."""

from diffusers import (
    AnyFlowFARPipeline,
    AnyFlowFARTransformer3DModel,
    AnyFlowPipeline,
    AnyFlowTransformer3DModel,
    ChronoEditPipeline,
    ChronoEditTransformer3DModel,
    FlowMapEulerDiscreteScheduler,
    HeliosPipeline,
    HeliosPyramidPipeline,
    HeliosScheduler,
    HeliosTransformer3DModel,
    LucyEditPipeline,
    SkyReelsV2DiffusionForcingImageToVideoPipeline,
    SkyReelsV2DiffusionForcingPipeline,
    SkyReelsV2DiffusionForcingVideoToVideoPipeline,
    SkyReelsV2ImageToVideoPipeline,
    SkyReelsV2Pipeline,
    SkyReelsV2Transformer3DModel,
)
from host import register
from hosts_video import CHANNELS, FRAMES, IMAGE, IMAGE_TEXT, SHAPE, T2V, i2v_transformer, transformer, wan
from parts_video import clip, clip_vision, row
from tiny import DIM


def skyreels(kind: type):
    return wan(kind, transformer=transformer(SkyReelsV2Transformer3DModel))


def skyreels_i2v():
    model = i2v_transformer(kind=SkyReelsV2Transformer3DModel, image_dim=DIM, added_kv_proj_dim=24)
    return wan(SkyReelsV2ImageToVideoPipeline, transformer=model, **clip_vision())


def chronoedit():
    model = i2v_transformer(kind=ChronoEditTransformer3DModel, image_dim=DIM, added_kv_proj_dim=24)
    return wan(ChronoEditPipeline, transformer=model, **clip_vision())


def helios_transformer() -> HeliosTransformer3DModel:
    return HeliosTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        text_dim=DIM,
        freq_dim=16,
        ffn_dim=16,
        num_layers=2,
        rope_dim=(4, 4, 4),
    )


def helios():
    return wan(
        HeliosPipeline, transformer=helios_transformer(), scheduler=HeliosScheduler(stages=1, stage_range=[0, 1])
    )


def helios_pyramid(**kwargs):
    # The default gamma leaves a matrix that is decomposed singular but for rounding.
    scheduler = HeliosScheduler(stages=2, stage_range=[0, 0.5, 1], gamma=0.3)
    return wan(HeliosPyramidPipeline, transformer=helios_transformer(), scheduler=scheduler, **kwargs)


def anyflow(kind: type = AnyFlowPipeline, model: type = AnyFlowTransformer3DModel, **kwargs):
    return wan(kind, transformer=transformer(model, **kwargs), scheduler=FlowMapEulerDiscreteScheduler(shift=3.0))


FORCED = "Every frame of the latents has a scheduler of its own."

LARGE = (CHANNELS, 2, 8, 8)
PYRAMID = T2V | {
    "num_latent_frames_per_chunk": 2,
    "history_sizes": lambda: [4, 2, 1],
    "num_inference_steps": None,
    "pyramid_num_inference_steps_list": lambda: [3, 3],
    "height": 64,
    "width": 64,
}

register(
    row(
        "lucy-edit",
        lambda: wan(LucyEditPipeline, transformer=transformer(in_channels=2 * CHANNELS), expand_timesteps=True),
        SHAPE,
        **T2V,
        video=lambda: [clip(FRAMES)] * 2,
    ),
    row("chronoedit", chronoedit, SHAPE, **IMAGE | {"max_sequence_length": IMAGE_TEXT}),
    row(
        "chronoedit-reasoning",
        chronoedit,
        SHAPE,
        **IMAGE | {"max_sequence_length": IMAGE_TEXT, "num_frames": 9},
        enable_temporal_reasoning=True,
        num_temporal_reasoning_steps=3,
        note="All frames but the first and the last are dropped midway.",
    ),
    row("skyreels-v2", lambda: skyreels(SkyReelsV2Pipeline), SHAPE, **T2V),
    row("skyreels-v2-i2v", skyreels_i2v, SHAPE, **IMAGE | {"max_sequence_length": IMAGE_TEXT}),
    row(
        "skyreels-v2-df",
        lambda: skyreels(SkyReelsV2DiffusionForcingPipeline),
        SHAPE,
        **T2V,
        note=FORCED,
        refused="by copies of its scheduler",
    ),
    row(
        "skyreels-v2-df-i2v",
        lambda: skyreels(SkyReelsV2DiffusionForcingImageToVideoPipeline),
        SHAPE,
        **IMAGE,
        note=FORCED,
        refused="by copies of its scheduler",
    ),
    row(
        "skyreels-v2-df-v2v",
        lambda: skyreels(SkyReelsV2DiffusionForcingVideoToVideoPipeline),
        (CHANNELS, 3, *SHAPE[2:]),
        **T2V | {"num_frames": 9, "base_num_frames": 9},
        video=lambda: clip(FRAMES),
        overlap_history=1,
        note=FORCED,
        refused="by copies of its scheduler",
    ),
    row(
        "helios",
        helios,
        SHAPE,
        **T2V | {"num_frames": 2 * FRAMES},
        num_latent_frames_per_chunk=2,
        history_sizes=lambda: [4, 2, 1],
        note="Chunks one after another, each with all steps; the output has all of them.",
    ),
    row("helios-pyramid", helios_pyramid, LARGE, **PYRAMID, note="Its latents grow from stage to stage."),
    row(
        "helios-pyramid-zero-star",
        lambda: helios_pyramid(is_cfg_zero_star=True),
        LARGE,
        **PYRAMID,
        note="CFG-Zero*: its first predictions are zeros, then the unconditional one is projected.",
        refused="does not guide by u + s (c - u)",
    ),
    row("anyflow", anyflow, SHAPE, **T2V, note="Frames come before channels in its latents."),
    row(
        "anyflow-far",
        lambda: anyflow(AnyFlowFARPipeline, AnyFlowFARTransformer3DModel, chunk_partition=(1, 1)),
        (CHANNELS, 1, *SHAPE[2:]),
        **T2V,
        note="Chunks one after another, each with all steps; frames come before channels.",
    ),
)
