"""DeepFloyd IF: pixels, not latents, and a variance that is predicted, too."""

from diffusers import (
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    IFImg2ImgPipeline,
    IFImg2ImgSuperResolutionPipeline,
    IFInpaintingPipeline,
    IFInpaintingSuperResolutionPipeline,
    IFPipeline,
    IFSuperResolutionPipeline,
)
from host import register
from parts_unet import host, sd_unet, small_mask, small_pictures
from tiny import DIM, t5

SIZE = 8
SHAPE = (3, SIZE, SIZE)
LARGE = (3, 2 * SIZE, 2 * SIZE)
PIXELS = {"height": SIZE, "width": SIZE, "clean_caption": False, "output_type": "pt"}
UP = PIXELS | {"height": 2 * SIZE, "width": 2 * SIZE, "noise_level": 100}
NO_SIZE = {"height": None, "width": None}


def scheduler() -> DDPMScheduler:
    return DDPMScheduler(
        beta_schedule="squaredcos_cap_v2",
        variance_type="learned_range",
        clip_sample=False,
        thresholding=True,
        dynamic_thresholding_ratio=0.95,
        sample_max_value=1.5,
    )


def first_stage(kind: type, **parts):
    text_encoder, tokenizer = t5(DIM)
    models = {
        "tokenizer": tokenizer,
        "text_encoder": text_encoder,
        "unet": sd_unet(in_channels=3, out_channels=6, encoder_hid_dim=DIM),
        "scheduler": scheduler(),
        "safety_checker": None,
        "feature_extractor": None,
        "watermarker": None,
        "requires_safety_checker": False,
    }
    return kind(**models | parts)


def fixed_variance():
    """Whose scheduler has no use for the variance."""
    solver = DPMSolverMultistepScheduler(beta_schedule="squaredcos_cap_v2", lambda_min_clipped=-5.1)
    return first_stage(IFPipeline, scheduler=solver)


def second_stage(kind: type):
    unet = sd_unet(in_channels=6, out_channels=6, encoder_hid_dim=DIM, class_embed_type="timestep")
    unet.register_to_config(sample_size=2 * SIZE)
    return first_stage(kind, unet=unet, image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"))


def small() -> list:
    return [image.resize((SIZE, SIZE)) for image in small_pictures()]


def small_hole():
    return small_mask().resize((SIZE, SIZE))


PUT_BACK = "Its step's outcome is put back into the picture outside of the mask."

register(
    host("if", lambda: first_stage(IFPipeline), SHAPE, **PIXELS),
    host("if-fixed-variance", fixed_variance, SHAPE, **PIXELS),
    host("if-img2img", lambda: first_stage(IFImg2ImgPipeline), SHAPE, image=small, strength=0.7, **PIXELS | NO_SIZE),
    host(
        "if-inpaint",
        lambda: first_stage(IFInpaintingPipeline),
        SHAPE,
        image=small,
        mask_image=small_hole,
        strength=0.7,
        note=PUT_BACK,
        **PIXELS | NO_SIZE,
    ),
    host("if-upscale", lambda: second_stage(IFSuperResolutionPipeline), LARGE, image=small, **UP),
    host(
        "if-upscale-img2img",
        lambda: second_stage(IFImg2ImgSuperResolutionPipeline),
        LARGE,
        image=small,
        original_image=small_pictures,
        strength=0.7,
        **UP | NO_SIZE,
    ),
    host(
        "if-upscale-inpaint",
        lambda: second_stage(IFInpaintingSuperResolutionPipeline),
        LARGE,
        image=small,
        original_image=small_pictures,
        mask_image=small_mask,
        strength=0.7,
        note=PUT_BACK,
        **UP | NO_SIZE,
    ),
)
