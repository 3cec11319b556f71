"""Sana, PRX, Bria, FIBO, Ovis-Image, LongCat-Image."""

import json

from diffusers import (
    AutoencoderDC,
    BriaFiboEditPipeline,
    BriaFiboPipeline,
    BriaFiboTransformer2DModel,
    BriaPipeline,
    BriaTransformer2DModel,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    LongCatImageEditPipeline,
    LongCatImagePipeline,
    LongCatImageTransformer2DModel,
    OvisImagePipeline,
    OvisImageTransformer2DModel,
    PRXPipeline,
    PRXPixelPipeline,
    PRXTransformer2DModel,
    SanaControlNetModel,
    SanaControlNetPipeline,
    SanaPAGPipeline,
    SanaPipeline,
    SanaSprintImg2ImgPipeline,
    SanaSprintPipeline,
    SanaTransformer2DModel,
    SCMScheduler,
)
from host import PROMPTS, register
from parts_flow import (
    DISTILLED,
    ONE,
    ONE_PASS,
    FlowHost,
    alive,
    calls,
    deep_vae,
    qwen3,
    qwen_processor,
    qwen_vl,
    scheduler,
    wan_vae,
)
from parts_video import picture
from tiny import DIM, flow_vae, t5

BLURRY = {"negative_prompt": ["blurry"] * 2}
FLUX_LIKE = {
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "axes_dims_rope": (4, 6, 6),
}


def dc_vae() -> AutoencoderDC:
    """Of 4 by 4 pixels."""
    return AutoencoderDC(
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_out_channels=(4, 4, 8),
        decoder_block_out_channels=(4, 4, 8),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), ()),
        decoder_qkv_multiscales=((), (), ()),
        scaling_factor=0.5,
    )


def sana_model(kind: type = SanaTransformer2DModel, **kwargs):
    model = kind(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=DIM,
        sample_size=8,
        **kwargs,
    )
    return alive(model)


def sana(kind: type = SanaPipeline, **parts):
    """With the solver that it is released with."""
    solver = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return kind(**{"vae": dc_vae(), "transformer": sana_model(), "scheduler": solver} | qwen3() | parts)


def sprint(kind: type):
    model = sana_model(guidance_embeds=True, qk_norm="rms_norm_across_heads")
    return sana(kind, transformer=model, scheduler=SCMScheduler())


def prx(kind: type = PRXPipeline, in_channels: int = 4, **parts):
    model = PRXTransformer2DModel(
        in_channels=in_channels, context_in_dim=DIM, hidden_size=16, num_heads=2, depth=1, axes_dim=[4, 4]
    )
    return kind(alive(model), FlowMatchEulerDiscreteScheduler(shift=3.0), **qwen3(), default_sample_size=16, **parts)


def bria():
    model = alive(BriaTransformer2DModel(in_channels=16, joint_attention_dim=DIM, **FLUX_LIKE))
    text_encoder, t5_tokenizer = t5(DIM)
    return BriaPipeline(model, scheduler(), flow_vae(), text_encoder, t5_tokenizer)


def fibo(kind: type = BriaFiboPipeline):
    model = BriaFiboTransformer2DModel(in_channels=4, joint_attention_dim=2 * DIM, text_encoder_dim=DIM, **FLUX_LIKE)
    vae = wan_vae(4, in_channels=12, out_channels=12, patch_size=2)
    return kind(alive(model), scheduler(), vae, **qwen3())


def ovis():
    model = OvisImageTransformer2DModel(in_channels=16, out_channels=16, joint_attention_dim=DIM, **FLUX_LIKE)
    return OvisImagePipeline(scheduler(), flow_vae(), **qwen3(), transformer=alive(model))


def longcat(kind: type = LongCatImagePipeline, halvings: int = 1):
    model = LongCatImageTransformer2DModel(in_channels=64, joint_attention_dim=DIM, **FLUX_LIKE)
    vae = deep_vae(16, halvings, shift_factor=0.06, scaling_factor=1.5)
    pipe = kind(scheduler(), vae, **qwen_vl(), text_processor=qwen_processor(), transformer=alive(model))
    pipe.tokenizer_max_length = 32
    return pipe


def host(name, build, note="", shape=(4, 8, 8), size=16, refused="", nothing=(), exact=True, **kwargs):
    call = calls(**{"height": size, "width": size} | kwargs)
    return FlowHost(name, build, call, shape, note=note, refused=refused, nothing=nothing, exact=exact)


SANA = {"use_resolution_binning": False, "complex_human_instruction": [], "max_sequence_length": 32, "size": 32}
PAG = "transformer_blocks.0"
SPRINT = SANA | {
    "note": DISTILLED,
    "refused": ONE_PASS,
    "nothing": ("intermediate_timesteps",),
}
PRX = ONE | {"negative_prompt": "blurry", "use_resolution_binning": False}

register(
    host("sana", sana, **SANA, **BLURRY),
    host(
        "sana-controlnet",
        lambda: sana(SanaControlNetPipeline, controlnet=sana_model(SanaControlNetModel)),
        control_image=picture,
        **SANA,
        **BLURRY,
    ),
    host("sana-pag", lambda: sana(SanaPAGPipeline, pag_applied_layers=PAG), pag_scale=0.0, **SANA, **BLURRY),
    host(
        "sana-pag-on",
        lambda: sana(SanaPAGPipeline, pag_applied_layers=PAG),
        "A third pass, with perturbed attention, adds guidance of its own.",
        pag_scale=3.0,
        refused="does not guide by u + s (c - u)",
        **SANA,
        **BLURRY,
    ),
    host("sana-sprint", lambda: sprint(SanaSprintPipeline), **SPRINT),
    host(
        "sana-sprint-img2img",
        lambda: sprint(SanaSprintImg2ImgPipeline),
        image=picture,
        strength=0.7,
        **SPRINT,
    ),
    host("prx", lambda: prx(vae=flow_vae()), "One prompt a call.", tokenizer_max_length=32, **PRX),
    host(
        "prx-pixel",
        lambda: prx(PRXPixelPipeline, 3),
        "One prompt a call. Its transformer predicts the picture, of which the pipeline makes a velocity when guided.",
        (3, 16, 16),
        exact=False,
        **PRX,
    ),
    host("bria-3.2", bria, max_sequence_length=32, **BLURRY),
    host(
        "bria-3.2-normalized",
        bria,
        "Its guided prediction is brought near the deviation of the conditional one, over the whole batch.",
        max_sequence_length=32,
        normalize=True,
        **BLURRY,
    ),
    host("bria-fibo", fibo, size=128, **BLURRY),
    host(
        "bria-fibo-edit",
        lambda: fibo(BriaFiboEditPipeline),
        "One prompt a call.",
        size=128,
        image=lambda: picture(size=128),
        **ONE | {"prompt": json.dumps({"edit_instruction": PROMPTS[0]})},
        negative_prompt="blurry",
    ),
    host("ovis-image", ovis, max_sequence_length=200, **BLURRY),
    host(
        "longcat-image",
        longcat,
        "Its guided prediction is cut to the norm of the conditional one.",
        (16, 8, 8),
        enable_prompt_rewrite=False,
        **BLURRY,
    ),
    host(
        "longcat-image-plain",
        longcat,
        "",
        (16, 8, 8),
        enable_prompt_rewrite=False,
        enable_cfg_renorm=False,
        **BLURRY,
    ),
    host(
        "longcat-image-edit",
        lambda: longcat(LongCatImageEditPipeline, 6),
        "One prompt a call.",
        (16, 16, 16),
        size=None,
        image=picture,
        **ONE,
        negative_prompt="blurry",
    ),
)
