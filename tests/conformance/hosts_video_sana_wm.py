"""Sana-WM: a video from a picture and the camera's way."""

from diffusers import FlowMatchEulerDiscreteScheduler, SanaWMPipeline, SanaWMTransformer3DModel
from host import register
from hosts_video_sana import CHANNELS, FRAMES, SIDE, gemma2
from parts_video import SIZE, ltx2_vae, one_prompt, picture, row
from tiny import DIM
from transformers import Gemma2ForCausalLM


def sana_wm():
    transformer = SanaWMTransformer3DModel(
        in_channels=CHANNELS,
        num_layers=2,
        hidden_size=32,
        num_attention_heads=2,
        softmax_every_n=2,
        linear_head_dim=16,
        chunk_plucker_channels=12,
        chunk_plucker_post_attn_blocks=1,
        image_size=SIZE,
        caption_channels=DIM,
        mixed_precision="no",
    )
    return SanaWMPipeline(
        vae=ltx2_vae(CHANNELS),
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=8.0),
        **gemma2(Gemma2ForCausalLM),
    )


register(
    row(
        "sana-wm",
        sana_wm,
        (CHANNELS, 3, SIDE, SIDE),
        **one_prompt(),
        image=picture,
        action="w-4",
        intrinsics=lambda: [16.0] * 4,
        num_frames=FRAMES,
        max_sequence_length=16,
        chi_prompt=lambda: ["a"],
    ),
)
