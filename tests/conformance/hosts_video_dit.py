"""Mochi, Allegro, EasyAnimate and Latte."""

import torch
from diffusers import (
    AllegroPipeline,
    AllegroTransformer3DModel,
    AutoencoderKLAllegro,
    AutoencoderKLMagvit,
    AutoencoderKLMochi,
    DDIMScheduler,
    EasyAnimateInpaintPipeline,
    EasyAnimatePipeline,
    EasyAnimateTransformer3DModel,
    EulerAncestralDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LattePipeline,
    LatteTransformer3DModel,
    MochiPipeline,
    MochiTransformer3DModel,
)
from host import register
from parts_video import SIZE, chat_tokenizer, qwen2_vl, row
from tiny import DIM, t5, vae

SIDE = SIZE // 8


def mochi():
    text_encoder, tokenizer = t5(DIM)
    autoencoder = AutoencoderKLMochi(
        encoder_block_out_channels=(32,) * 4,
        decoder_block_out_channels=(32,) * 4,
        layers_per_block=(1,) * 5,
    )
    transformer = MochiTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        pooled_projection_dim=DIM,
        text_embed_dim=DIM,
        time_embed_dim=4,
        max_sequence_length=16,
    )
    return MochiPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
        vae=autoencoder,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=transformer,
    )


def allegro():
    text_encoder, tokenizer = t5(DIM)
    autoencoder = AutoencoderKLAllegro(
        block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=2, sample_size=SIZE
    )
    transformer = AllegroTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=24,
        num_layers=1,
        cross_attention_dim=48,
        sample_height=SIDE,
        sample_width=SIDE,
        sample_frames=3,
        caption_channels=DIM,
    )
    return AllegroPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=autoencoder,
        transformer=transformer,
        scheduler=EulerAncestralDiscreteScheduler(beta_schedule="scaled_linear", timestep_spacing="trailing"),
    )


def easyanimate(kind: type = EasyAnimatePipeline, in_channels: int = 4, **kwargs):
    autoencoder = AutoencoderKLMagvit(
        latent_channels=4, block_out_channels=[8, 8, 8, 8], layers_per_block=1, norm_num_groups=2
    )
    transformer = EasyAnimateTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=in_channels,
        out_channels=4,
        patch_size=2,
        sample_width=SIDE,
        sample_height=SIDE,
        num_layers=2,
        mmdit_layers=1,
        time_embed_dim=2,
        text_embed_dim=DIM,
        add_norm_text_encoder=True,
        **kwargs,
    )
    return kind(
        vae=autoencoder,
        text_encoder=qwen2_vl(),
        tokenizer=chat_tokenizer(),
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def latte():
    text_encoder, tokenizer = t5(DIM)
    transformer = LatteTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        cross_attention_dim=16,
        attention_bias=True,
        sample_size=8,
        patch_size=2,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        caption_channels=DIM,
        video_length=3,
    )
    return LattePipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=vae(),
        transformer=transformer,
        scheduler=DDIMScheduler(beta_schedule="linear", clip_sample=False),
    )


def pixels(channels: int = 3) -> torch.Tensor:
    """Two videos of noise in [0, 1]."""
    return torch.rand(2, channels, FRAMES, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def mask() -> torch.Tensor:
    """Of the right half."""
    return torch.ones(2, 1, FRAMES, SIZE, SIZE) * (torch.arange(SIZE) >= SIZE // 2)


def seeded() -> torch.Generator:
    """One generator for all videos: those of a list are refused."""
    return torch.Generator().manual_seed(0)


def inpaint():
    return easyanimate(EasyAnimateInpaintPipeline, in_channels=12, resize_inpaint_mask_directly=False)


FRAMES = 5  # of the video, which makes two frames of latents
SHAPE = (4, 2, SIDE, SIDE)
EASY = {"num_frames": FRAMES, "negative_prompt": ["", ""]}

register(
    row(
        "mochi",
        mochi,
        (12, 2, SIDE, SIDE),
        num_frames=7,
        max_sequence_length=16,
        note="Its noise falls as its sigma grows.",
    ),
    row("allegro", allegro, SHAPE, num_frames=FRAMES, max_sequence_length=16, clean_caption=False),
    row("easyanimate", easyanimate, SHAPE, **EASY),
    row("easyanimate-rescale", easyanimate, SHAPE, **EASY, guidance_rescale=0.7),
    row("easyanimate-inpaint", inpaint, SHAPE, **EASY, video=pixels, mask_video=mask, generator=seeded),
    row(
        "latte",
        latte,
        (4, 3, 8, 8),
        height=16,
        width=16,
        video_length=3,
        clean_caption=False,
        note="The learned variance among its predictions is cut off after guidance.",
    ),
)
