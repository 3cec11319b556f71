"""Pipelines on FLUX.2's autoencoder: FLUX.2 itself, ERNIE-Image, Ideogram 4."""

from diffusers import (
    ErnieImagePipeline,
    ErnieImageTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinInpaintPipeline,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    Ideogram4Pipeline,
    Ideogram4Transformer2DModel,
)
from host import register
from parts_flow import (
    DISTILLED,
    ONE_PASS,
    FlowHost,
    alive,
    calls,
    flux2_vae,
    mask,
    qwen3,
    qwen3_vl,
    scheduler,
)
from parts_video import picture
from tiny import DIM

LAYERS = {"text_encoder_out_layers": (0, 1, 2)}


def transformer(**kwargs):
    model = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * DIM,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        **kwargs,
    )
    return alive(model)


def klein(kind: type = Flux2KleinPipeline, guidance_embeds: bool = False):
    model = transformer(guidance_embeds=guidance_embeds)
    return kind(scheduler=scheduler(), vae=flux2_vae(), transformer=model, **qwen3())


def ernie():
    model = ErnieImageTransformer2DModel(
        hidden_size=24,
        num_attention_heads=2,
        num_layers=1,
        ffn_hidden_size=16,
        in_channels=16,
        out_channels=16,
        text_in_dim=DIM,
        rope_axes_dim=(4, 4, 4),
    )
    return ErnieImagePipeline(
        alive(model), flux2_vae(), scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), **qwen3()
    )


def ideogram4():
    """Its text is read at layers up to the 36th."""
    kwargs = {
        "in_channels": 16,
        "num_layers": 1,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "adaln_dim": 16,
        "llm_features_dim": 13 * DIM,
        "mrope_section": (4, 2, 2),
    }
    return Ideogram4Pipeline(
        FlowMatchEulerDiscreteScheduler(),
        flux2_vae(),
        qwen3_vl(num_hidden_layers=36).model,
        qwen3()["tokenizer"],
        alive(Ideogram4Transformer2DModel(**kwargs)),
        alive(Ideogram4Transformer2DModel(**kwargs)),
    )


def host(name, build, note="", shape=(4, 8, 8), refused="", nothing=(), **kwargs):
    call = calls(**{"height": 16, "width": 16} | kwargs)
    return FlowHost(name, build, call, shape, note=note, refused=refused, nothing=nothing)


def flux2(name, build, **kwargs):
    return host(name, build, **{"max_sequence_length": 64} | LAYERS | kwargs)


register(
    flux2("flux2-klein", klein),
    flux2("flux2-klein-image", klein, image=lambda: picture(size=64)),
    flux2(
        "flux2-klein-inpaint",
        lambda: klein(Flux2KleinInpaintPipeline),
        image=lambda: picture(size=64),
        mask_image=lambda: mask(64),
        image_reference=lambda: picture(1, 64),
        strength=0.7,
        shape=(4, 32, 32),
    ),
    flux2(
        "flux2-distilled",
        lambda: klein(Flux2Pipeline, True),
        note=DISTILLED,
        refused=ONE_PASS,
        max_sequence_length=512,
    ),
    host("ernie-image", ernie, "Its latents are patches of 2 by 2.", (16, 4, 4), negative_prompt="blurry"),
    host(
        "ideogram-4",
        ideogram4,
        "Another transformer makes the unconditional prediction; both with the other sign.",
        nothing=("guidance_schedule",),
        max_sequence_length=96,
    ),
)
