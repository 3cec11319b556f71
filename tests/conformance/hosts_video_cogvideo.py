"""CogVideoX: frames before channels, and a scheduler whose step takes the last clean prediction."""

from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXFunControlPipeline,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    CogVideoXVideoToVideoPipeline,
)
from host import register
from parts_video import SIZE, clip, pictures, row
from tiny import DIM, t5

CHANNELS, FRAMES = 4, 5  # of the latents; of the video, which makes two frames of latents
SHAPE = (CHANNELS, 2, SIZE // 8, SIZE // 8)
SCHEDULE = {
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "clip_sample": False,
}


def transformer(kind: type = CogVideoXTransformer3DModel, **kwargs):
    defaults = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": CHANNELS,
        "out_channels": CHANNELS,
        "time_embed_dim": 4,
        "text_embed_dim": DIM,
        "num_layers": 1,
        "sample_width": SIZE // 8,
        "sample_height": SIZE // 8,
        "sample_frames": FRAMES,
        "max_text_seq_length": 16,
        "use_rotary_positional_embeddings": True,
    }
    return kind(**defaults | kwargs)


def cogvideox(kind: type = CogVideoXPipeline, scheduler: type = CogVideoXDPMScheduler, model=transformer, **kwargs):
    text_encoder, tokenizer = t5(DIM)
    vae = AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8),
        latent_channels=CHANNELS,
        layers_per_block=1,
        norm_num_groups=2,
        sample_height=SIZE,
        sample_width=SIZE,
    )
    return kind(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=vae,
        transformer=model(**kwargs),
        scheduler=scheduler(**SCHEDULE),
    )


T2V = {"num_frames": FRAMES, "max_sequence_length": 16}


def with_image():
    return cogvideox(CogVideoXImageToVideoPipeline, in_channels=2 * CHANNELS)


def with_control():
    return cogvideox(CogVideoXFunControlPipeline, CogVideoXDDIMScheduler, in_channels=2 * CHANNELS)


register(
    row("cogvideox-dpm", cogvideox, SHAPE, common=True, **T2V),
    row("cogvideox-ddim", lambda: cogvideox(scheduler=CogVideoXDDIMScheduler), SHAPE, **T2V),
    row("cogvideox-dynamic", cogvideox, SHAPE, **T2V, use_dynamic_cfg=True, changes=True),
    row("cogvideox-1.5", lambda: cogvideox(patch_size_t=2, patch_bias=False), SHAPE, **T2V),
    row("cogvideox-i2v", with_image, SHAPE, **T2V, image=pictures),
    row(
        "cogvideox-v2v",
        lambda: cogvideox(CogVideoXVideoToVideoPipeline),
        SHAPE,
        video=lambda: [clip(FRAMES)] * 2,
        strength=0.7,
        max_sequence_length=16,
    ),
    row(
        "cogvideox-fun-control",
        with_control,
        SHAPE,
        control_video=lambda: [clip(FRAMES)] * 2,
        max_sequence_length=16,
        note="Its loop cannot call `CogVideoXDPMScheduler`.",
    ),
)
