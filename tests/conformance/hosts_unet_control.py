"""ControlNets and T2I-Adapters of SD and SDXL."""

from diffusers import (
    ControlNetModel,
    StableDiffusionAdapterPipeline,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetInpaintPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLAdapterPipeline,
    StableDiffusionXLControlNetImg2ImgPipeline,
    StableDiffusionXLControlNetInpaintPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLControlNetUnionImg2ImgPipeline,
    StableDiffusionXLControlNetUnionInpaintPipeline,
    StableDiffusionXLControlNetUnionPipeline,
    T2IAdapter,
    UNet2DConditionModel,
)
from host import register
from parts_unet import (
    BLOCKS,
    FROM_IMAGE,
    INPAINT,
    XL,
    controlnet,
    host,
    sd,
    sd_unet,
    sdxl,
    sdxl_unet,
    small_picture,
    small_pictures,
    union_controlnet,
)
from tiny import DIM

SIZED = {"height": 16, "width": 16}
CONTROL = {"control_image": small_picture}
UNION = {"control_image": lambda: [small_picture()], "control_mode": [1]}


def controlled(kind: type, nets: int = 1, **parts):
    many = [controlnet() for _ in range(nets)]
    return sd(kind, controlnet=many if nets > 1 else many[0], **parts)


def controlled_xl(kind: type, **parts):
    return sdxl(kind, controlnet=controlnet(ControlNetModel, **XL), **parts)


def union(kind: type):
    return sdxl(kind, controlnet=union_controlnet())


def adapted():
    """Its denoiser attends in its first block, as SD's does: there, an adapter's output is added before it shrinks."""
    unet = UNet2DConditionModel(
        **BLOCKS | {"down_block_types": BLOCKS["down_block_types"][::-1]},
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=DIM,
        sample_size=8,
    )
    adapter = T2IAdapter(channels=[8, 16], num_res_blocks=1, downscale_factor=2)
    return sd(StableDiffusionAdapterPipeline, unet=unet, adapter=adapter)


def adapted_xl():
    adapter = T2IAdapter(channels=[8, 16], num_res_blocks=1, downscale_factor=4, adapter_type="full_adapter_xl")
    return sdxl(StableDiffusionXLAdapterPipeline, adapter=adapter)


register(
    host("sd-controlnet", lambda: controlled(StableDiffusionControlNetPipeline), image=small_pictures, common=True),
    host(
        "sd-controlnet-guess",
        lambda: controlled(StableDiffusionControlNetPipeline),
        image=small_picture,
        guess_mode=True,
        note="Its ControlNet runs on the conditional half alone.",
    ),
    host(
        "sd-controlnet-multi",
        lambda: controlled(StableDiffusionControlNetPipeline, nets=2),
        image=lambda: [small_picture(), small_picture()],
    ),
    host(
        "sd-controlnet-img2img",
        lambda: controlled(StableDiffusionControlNetImg2ImgPipeline),
        **FROM_IMAGE | CONTROL,
    ),
    host(
        "sd-controlnet-inpaint",
        lambda: controlled(StableDiffusionControlNetInpaintPipeline, unet=sd_unet(in_channels=9)),
        **INPAINT | CONTROL,
    ),
    host(
        "sd-controlnet-inpaint-legacy",
        lambda: controlled(StableDiffusionControlNetInpaintPipeline),
        **INPAINT | CONTROL,
    ),
    host("sdxl-controlnet", lambda: controlled_xl(StableDiffusionXLControlNetPipeline), image=small_picture),
    host(
        "sdxl-controlnet-img2img",
        lambda: controlled_xl(StableDiffusionXLControlNetImg2ImgPipeline),
        **FROM_IMAGE | CONTROL | SIZED,
    ),
    host(
        "sdxl-controlnet-inpaint",
        lambda: controlled_xl(StableDiffusionXLControlNetInpaintPipeline, unet=sdxl_unet(in_channels=9)),
        **INPAINT | CONTROL,
    ),
    host("sdxl-controlnet-union", lambda: union(StableDiffusionXLControlNetUnionPipeline), **UNION),
    host(
        "sdxl-controlnet-union-img2img",
        lambda: union(StableDiffusionXLControlNetUnionImg2ImgPipeline),
        **FROM_IMAGE | UNION | SIZED,
    ),
    host(
        "sdxl-controlnet-union-inpaint",
        lambda: union(StableDiffusionXLControlNetUnionInpaintPipeline),
        **INPAINT | UNION,
    ),
    host("sd-t2i-adapter", adapted, image=small_pictures),
    host("sdxl-t2i-adapter", adapted_xl, image=small_pictures),
)
