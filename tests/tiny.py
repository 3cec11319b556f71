"""Tiny models of the genuine classes with random weights, and the four pipelines that most tests run."""

import functools

from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from tinyworld.recipes.tokenizer import MAX_LENGTH, build_tokenizer

DIM = 16
SD_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@functools.cache
def tokenizer():
    return build_tokenizer()


def text_config(**kwargs) -> dict:
    return {
        "vocab_size": len(tokenizer()),
        "hidden_size": DIM,
        "intermediate_size": 2 * DIM,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": MAX_LENGTH,
        "projection_dim": DIM,
        "bos_token_id": tokenizer().bos_token_id,
        "eos_token_id": tokenizer().eos_token_id,
        "pad_token_id": tokenizer().pad_token_id,
    } | kwargs


def t5(dim: int) -> tuple[T5EncoderModel, T5Tokenizer]:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    t5_tokenizer = T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=MAX_LENGTH)
    config = T5Config(
        vocab_size=len(t5_tokenizer),
        d_model=dim,
        d_kv=8,
        d_ff=dim,
        num_layers=1,
        num_heads=2,
        tie_word_embeddings=False,
    )
    return T5EncoderModel(config), t5_tokenizer


def vae(latent_channels: int = 4, **kwargs) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=latent_channels,
        norm_num_groups=2,
        layers_per_block=1,
        sample_size=16,
        **kwargs,
    )


def unet(**kwargs) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=2,
        **kwargs,
    )


def flow_vae(**kwargs) -> AutoencoderKL:
    return vae(**kwargs, shift_factor=0.06, scaling_factor=1.5, use_quant_conv=False, use_post_quant_conv=False)


def build_sd() -> DiffusionPipeline:
    return StableDiffusionPipeline(
        vae=vae(),
        text_encoder=CLIPTextModel(CLIPTextConfig(**text_config())),
        tokenizer=tokenizer(),
        unet=unet(cross_attention_dim=DIM),
        scheduler=DDIMScheduler(**SD_BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def build_sdxl() -> DiffusionPipeline:
    return StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=CLIPTextModel(CLIPTextConfig(**text_config())),
        text_encoder_2=CLIPTextModelWithProjection(CLIPTextConfig(**text_config())),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        unet=unet(
            cross_attention_dim=2 * DIM,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + DIM,
        ),
        scheduler=EulerDiscreteScheduler(**SD_BETAS, timestep_spacing="leading", steps_offset=1),
        add_watermarker=False,
    )


def build_sd3() -> DiffusionPipeline:
    text_encoder_3, tokenizer_3 = t5(2 * DIM)
    return StableDiffusion3Pipeline(
        vae=flow_vae(latent_channels=16),
        text_encoder=CLIPTextModelWithProjection(CLIPTextConfig(**text_config())),
        text_encoder_2=CLIPTextModelWithProjection(CLIPTextConfig(**text_config())),
        text_encoder_3=text_encoder_3,
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        tokenizer_3=tokenizer_3,
        transformer=SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=16,
            out_channels=16,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=2 * DIM,
            caption_projection_dim=16,
            pooled_projection_dim=2 * DIM,
            pos_embed_max_size=8,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def build_flux() -> DiffusionPipeline:
    text_encoder_2, tokenizer_2 = t5(2 * DIM)
    return FluxPipeline(
        vae=flow_vae(),
        text_encoder=CLIPTextModel(CLIPTextConfig(**text_config())),
        text_encoder_2=text_encoder_2,
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer_2,
        transformer=FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=2 * DIM,
            pooled_projection_dim=DIM,
            guidance_embeds=True,
            axes_dims_rope=(4, 6, 6),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    )


BUILDERS = {"sd": build_sd, "sdxl": build_sdxl, "sd3": build_sd3, "flux": build_flux}
