"""Kandinsky 5: channels come last in its latents."""

from diffusers import (
    AutoencoderKLHunyuanVideo,
    FlowMatchEulerDiscreteScheduler,
    Kandinsky5I2VPipeline,
    Kandinsky5T2VPipeline,
    Kandinsky5Transformer3DModel,
)
from host import register
from parts_video import SIZE, chat_tokenizer, filled, pictures, qwen2_5_vl, row
from tiny import DIM, text_config, tokenizer
from transformers import CLIPTextConfig, CLIPTextModel

CHANNELS = 4
SIDE = SIZE // 8
SHAPE = (CHANNELS, 2, SIDE, SIDE)


def shared() -> dict:
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=CHANNELS, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=2
    )
    return {
        "vae": vae,
        "text_encoder": qwen2_5_vl(),
        "tokenizer": chat_tokenizer(),
        "text_encoder_2": CLIPTextModel(CLIPTextConfig(**text_config(max_position_embeddings=77))),
        "tokenizer_2": tokenizer(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=5.0),
    }


def kandinsky5(kind: type = Kandinsky5T2VPipeline, visual_cond: bool = False):
    transformer = Kandinsky5Transformer3DModel(
        in_visual_dim=CHANNELS,
        in_text_dim=DIM,
        in_text_dim2=DIM,
        time_dim=16,
        out_visual_dim=CHANNELS,
        model_dim=24,
        ff_dim=24,
        num_text_blocks=1,
        num_visual_blocks=1,
        axes_dims=(4, 4, 4),
        visual_cond=visual_cond,
    )
    pipe = kind(transformer=filled(transformer), **shared())
    pipe.prompt_template, pipe.prompt_template_encode_start_idx = "{}", 0
    return pipe


T2V = {"num_frames": 5, "max_sequence_length": 32, "negative_prompt": ["", ""]}

register(
    row("kandinsky5", kandinsky5, SHAPE, **T2V),
    row(
        "kandinsky5-i2v",
        lambda: kandinsky5(Kandinsky5I2VPipeline, visual_cond=True),
        (CHANNELS, 5, SIDE, SIDE),
        **T2V | {"num_frames": 21},
        image=pictures,
        note="The first frame of its latents never reaches the scheduler.",
    ),
)
