"""Kandinsky 2.1, 2.2 and 3: image embeddings made by a prior, a variance that is predicted, too."""

from functools import partial

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    Kandinsky3Img2ImgPipeline,
    Kandinsky3Pipeline,
    Kandinsky3UNet,
    KandinskyCombinedPipeline,
    KandinskyImg2ImgPipeline,
    KandinskyInpaintPipeline,
    KandinskyPipeline,
    KandinskyPriorPipeline,
    KandinskyV22CombinedPipeline,
    KandinskyV22ControlnetImg2ImgPipeline,
    KandinskyV22ControlnetPipeline,
    KandinskyV22Img2ImgPipeline,
    KandinskyV22InpaintPipeline,
    KandinskyV22Pipeline,
    KandinskyV22PriorEmb2EmbPipeline,
    KandinskyV22PriorPipeline,
    UnCLIPScheduler,
    VQModel,
)
from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP
from host import Host, register
from parts_flow import alive
from parts_unet import SIZE, host, prior, sd_unet, small_mask, small_pictures, vision, vision_processor
from tiny import DIM, SD_BETAS, t5, text_config, tokenizer
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

NO_SIZE = {"height": None, "width": None}
EMBEDDING = "What it samples is the embedding of a picture, which evaluators of latents cannot read."


def movq(levels: int = 2) -> VQModel:
    """Of ``2 ** (levels - 1)`` by as many pixels."""
    return VQModel(
        block_out_channels=(8,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=4,
        vq_embed_dim=4,
        num_vq_embeddings=8,
        norm_num_groups=4,
        mid_block_add_attention=False,
    )


def embedding(seed: int) -> torch.Tensor:
    """Of a picture for each prompt."""
    return torch.randn(2, DIM, generator=torch.Generator().manual_seed(seed))


def kandinsky(kind: type, channels: int = 4) -> DiffusionPipeline:
    """2.1, which reads prompts, too; its sampler has no use for the variance."""
    config = MCLIPConfig(
        transformerDimSize=DIM,
        imageDimSize=DIM,
        vocab_size=len(tokenizer()),
        hidden_size=DIM,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=DIM,
        max_position_embeddings=100,
    )
    unet = sd_unet(
        in_channels=channels,
        out_channels=8,
        encoder_hid_dim=DIM,
        encoder_hid_dim_type="text_image_proj",
        addition_embed_type="text_image",
    )
    scheduler = DDIMScheduler(**SD_BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    models = {"text_encoder": MultilingualCLIP(config), "tokenizer": tokenizer(), "unet": unet}
    return kind(**models, scheduler=scheduler, movq=movq())


def parts22(channels: int = 4, condition: str = "image") -> dict:
    """Of 2.2; its sampler uses the variance."""
    unet = sd_unet(
        in_channels=channels,
        out_channels=8,
        encoder_hid_dim=DIM,
        encoder_hid_dim_type="image_proj",
        addition_embed_type=condition,
    )
    scheduler = DDPMScheduler(**SD_BETAS, variance_type="learned_range", clip_sample=False)
    return {"unet": unet, "scheduler": scheduler, "movq": movq(4 if condition == "image_hint" else 2)}


def kandinsky22(kind: type, channels: int = 4, condition: str = "image") -> DiffusionPipeline:
    return kind(**parts22(channels, condition))


def prior_parts() -> dict:
    return {
        "prior": prior(),
        "image_encoder": vision(),
        "text_encoder": CLIPTextModelWithProjection(CLIPTextConfig(**text_config())),
        "tokenizer": tokenizer(),
        "scheduler": UnCLIPScheduler(prediction_type="sample", variance_type="fixed_small_log", clip_sample_range=5),
        "image_processor": vision_processor(),
    }


def combined() -> DiffusionPipeline:
    before = {f"prior_{name}": part for name, part in prior_parts().items()}
    return KandinskyV22CombinedPipeline(**parts22(), **before)


def combined21() -> DiffusionPipeline:
    before = {f"prior_{name}": part for name, part in prior_parts().items()}
    return KandinskyCombinedPipeline(**kandinsky(KandinskyPipeline).components, **before)


def kandinsky3(kind: type) -> DiffusionPipeline:
    text_encoder, t5_tokenizer = t5(DIM)
    unet = Kandinsky3UNet(
        time_embedding_dim=8,
        groups=2,
        attention_head_dim=4,
        layers_per_block=2,
        block_out_channels=(8, 8, 8, 8),
        cross_attention_dim=DIM,
        encoder_hid_dim=DIM,
    )
    return kind(
        tokenizer=t5_tokenizer,
        text_encoder=text_encoder,
        unet=alive(unet, gain=1.0),
        scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=False),
        movq=movq(4),
    )


def small_masks() -> list:
    return [small_mask()] * 2


def hint() -> torch.Tensor:
    """As large as the picture, which is 8 times the latents."""
    return torch.rand(2, 3, 8 * SIZE // 2, 8 * SIZE // 2, generator=torch.Generator().manual_seed(0))


EMBEDS = {
    "image_embeds": partial(embedding, 0),
    "negative_image_embeds": partial(embedding, 1),
    "note": "Its prior makes the embedding of a picture, which guides it.",
}


def row21(name: str, kind: type, channels: int = 4, **kwargs) -> Host:
    return host(name, partial(kandinsky, kind, channels), output_type="pt", **EMBEDS, **kwargs)


def row22(name: str, kind: type, channels: int = 4, condition: str = "image", **kwargs) -> Host:
    return host(name, partial(kandinsky22, kind, channels, condition), prompt=None, **EMBEDS, **kwargs)


LARGE = {"height": 4 * SIZE, "width": 4 * SIZE}
HINTED = LARGE | {"hint": hint, "output_type": "pt"}
PRIOR = {"output_type": "pt", "output": "image_embeds", "note": EMBEDDING, "refused": "it denoises an embedding"}

register(
    row21("kandinsky-2.1", KandinskyPipeline),
    row21("kandinsky-2.1-img2img", KandinskyImg2ImgPipeline, image=small_pictures, strength=0.7),
    row21("kandinsky-2.1-inpaint", KandinskyInpaintPipeline, 9, image=small_pictures, mask_image=small_masks),
    host("kandinsky-2.1-prior", lambda: KandinskyPriorPipeline(**prior_parts()), (DIM,), **PRIOR | NO_SIZE),
    host(
        "kandinsky-2.1-combined",
        combined21,
        prior_num_inference_steps=2,
        output_type="pt",
        note="Two pipelines in one: guide its decoder_pipe.",
        refused="denoises by another pipeline",
    ),
    row22("kandinsky-2.2", KandinskyV22Pipeline),
    row22("kandinsky-2.2-img2img", KandinskyV22Img2ImgPipeline, image=small_pictures, strength=0.7),
    row22("kandinsky-2.2-inpaint", KandinskyV22InpaintPipeline, 9, image=small_pictures, mask_image=small_masks),
    row22("kandinsky-2.2-controlnet", KandinskyV22ControlnetPipeline, 8, "image_hint", **HINTED),
    row22(
        "kandinsky-2.2-controlnet-img2img",
        KandinskyV22ControlnetImg2ImgPipeline,
        8,
        "image_hint",
        image=small_pictures,
        strength=0.7,
        **HINTED,
    ),
    host("kandinsky-2.2-prior", lambda: KandinskyV22PriorPipeline(**prior_parts()), (DIM,), **PRIOR | NO_SIZE),
    host(
        "kandinsky-2.2-prior-emb2emb",
        lambda: KandinskyV22PriorEmb2EmbPipeline(**prior_parts()),
        (DIM,),
        image=small_pictures,
        strength=0.7,
        **PRIOR | NO_SIZE,
    ),
    host(
        "kandinsky-2.2-combined",
        combined,
        prior_num_inference_steps=2,
        note="Two pipelines in one: guide its decoder_pipe.",
        refused="denoises by another pipeline",
    ),
    host(
        "kandinsky-3",
        lambda: kandinsky3(Kandinsky3Pipeline),
        note="Guides by c + s (c - u).",
        **LARGE,
    ),
    host(
        "kandinsky-3-img2img",
        lambda: kandinsky3(Kandinsky3Img2ImgPipeline),
        image=lambda: [image.resize((64, 64)) for image in small_pictures()],
        strength=0.7,
        note="Guides by c + s (c - u).",
        **NO_SIZE,
    ),
)
