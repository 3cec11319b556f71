"""Stable Diffusion and its pipelines: from pictures, in masks, by depth, edited, enlarged, with an IP-Adapter."""

import torch
from diffusers import (
    DDPMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionDepth2ImgPipeline,
    StableDiffusionImageVariationPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionLatentUpscalePipeline,
    StableDiffusionUpscalePipeline,
    StableUnCLIPImg2ImgPipeline,
    StableUnCLIPPipeline,
    UnCLIPScheduler,
)
from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer
from host import register
from parts_unet import (
    FROM_IMAGE,
    INPAINT,
    SIZE,
    host,
    image_prompted,
    prior,
    sd,
    sd_unet,
    small_picture,
    small_pictures,
    vision,
    vision_processor,
)
from tiny import DIM, SD_BETAS, build_sd, text_config, tokenizer
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

NO_SIZE = {"height": None, "width": None}


def depth_map() -> torch.Tensor:
    return torch.rand(2, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def upscale():
    unet = sd_unet(in_channels=7, num_class_embeds=1000)
    return sd(StableDiffusionUpscalePipeline, unet=unet, low_res_scheduler=DDPMScheduler(**SD_BETAS))


def latent_upscale():
    """Predicts one channel more than latents have, which is dropped."""
    unet = sd_unet(in_channels=8, out_channels=5, time_cond_proj_dim=2 * 64 + DIM)
    scheduler = EulerDiscreteScheduler(**SD_BETAS, prediction_type="sample")
    return sd(StableDiffusionLatentUpscalePipeline, unet=unet, scheduler=scheduler)


def unclip(kind: type, **parts):
    return sd(
        kind,
        unet=sd_unet(class_embed_type="projection", projection_class_embeddings_input_dim=2 * DIM),
        image_normalizer=StableUnCLIPImageNormalizer(DIM),
        image_noising_scheduler=DDPMScheduler(),
        **parts,
    )


def unclip_prior() -> dict:
    return {
        "prior_tokenizer": tokenizer(),
        "prior_text_encoder": CLIPTextModelWithProjection(CLIPTextConfig(**text_config())),
        "prior": prior(),
        "prior_scheduler": UnCLIPScheduler(prediction_type="sample"),
    }


def seen() -> dict:
    """What encodes a picture."""
    return {"image_encoder": vision(), "feature_extractor": vision_processor()}


register(
    host("sd", build_sd, common=True),
    host("sd-rescale", build_sd, guidance_rescale=0.7, note="Its guided prediction is rescaled."),
    host("sd-negative", build_sd, negative_prompt=["blurry", "a green star"]),
    host("sd-ip-adapter", lambda: image_prompted(build_sd()), ip_adapter_image=lambda: [small_pictures()]),
    host("sd-img2img", lambda: sd(StableDiffusionImg2ImgPipeline), **FROM_IMAGE),
    host("sd-inpaint", lambda: sd(StableDiffusionInpaintPipeline, unet=sd_unet(in_channels=9)), **INPAINT),
    host(
        "sd-inpaint-legacy",
        lambda: sd(StableDiffusionInpaintPipeline),
        note="On the denoiser of text to image: the rest of the picture is put back after every step.",
        **INPAINT,
    ),
    host(
        "sd-depth2img",
        lambda: sd(StableDiffusionDepth2ImgPipeline, unet=sd_unet(in_channels=5), depth_estimator=None),
        depth_map=depth_map,
        **FROM_IMAGE | {"image": small_pictures},
    ),
    host(
        "sd-image-variation",
        lambda: sd(StableDiffusionImageVariationPipeline, **seen()),
        prompt=None,
        image=small_pictures,
        note="Has no prompt.",
    ),
    host(
        "sd-instruct-pix2pix",
        lambda: sd(StableDiffusionInstructPix2PixPipeline, unet=sd_unet(in_channels=8)),
        image=small_pictures,
        note="Three passes: u + s (c - i) + s' (i - u), i with the picture and without the prompt.",
        **NO_SIZE,
    ),
    host("sd-upscale", upscale, (4, SIZE, SIZE), image=small_pictures, **NO_SIZE),
    host(
        "sd-latent-upscale",
        latent_upscale,
        (4, SIZE, SIZE),
        image=small_pictures,
        note="Its predictions are preconditioned before they are guided.",
        **NO_SIZE,
    ),
    host(
        "sd-unclip",
        lambda: unclip(StableUnCLIPPipeline, **unclip_prior()),
        prior_num_inference_steps=2,
        note="Its prior's scale stays as it is.",
    ),
    host(
        "sd-unclip-img2img",
        lambda: unclip(StableUnCLIPImg2ImgPipeline, **seen()),
        image=small_picture,
    ),
)
