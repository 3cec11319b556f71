"""Qwen-Image: from text, from pictures, edited, controlled, in layers."""

from typing import Any

import torch
from diffusers import (
    QwenImageControlNetInpaintPipeline,
    QwenImageControlNetModel,
    QwenImageControlNetPipeline,
    QwenImageEditInpaintPipeline,
    QwenImageEditPipeline,
    QwenImageEditPlusPipeline,
    QwenImageImg2ImgPipeline,
    QwenImageInpaintPipeline,
    QwenImageLayeredPipeline,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from host import Host, register
from parts_flow import (
    ONE,
    RENORMALISED,
    alive,
    calls,
    mask,
    qwen_processor,
    qwen_vae,
    qwen_vl,
    scheduler,
)
from parts_video import picture, pictures
from tiny import DIM


def transformer(kind: type = QwenImageTransformer2DModel, **kwargs):
    defaults = {
        "in_channels": 16,
        "out_channels": 4,
        "num_layers": 1,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": DIM,
        "axes_dims_rope": (4, 6, 6),
    }
    return alive(kind(**defaults | kwargs))


def qwen(kind: type = QwenImagePipeline, halvings: int = 3, **parts):
    models = {"vae": qwen_vae(halvings=halvings), "scheduler": scheduler(), "transformer": transformer()}
    return kind(**models | qwen_vl() | parts)


def edit(kind: type):
    """The pipeline makes pictures of 1024 by 1024 pixels of any that it is given: 64 of them are a latent here."""
    return qwen(kind, halvings=6, processor=qwen_processor())


def layered():
    model = transformer(use_additional_t_cond=True, use_layer3d_rope=True)
    return qwen(QwenImageLayeredPipeline, halvings=6, transformer=model, processor=qwen_processor())


def controlled(kind: type, extra: int):
    net = transformer(QwenImageControlNetModel, extra_condition_channels=extra)
    return qwen(kind, controlnet=net)


class Layered(Host):
    """The pipeline fails when it is asked for latents: those of the last step."""

    def run(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        latents = []

        def keep(pipe: Any, step: int, timestep: torch.Tensor, tensors: dict[str, torch.Tensor]) -> dict:
            latents.append(tensors["latents"])
            return {}

        super().run(*args, callback_on_step_end=keep, **kwargs)
        return latents[-1]


def host(name, build, note=RENORMALISED, shape=(4, 4, 4), common=False, size=32, kind=Host, **kwargs):
    size = {"height": size, "width": size} if size else {}
    call = calls(**{"negative_prompt": ["blurry"] * 2} | size | kwargs)
    return kind(name, build, call, shape, "true_cfg_scale", common=common, note=note)


register(
    host("qwen-image", qwen, common=True),
    host("qwen-image-img2img", lambda: qwen(QwenImageImg2ImgPipeline), image=picture, strength=0.7),
    host(
        "qwen-image-inpaint",
        lambda: qwen(QwenImageInpaintPipeline),
        image=picture,
        mask_image=mask,
        strength=0.7,
    ),
    host("qwen-image-edit", lambda: edit(QwenImageEditPipeline), size=256, image=pictures),
    host(
        "qwen-image-edit-plus",
        lambda: edit(QwenImageEditPlusPipeline),
        RENORMALISED + " One prompt a call.",
        size=256,
        image=pictures,
        **ONE,
        negative_prompt="blurry",
    ),
    host(
        "qwen-image-edit-inpaint",
        lambda: edit(QwenImageEditInpaintPipeline),
        size=1024,
        image=pictures,
        mask_image=mask,
        strength=0.7,
        shape=(4, 16, 16),
    ),
    host(
        "qwen-image-layered",
        layered,
        "Two layers, which evaluators see as frames.",
        (4, 2, 10, 10),
        image=picture,
        layers=1,
        size=None,
        kind=Layered,
        output_type="pt",
    ),
    host("qwen-image-controlnet", lambda: controlled(QwenImageControlNetPipeline, 0), control_image=picture),
    host(
        "qwen-image-controlnet-inpaint",
        lambda: controlled(QwenImageControlNetInpaintPipeline, 4),
        control_image=picture,
        control_mask=mask,
    ),
)
