"""Kandinsky 6: channels come last in its latents, sound comes with them."""

from diffusers import Kandinsky6TI2VAPipeline, Kandinsky6Transformer3DModel, MMAudioVAE, MMAudioVocoder
from host import register
from hosts_video_kandinsky import CHANNELS, SHAPE, SIDE, T2V, shared
from parts_video import filled, pictures, row
from tiny import DIM


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


register(
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
