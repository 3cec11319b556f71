"""Stable Diffusion 3: from text, from pictures, in masks, controlled, with an IP-Adapter."""

from diffusers import (
    SD3ControlNetModel,
    SD3Transformer2DModel,
    StableDiffusion3ControlNetInpaintingPipeline,
    StableDiffusion3ControlNetPipeline,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3InpaintPipeline,
)
from diffusers.models.attention_processor import SD3IPAdapterJointAttnProcessor2_0
from diffusers.models.embeddings import IPAdapterTimeImageProjection
from host import register
from parts_flow import alive
from parts_unet import FOREIGN, INPAINT, SIZE, host, small_mask, small_picture, small_pictures
from tiny import DIM, build_sd3
from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

SHAPE = (16, SIZE // 2, SIZE // 2)
FROM_IMAGE = {"image": small_pictures, "strength": 0.7}


def sd3(kind: type, **parts):
    """Another pipeline on the parts of SD3, some of them replaced."""
    return kind.from_pipe(build_sd3(), **parts)


def inpainting():
    """Its denoiser also reads the mask and the rest of the picture."""
    pipe = build_sd3()
    pipe.transformer = SD3Transformer2DModel.from_config(pipe.transformer.config, in_channels=33)
    return StableDiffusion3InpaintPipeline.from_pipe(pipe)


def controlled(kind: type, **kwargs):
    pipe = build_sd3()
    net = SD3ControlNetModel.from_config(pipe.transformer.config, num_layers=1, **kwargs)
    return kind.from_pipe(pipe, controlnet=alive(net, gain=1.0))


def image_prompted():
    """With an IP-Adapter, which reads a picture beside the prompt."""
    pipe = build_sd3()
    vision = {
        "hidden_size": DIM,
        "intermediate_size": DIM,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 8,
        "patch_size": 4,
    }
    pipe.register_modules(
        image_encoder=SiglipVisionModel(SiglipVisionConfig(**vision)),
        feature_extractor=SiglipImageProcessor(size={"height": 8, "width": 8}),
    )
    width = pipe.transformer.inner_dim
    pipe.transformer.image_proj = IPAdapterTimeImageProjection(
        embed_dim=DIM, output_dim=width, hidden_dim=8, depth=1, dim_head=4, heads=2, num_queries=3, timestep_in_dim=8
    )
    sizes = {"hidden_size": width, "ip_hidden_states_dim": width, "head_dim": 8, "timesteps_emb_dim": 8}
    names = pipe.transformer.attn_processors
    pipe.transformer.set_attn_processor({name: SD3IPAdapterJointAttnProcessor2_0(**sizes) for name in names})
    return pipe


register(
    host("sd3", build_sd3, SHAPE),
    host("sd3-ip-adapter", image_prompted, SHAPE, ip_adapter_image=small_picture),
    host("sd3-img2img", lambda: sd3(StableDiffusion3Img2ImgPipeline), SHAPE, common=True, **FROM_IMAGE),
    host("sd3-inpaint", inpainting, SHAPE, **INPAINT),
    host(
        "sd3-inpaint-legacy",
        lambda: sd3(StableDiffusion3InpaintPipeline),
        SHAPE,
        note="On the denoiser of text to image: the rest of the picture is put back after every step.",
        **INPAINT,
    ),
    host(
        "sd3-skip-layer",
        build_sd3,
        SHAPE,
        skip_guidance_layers=[0],
        note="A third pass, without some layers, adds guidance of its own.",
        refused=FOREIGN,
    ),
    host("sd3-controlnet", lambda: controlled(StableDiffusion3ControlNetPipeline), SHAPE, control_image=small_pictures),
    host(
        "sd3-controlnet-inpaint",
        lambda: controlled(StableDiffusion3ControlNetInpaintingPipeline, extra_conditioning_channels=1),
        SHAPE,
        control_image=small_picture,
        control_mask=small_mask,
    ),
)
