"""FLUX with true classifier-free guidance, and its distilled relatives."""

from diffusers import (
    FluxControlImg2ImgPipeline,
    FluxControlInpaintPipeline,
    FluxControlNetImg2ImgPipeline,
    FluxControlNetInpaintPipeline,
    FluxControlNetModel,
    FluxControlNetPipeline,
    FluxControlPipeline,
    FluxFillPipeline,
    FluxImg2ImgPipeline,
    FluxInpaintPipeline,
    FluxKontextInpaintPipeline,
    FluxKontextPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
    VisualClozeGenerationPipeline,
)
from host import Host, register
from parts_flow import DISTILLED, OFF, ONE, ONE_PASS, alive, calls, mask, scheduler
from parts_video import picture
from tiny import DIM, flow_vae, t5, text_config, tokenizer
from transformers import CLIPTextConfig, CLIPTextModel


def transformer(kind: type = FluxTransformer2DModel, in_channels: int = 16, **kwargs):
    defaults = {
        "in_channels": in_channels,
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 2 * DIM,
        "pooled_projection_dim": DIM,
        "guidance_embeds": True,
        "axes_dims_rope": (4, 6, 6),
    }
    return alive(kind(**defaults | kwargs))


def flux(kind: type = FluxPipeline, in_channels: int = 16, **parts):
    text_encoder_2, tokenizer_2 = t5(2 * DIM)
    models = {
        "vae": flow_vae(),
        "scheduler": scheduler(),
        "transformer": transformer(in_channels=in_channels, out_channels=16),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**text_config())),
        "tokenizer": tokenizer(),
        "text_encoder_2": text_encoder_2,
        "tokenizer_2": tokenizer_2,
    }
    return kind(**models | parts)


def controlled(kind: type):
    return flux(kind, controlnet=transformer(FluxControlNetModel))


def arguments(**kwargs):
    return calls(**{"height": 16, "width": 16, "max_sequence_length": 32} | kwargs)


def host(name, build, note="", common=False, **kwargs):
    call = arguments(negative_prompt=["blurry"] * 2, **kwargs)
    return Host(name, build, call, (4, 8, 8), "true_cfg_scale", common=common, note=note)


def distilled(name, build, **kwargs):
    refused = OFF if name == "flux-distilled" else ONE_PASS
    return Host(name, build, arguments(**kwargs), (4, 8, 8), note=DISTILLED, refused=refused)


START = {"image": picture, "strength": 0.7}
KONTEXT = {"image": lambda: picture(size=16), "max_area": 16 * 16, "_auto_resize": False}

register(
    host("flux", flux),
    host("flux-img2img", lambda: flux(FluxImg2ImgPipeline), **START),
    host("flux-inpaint", lambda: flux(FluxInpaintPipeline), **START, mask_image=mask),
    host("flux-controlnet", lambda: controlled(FluxControlNetPipeline), control_image=picture),
    host("flux-kontext", lambda: flux(FluxKontextPipeline), **KONTEXT, common=True),
    host(
        "flux-kontext-inpaint",
        lambda: flux(FluxKontextInpaintPipeline),
        **KONTEXT,
        mask_image=mask,
        image_reference=lambda: picture(1),
    ),
    distilled("flux-distilled", flux),
    distilled("flux-fill", lambda: flux(FluxFillPipeline, 16 + 16 + 16), image=picture, mask_image=mask),
    distilled("flux-control", lambda: flux(FluxControlPipeline, 32), control_image=picture),
    distilled("flux-control-img2img", lambda: flux(FluxControlImg2ImgPipeline, 32), control_image=picture, **START),
    distilled(
        "flux-control-inpaint",
        lambda: flux(FluxControlInpaintPipeline, 32),
        control_image=picture,
        mask_image=mask,
        **START,
    ),
    distilled(
        "flux-controlnet-img2img",
        lambda: controlled(FluxControlNetImg2ImgPipeline),
        control_image=picture,
        **START,
    ),
    distilled(
        "flux-controlnet-inpaint",
        lambda: controlled(FluxControlNetInpaintPipeline),
        control_image=picture,
        mask_image=mask,
        **START,
    ),
    Host(
        "visualcloze",
        lambda: flux(VisualClozeGenerationPipeline, 16 + 16 + 16, resolution=16),
        calls(
            **ONE | {"prompt": None},
            task_prompt="paint it red",
            content_prompt="two red circles",
            image=lambda: [[picture(i), picture(2 + i) if i == 0 else None] for i in range(2)],
            max_sequence_length=32,
        ),
        (4, 16, 16),
        note=f"One prompt a call. {DISTILLED}",
        refused=ONE_PASS,
    ),
)
