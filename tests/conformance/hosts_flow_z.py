"""Z-Image: ``c + s (c - u)``, a list of predictions of ``[cond, uncond]``, negated."""

import torch
from diffusers import (
    ZImageControlNetInpaintPipeline,
    ZImageControlNetModel,
    ZImageControlNetPipeline,
    ZImageImg2ImgPipeline,
    ZImageInpaintPipeline,
    ZImageOmniPipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from host import Host, register
from parts_flow import alive, calls, mask, qwen3, scheduler
from parts_video import picture
from tiny import DIM, flow_vae
from transformers import Siglip2ImageProcessor, Siglip2VisionConfig, Siglip2VisionModel

CONVENTION = "Its scale s is our 1 + s."
BLOCKS = {"dim": 24, "n_heads": 2, "n_kv_heads": 2, "n_refiner_layers": 1}


def transformer(**kwargs):
    kwargs = {"in_channels": 4, "n_layers": 2, "cap_feat_dim": DIM} | kwargs
    return alive(ZImageTransformer2DModel(**BLOCKS | {"axes_dims": [4, 4, 4], "axes_lens": [256, 64, 64]} | kwargs))


def z_image(kind: type = ZImagePipeline, **parts):
    models = {"vae": flow_vae(), "scheduler": scheduler(), "transformer": transformer()}
    return kind(**models | qwen3() | parts)


def controlled(kind: type, channels: int):
    net = ZImageControlNetModel(
        control_layers_places=[0, 1],
        control_refiner_layers_places=[0],
        control_in_dim=channels,
        add_control_noise_refiner="control_noise_refiner",
        **BLOCKS,
    )
    return z_image(kind, controlnet=alive(net))


def omni():
    vision = Siglip2VisionConfig(
        hidden_size=DIM,
        intermediate_size=DIM,
        num_hidden_layers=1,
        num_attention_heads=2,
        patch_size=8,
        num_patches=16,
    )
    pipe = z_image(
        ZImageOmniPipeline,
        transformer=transformer(siglip_feat_dim=DIM),
        siglip=Siglip2VisionModel(vision),
        siglip_processor=Siglip2ImageProcessor(patch_size=8, max_num_patches=16),
    )
    pipe.vae.to(torch.bfloat16)  # the pipeline's own choice for its pictures
    return pipe


def host(name, build=z_image, note="", common=False, size=16, **kwargs):
    kwargs = {"height": size, "width": size, "max_sequence_length": 64} | kwargs
    return Host(name, build, calls(**kwargs), (4, 8, 8), common=common, note=" ".join(filter(None, (CONVENTION, note))))


START = {"image": lambda: picture(size=16), "strength": 0.7}

register(
    host("z-image", common=True),
    host("z-image-truncated", note="Guided at the first steps only.", cfg_truncation=0.5),
    host(
        "z-image-normalized",
        note="Its guided prediction is cut to the norm of the conditional one.",
        cfg_normalization=1.0,
    ),
    host("z-image-img2img", lambda: z_image(ZImageImg2ImgPipeline), **START),
    host("z-image-inpaint", lambda: z_image(ZImageInpaintPipeline), **START, mask_image=mask),
    host("z-image-omni", omni),
    host("z-image-omni-image", omni, image=lambda: picture(size=64)),
    host("z-image-controlnet", lambda: controlled(ZImageControlNetPipeline, 4), control_image=picture),
    host(
        "z-image-controlnet-inpaint",
        lambda: controlled(ZImageControlNetInpaintPipeline, 9),
        image=picture,
        mask_image=lambda: [mask(), mask()],
        control_image=picture,
    ),
)
