"""Stable Diffusion XL and its pipelines: from pictures, in masks, its refiner, edited, with an IP-Adapter."""

import torch
from diffusers import (
    EulerAncestralDiscreteScheduler,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLInstructPix2PixPipeline,
)
from host import register
from parts_unet import (
    FROM_IMAGE,
    INPAINT,
    SHAPE,
    XL,
    host,
    image_prompted,
    sdxl,
    sdxl_unet,
    small_picture,
    small_pictures,
)
from tiny import DIM, SD_BETAS, build_sdxl


def ancestral():
    pipe = build_sdxl()
    pipe.scheduler = EulerAncestralDiscreteScheduler(**SD_BETAS, timestep_spacing="leading", steps_offset=1)
    return pipe


def refiner():
    """Knows one text encoder, and an aesthetic score in the place of the target size."""
    unet = sdxl_unet(**{**XL, "cross_attention_dim": DIM, "projection_class_embeddings_input_dim": 5 * 8 + DIM})
    parts = {"unet": unet, "text_encoder": None, "tokenizer": None, "requires_aesthetics_score": True}
    return sdxl(StableDiffusionXLImg2ImgPipeline, **parts)


def half_done() -> torch.Tensor:
    """Latents that another pipeline denoised in part."""
    return torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))


register(
    host("sdxl", build_sdxl, common=True),
    host("sdxl-ancestral", ancestral, note="Its sampler draws noise at every step."),
    host("sdxl-rescale", build_sdxl, guidance_rescale=0.7, note="Its guided prediction is rescaled."),
    host("sdxl-denoising-end", build_sdxl, denoising_end=0.6, note="Leaves the last steps to the refiner."),
    host("sdxl-ip-adapter", lambda: image_prompted(build_sdxl()), ip_adapter_image=lambda: [small_pictures()]),
    host("sdxl-img2img", lambda: sdxl(StableDiffusionXLImg2ImgPipeline), **FROM_IMAGE),
    host("sdxl-refiner", refiner, **FROM_IMAGE | {"image": half_done, "strength": None}, denoising_start=0.5),
    host(
        "sdxl-inpaint",
        lambda: sdxl(StableDiffusionXLInpaintPipeline, unet=sdxl_unet(in_channels=9)),
        common=True,
        **INPAINT,
    ),
    host("sdxl-inpaint-legacy", lambda: sdxl(StableDiffusionXLInpaintPipeline), **INPAINT),
    host(
        "sdxl-instruct-pix2pix",
        lambda: sdxl(StableDiffusionXLInstructPix2PixPipeline, unet=sdxl_unet(in_channels=8)),
        image=small_picture,
        note="Three passes: u + s (c - i) + s' (i - u), i with the picture and without the prompt.",
    ),
)
