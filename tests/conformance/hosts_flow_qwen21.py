"""Qwen-Image 2.1: from text, edited."""

from diffusers import AutoencoderKLQwenImage21, QwenImage21Pipeline, QwenImage21Transformer2DModel
from host import register
from hosts_flow import host
from parts_flow import alive, qwen3_processor, qwen3_vl, scheduler
from parts_video import picture
from tiny import DIM


def qwen21():
    """Of 16 by 16 pixels a latent, which is a token."""
    model = QwenImage21Transformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        context_in_dim=DIM,
        mlp_ratio=1,
        axes_dims_rope=(4, 6, 6),
    )
    vae = AutoencoderKLQwenImage21(
        base_dim=4,
        decoder_base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.1] * 4,
        latents_std=[1.5] * 4,
    )
    return QwenImage21Pipeline(scheduler(), vae, qwen3_vl(), qwen3_processor(), alive(model))


register(
    host("qwen-image-2.1", qwen21, "", size=64),
    host("qwen-image-2.1-edit", qwen21, "", size=64, image=picture, output_resolution=64),
)
