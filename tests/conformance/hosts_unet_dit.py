"""PixArt, HunyuanDiT and DiT: transformers that also predict the variance, which the pipelines drop."""

from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    HunyuanDiT2DControlNetModel,
    HunyuanDiT2DModel,
    HunyuanDiTControlNetPipeline,
    HunyuanDiTPAGPipeline,
    HunyuanDiTPipeline,
    PixArtAlphaPipeline,
    PixArtSigmaPAGPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
)
from host import register
from parts_flow import alive, deep_vae
from parts_unet import FOREIGN, host, small_picture
from tiny import DIM, SD_BETAS, t5, tokenizer, vae
from transformers import BertConfig, BertModel

LARGE = 32  # height and width of HunyuanDiT's pictures, of which 8 by 8 pixels are a latent
PIXART = {"use_resolution_binning": False, "clean_caption": False, "max_sequence_length": 16}
HUNYUAN = {"use_resolution_binning": False, "height": LARGE, "width": LARGE}
HUNYUAN_SHAPE = (4, LARGE // 8, LARGE // 8)
VARIANCE = "Predicts a variance, too, which is dropped."


def pixart(kind: type, **parts):
    text_encoder, t5_tokenizer = t5(DIM)
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        cross_attention_dim=DIM,
        caption_channels=DIM,
        sample_size=8,
    )
    return kind(
        tokenizer=t5_tokenizer,
        text_encoder=text_encoder,
        vae=vae(),
        transformer=alive(transformer, gain=1.0),
        scheduler=DPMSolverMultistepScheduler(**SD_BETAS),
        **parts,
    )


def hunyuan_config() -> dict:
    """Of the denoiser and of its ControlNet."""
    return {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "in_channels": 4,
        "patch_size": 2,
        "sample_size": LARGE // 8,
        "hidden_size": 16,
        "mlp_ratio": 2.0,
        "cross_attention_dim": DIM,
        "cross_attention_dim_t5": DIM,
        "pooled_projection_dim": 8,
        "text_len": 77,
        "text_len_t5": 256,
    }


def hunyuan(kind: type, **parts):
    bert = {
        "vocab_size": len(tokenizer()),
        "hidden_size": DIM,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": DIM,
    }
    text_encoder_2, tokenizer_2 = t5(DIM)
    return kind(
        vae=deep_vae(),
        text_encoder=BertModel(BertConfig(**bert)),
        tokenizer=tokenizer(),
        text_encoder_2=text_encoder_2,
        tokenizer_2=tokenizer_2,
        transformer=alive(HunyuanDiT2DModel(num_layers=4, **hunyuan_config())),
        scheduler=DDPMScheduler(**SD_BETAS, prediction_type="v_prediction", clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **parts,
    )


def hunyuan_controlled():
    net = HunyuanDiT2DControlNetModel(transformer_num_layers=4, **hunyuan_config())
    return hunyuan(HunyuanDiTControlNetPipeline, controlnet=alive(net))


def dit():
    """Of classes, not of prompts."""
    transformer = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=1, sample_size=8
    )
    scheduler = DDIMScheduler(clip_sample=False)
    return DiTPipeline(transformer=alive(transformer), vae=vae(), scheduler=scheduler)


register(
    host("pixart-alpha", lambda: pixart(PixArtAlphaPipeline), note=VARIANCE, **PIXART),
    host("pixart-sigma", lambda: pixart(PixArtSigmaPipeline), note=VARIANCE, **PIXART),
    host("pixart-sigma-pag", lambda: pixart(PixArtSigmaPAGPipeline), note=VARIANCE, pag_scale=0.0, **PIXART),
    host(
        "pixart-sigma-pag-on",
        lambda: pixart(PixArtSigmaPAGPipeline),
        pag_scale=3.0,
        note="A third pass, with perturbed attention, adds guidance of its own.",
        refused=FOREIGN,
        **PIXART,
    ),
    host("hunyuandit", lambda: hunyuan(HunyuanDiTPipeline), HUNYUAN_SHAPE, note=VARIANCE, **HUNYUAN),
    host(
        "hunyuandit-rescale",
        lambda: hunyuan(HunyuanDiTPipeline),
        HUNYUAN_SHAPE,
        guidance_rescale=0.7,
        note=VARIANCE,
        **HUNYUAN,
    ),
    host(
        "hunyuandit-controlnet",
        hunyuan_controlled,
        HUNYUAN_SHAPE,
        control_image=small_picture,
        note=VARIANCE,
        **HUNYUAN,
    ),
    host(
        "hunyuandit-pag",
        lambda: hunyuan(HunyuanDiTPAGPipeline),
        HUNYUAN_SHAPE,
        pag_scale=0.0,
        note=VARIANCE,
        **HUNYUAN,
    ),
    host(
        "dit",
        dit,
        prompt=None,
        height=None,
        width=None,
        class_labels=[1, 2],
        output_type="pt",
        note="Its classes, not prompts, guide it; the scheduler steps every sample twice, once for each pass.",
        refused="cannot be guided",
    ),
)
