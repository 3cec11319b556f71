"""Kandinsky 5 and 6: channels come last in their latents."""

from diffusers import (
    AutoencoderKLHunyuanVideo,
    FlowMatchEulerDiscreteScheduler,
    Kandinsky5I2VPipeline,
    Kandinsky5T2VPipeline,
    Kandinsky5Transformer3DModel,
    Kandinsky6TI2VAPipeline,
    Kandinsky6Transformer3DModel,
    MMAudioVAE,
    MMAudioVocoder,
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


def kandinsky6():
    transformer = Kandinsky6Transformer3DModel(
        in_visual_dim=CHANNELS,
        out_visual_dim=CHANNELS,
        in_text_dim=DIM,
        in_text_dim2=DIM,
        time_dim=16,
        model_dim=24,
        ff_dim=24,
        num_text_blocks=1,
        num_visual_blocks=1,
        axes_dims=(4, 4, 4),
        in_audio_dim=4,
        out_audio_dim=4,
        visual_token_type_num_embeddings=2,
    )
    audio_vae = MMAudioVAE(
        mel_bins=16, latent_channels=4, hidden_channels=8, channel_multipliers=(1,), layers_per_block=1
    )
    vocoder = MMAudioVocoder(
        num_mels=16,
        upsample_initial_channel=8,
        upsample_rates=(2,),
        upsample_kernel_sizes=(4,),
        resblock_kernel_sizes=(3,),
        resblock_dilation_sizes=((1,),),
    )
    return Kandinsky6TI2VAPipeline(transformer=filled(transformer), audio_vae=audio_vae, vocoder=vocoder, **shared())


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
    # The words around its prompts cannot be changed, and are longer here than what is read: CLIP alone reads prompts.
    row("kandinsky6", kandinsky6, SHAPE, **T2V, sample_audio=False),
    row(
        "kandinsky6-i2v",
        kandinsky6,
        (CHANNELS, 3, SIDE, SIDE),
        **T2V,
        image=pictures,
        sample_audio=False,
        note="The picture comes last in its latents.",
    ),
    row(
        "kandinsky6-audio",
        kandinsky6,
        SHAPE,
        **T2V,
        note="Sound is guided by the same scale, by a scheduler's copy; without sound it can be guided.",
        refused="`sample_audio` must be False",
    ),
)
