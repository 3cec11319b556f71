"""Stable Cascade, Latent Diffusion, latent consistency models, and shapes."""

import torch
from diffusers import (
    AnimateDiffPAGPipeline,
    DDIMScheduler,
    DDPMWuerstchenScheduler,
    HeunDiscreteScheduler,
    LatentConsistencyModelImg2ImgPipeline,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    LDMTextToImagePipeline,
    ShapEPipeline,
    StableCascadeDecoderPipeline,
    StableCascadePriorPipeline,
)
from diffusers.models import StableCascadeUNet
from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
from diffusers.pipelines.shap_e import ShapERenderer
from host import register
from hosts_video_animatediff import animatediff
from parts_flow import alive, deep_vae
from parts_unet import FROM_IMAGE, SIZE, host, prior, sd, sd_unet
from tiny import DIM, SD_BETAS, text_config, tokenizer
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
)

NO_SIZE = {"height": None, "width": None}
DISTILLED = {"note": "Distilled: its scale is an input.", "refused": "distilled"}


def pooled_text() -> dict:
    config = CLIPTextConfig(**text_config())
    return {"text_encoder": CLIPTextModelWithProjection(config), "tokenizer": tokenizer()}


def cascade_unet(**kwargs) -> StableCascadeUNet:
    settings = {
        "timestep_ratio_embedding_dim": 8,
        "conditioning_dim": DIM,
        "block_out_channels": (8, 8),
        "num_attention_heads": (2, 2),
        "down_num_layers_per_block": (1, 1),
        "up_num_layers_per_block": (1, 1),
        "clip_text_pooled_in_channels": DIM,
        "clip_seq": 2,
        "dropout": (0.0, 0.0),
        "switch_level": (False,),
    }
    return alive(StableCascadeUNet(**settings | kwargs), gain=1.0)


def cascade_prior():
    unet = cascade_unet(in_channels=4, out_channels=4, clip_text_in_channels=DIM, clip_image_in_channels=DIM)
    return StableCascadePriorPipeline(prior=unet, scheduler=DDPMWuerstchenScheduler(), **pooled_text())


def cascade_decoder():
    unet = cascade_unet(
        in_channels=4,
        out_channels=4,
        patch_size=2,
        effnet_in_channels=4,
        block_types_per_layer=(("SDCascadeResBlock", "SDCascadeTimestepBlock"),) * 2,
    )
    vqgan = PaellaVQModel(levels=1, bottleneck_blocks=1, embed_dim=4, num_vq_embeddings=8)
    scheduler = DDPMWuerstchenScheduler()
    return StableCascadeDecoderPipeline(
        decoder=unet, scheduler=scheduler, vqgan=vqgan, latent_dim_scale=4, **pooled_text()
    )


def latent_diffusion():
    config = LDMBertConfig(
        vocab_size=len(tokenizer()),
        encoder_layers=1,
        encoder_ffn_dim=DIM,
        encoder_attention_heads=2,
        head_dim=8,
        d_model=DIM,
    )
    return LDMTextToImagePipeline(
        vqvae=deep_vae(),
        bert=LDMBertModel(config),
        tokenizer=tokenizer(),
        unet=sd_unet(),
        scheduler=DDIMScheduler(**SD_BETAS, clip_sample=False, set_alpha_to_one=False),
    )


def consistency(kind: type):
    return sd(kind, unet=sd_unet(time_cond_proj_dim=8), scheduler=LCMScheduler(**SD_BETAS))


def shape_model():
    model = prior(
        num_embeddings=4,
        embedding_proj_dim=DIM,
        time_embed_dim=DIM,
        clip_embed_dim=2 * DIM,
        additional_embeddings=0,
        time_embed_act_fn="gelu",
        norm_in_type="layer",
        encoder_hid_proj_type=None,
        added_emb_type=None,
    )
    renderer = ShapERenderer(
        param_shapes=((8, 93), (8, 8), (8, 8), (8, 8)), d_latent=DIM, d_hidden=8, n_hidden_layers=5
    )
    scheduler = HeunDiscreteScheduler(beta_schedule="exp", prediction_type="sample", use_karras_sigmas=True)
    return ShapEPipeline(prior=model, scheduler=scheduler, shap_e_renderer=renderer, **pooled_text())


def image_embeddings() -> torch.Tensor:
    """As its prior would make them."""
    return torch.randn(2, 4, 2, 2, generator=torch.Generator().manual_seed(0))


UNREAD = {"refused": "cannot be guided"}
CASCADE = UNREAD | {"note": "Its scheduler is of a kind of its own, without known levels of noise."}
SEQUENCE = UNREAD | {"note": "What it samples is the sequence of a shape, which evaluators of latents cannot read."}

register(
    host("stable-cascade-prior", cascade_prior, (4, 1, 1), output="image_embeddings", output_type="pt", **CASCADE),
    host(
        "stable-cascade",
        cascade_decoder,
        image_embeddings=image_embeddings,
        **NO_SIZE | CASCADE,
    ),
    host("latent-diffusion", latent_diffusion, (4, SIZE // 8, SIZE // 8), output_type="pt"),
    host("lcm", lambda: consistency(LatentConsistencyModelPipeline), **DISTILLED),
    host("lcm-img2img", lambda: consistency(LatentConsistencyModelImg2ImgPipeline), **FROM_IMAGE | DISTILLED),
    host(
        "animatediff-pag",
        lambda: animatediff(AnimateDiffPAGPipeline),
        (4, 3, SIZE // 2, SIZE // 2),
        output="frames",
        num_frames=3,
        pag_scale=0.0,
    ),
    host("shap-e", shape_model, (4, DIM), **NO_SIZE | SEQUENCE),
)
