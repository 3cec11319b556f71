"""The pipelines with perturbed attention guidance: where it is off they guide as others do, where it is on, they add to
that by a third pass."""

from diffusers import (
    ControlNetModel,
    StableDiffusion3PAGImg2ImgPipeline,
    StableDiffusion3PAGPipeline,
    StableDiffusionControlNetPAGInpaintPipeline,
    StableDiffusionControlNetPAGPipeline,
    StableDiffusionPAGImg2ImgPipeline,
    StableDiffusionPAGInpaintPipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionXLControlNetPAGImg2ImgPipeline,
    StableDiffusionXLControlNetPAGPipeline,
    StableDiffusionXLPAGImg2ImgPipeline,
    StableDiffusionXLPAGInpaintPipeline,
    StableDiffusionXLPAGPipeline,
)

# By its module, as hosts_unet_kolors has it.
from diffusers.pipelines.pag.pipeline_pag_kolors import KolorsPAGPipeline
from host import register
from hosts_unet_kolors import kolors
from hosts_unet_sd3 import SHAPE as SD3_SHAPE
from hosts_unet_sd3 import sd3
from parts_unet import (
    FOREIGN,
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
)

OFF = {"pag_scale": 0.0}
ON = {"pag_scale": 3.0, "refused": FOREIGN, "note": "A third pass, with perturbed attention, adds guidance of its own."}
CONTROL = {"control_image": small_picture}
SIZED = {"height": 16, "width": 16}


def sdxl_controlnet():
    return controlnet(ControlNetModel, **XL)


register(
    host("sd-pag", lambda: sd(StableDiffusionPAGPipeline), **OFF),
    host("sd-pag-on", lambda: sd(StableDiffusionPAGPipeline), **ON),
    host("sd-pag-img2img", lambda: sd(StableDiffusionPAGImg2ImgPipeline), **FROM_IMAGE | OFF),
    host(
        "sd-pag-inpaint",
        lambda: sd(StableDiffusionPAGInpaintPipeline, unet=sd_unet(in_channels=9)),
        **INPAINT | OFF,
    ),
    host(
        "sd-pag-controlnet",
        lambda: sd(StableDiffusionControlNetPAGPipeline, controlnet=controlnet()),
        image=small_picture,
        **OFF,
    ),
    host(
        "sd-pag-controlnet-inpaint",
        lambda: sd(StableDiffusionControlNetPAGInpaintPipeline, controlnet=controlnet()),
        **INPAINT | CONTROL | OFF,
    ),
    host("sdxl-pag", lambda: sdxl(StableDiffusionXLPAGPipeline), **OFF),
    host("sdxl-pag-on", lambda: sdxl(StableDiffusionXLPAGPipeline), **ON),
    host("sdxl-pag-img2img", lambda: sdxl(StableDiffusionXLPAGImg2ImgPipeline), **FROM_IMAGE | OFF),
    host(
        "sdxl-pag-inpaint",
        lambda: sdxl(StableDiffusionXLPAGInpaintPipeline, unet=sdxl_unet(in_channels=9)),
        **INPAINT | OFF,
    ),
    host(
        "sdxl-pag-controlnet",
        lambda: sdxl(StableDiffusionXLControlNetPAGPipeline, controlnet=sdxl_controlnet()),
        image=small_picture,
        **OFF,
    ),
    host(
        "sdxl-pag-controlnet-img2img",
        lambda: sdxl(StableDiffusionXLControlNetPAGImg2ImgPipeline, controlnet=sdxl_controlnet()),
        **FROM_IMAGE | CONTROL | SIZED | OFF,
    ),
    host("sd3-pag", lambda: sd3(StableDiffusion3PAGPipeline), SD3_SHAPE, **OFF),
    host("sd3-pag-on", lambda: sd3(StableDiffusion3PAGPipeline, pag_applied_layers="blocks.1"), SD3_SHAPE, **ON),
    host(
        "sd3-pag-img2img",
        lambda: sd3(StableDiffusion3PAGImg2ImgPipeline),
        SD3_SHAPE,
        image=small_pictures,
        strength=0.7,
        **OFF,
    ),
    host("kolors-pag", lambda: kolors(KolorsPAGPipeline), **OFF),
    host("kolors-pag-on", lambda: kolors(KolorsPAGPipeline), **ON),
)
