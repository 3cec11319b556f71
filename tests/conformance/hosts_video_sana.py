"""Sana-Video and Motif-Video."""

from diffusers import (
    ClassifierFreeGuidance,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    MotifVideoImage2VideoPipeline,
    MotifVideoPipeline,
    MotifVideoTransformer3DModel,
    SanaImageToVideoPipeline,
    SanaVideoPipeline,
    SanaVideoTransformer3DModel,
)
from host import register
from parts_video import SIZE, one_prompt, picture, row, wan_vae
from tiny import DIM, t5
from transformers import Gemma2Config, Gemma2Model, SiglipImageProcessor
from transformers.models.t5gemma2.configuration_t5gemma2 import T5Gemma2EncoderConfig
from transformers.models.t5gemma2.modeling_t5gemma2 import T5Gemma2Encoder

CHANNELS, FRAMES = 4, 5
SIDE = SIZE // 8
SHAPE = (CHANNELS, 2, SIDE, SIDE)


def gemma2(kind: type = Gemma2Model) -> dict:
    words = t5(DIM)[1]
    config = Gemma2Config(
        vocab_size=len(words),
        hidden_size=DIM,
        intermediate_size=DIM,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    return {"text_encoder": kind(config), "tokenizer": words}


def sana(kind: type = SanaVideoPipeline, scheduler=None, **parts):
    transformer = SanaVideoTransformer3DModel(
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=1,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=DIM,
        sample_size=SIDE,
        rope_max_seq_len=32,
    )
    scheduler = scheduler or FlowMatchEulerDiscreteScheduler(shift=8.0)
    return kind(**{"vae": wan_vae(), "transformer": transformer, "scheduler": scheduler} | gemma2() | parts)


def dpm():
    return DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=8.0)


def t5gemma2() -> T5Gemma2Encoder:
    """Which also sees pictures, as 4 tokens."""
    text = {
        "vocab_size": len(t5(DIM)[1]),
        "hidden_size": DIM,
        "intermediate_size": DIM,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "dropout_rate": 0.0,
        "attention_dropout": 0.0,
    }
    vision = {
        "hidden_size": DIM,
        "intermediate_size": DIM,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 8,
        "patch_size": 4,
    }
    return T5Gemma2Encoder(T5Gemma2EncoderConfig(text_config=text, vision_config=vision, mm_tokens_per_image=4))


def motif(kind: type = MotifVideoPipeline, image_dim: int | None = None, **parts):
    transformer = MotifVideoTransformer3DModel(
        in_channels=2 * CHANNELS + 1,
        out_channels=CHANNELS,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_single_layers=1,
        text_embed_dim=DIM,
        image_embed_dim=image_dim,
        rope_axes_dim=(2, 2, 4),
    )
    return kind(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=wan_vae(),
        text_encoder=t5gemma2(),
        tokenizer=t5(DIM)[1],
        transformer=transformer,
        guider=ClassifierFreeGuidance(),
        **parts,
    )


def motif_i2v():
    processor = SiglipImageProcessor(size={"height": 8, "width": 8})
    return motif(MotifVideoImage2VideoPipeline, DIM, feature_extractor=processor)


SANA = {"frames": FRAMES, "max_sequence_length": 16, "complex_human_instruction": list, "use_resolution_binning": False}
MOTIF = {"scale": "guider.guidance_scale", "num_frames": FRAMES, "max_sequence_length": 16}

register(
    row("sana-video", sana, SHAPE, **SANA),
    row("sana-video-dpm", lambda: sana(scheduler=dpm()), SHAPE, **SANA),
    row(
        "sana-video-i2v",
        lambda: sana(SanaImageToVideoPipeline),
        (CHANNELS, 1, SIDE, SIDE),
        **SANA,
        image=picture,
        note="The first frame of its latents never reaches the scheduler.",
    ),
    row("motif-video", motif, SHAPE, **MOTIF),
    row("motif-video-i2v", motif_i2v, SHAPE, **MOTIF | one_prompt(), image=picture),
)
