"""HunyuanImage, GLM-Image, Krea 2, Kandinsky 5, JoyImage-Edit, NucleusMoE-Image, DreamLite, VisualCloze."""

import torch
from diffusers import (
    AdaptiveProjectedMixGuidance,
    AutoencoderKLHunyuanImage,
    AutoencoderKLHunyuanImageRefiner,
    AutoencoderTiny,
    BaseGuidance,
    ClassifierFreeGuidance,
    DreamLiteMobilePipeline,
    DreamLitePipeline,
    DreamLiteUNetModel,
    FlowMatchEulerDiscreteScheduler,
    GlmImagePipeline,
    GlmImageTransformer2DModel,
    HunyuanImagePipeline,
    HunyuanImageRefinerPipeline,
    HunyuanImageTransformer2DModel,
    JoyImageEditPipeline,
    JoyImageEditPlusPipeline,
    JoyImageEditPlusTransformer3DModel,
    JoyImageEditTransformer3DModel,
    Kandinsky5I2IPipeline,
    Kandinsky5T2IPipeline,
    Kandinsky5Transformer3DModel,
    Krea2Pipeline,
    Krea2Transformer2DModel,
    NucleusMoEImagePipeline,
    NucleusMoEImageTransformer2DModel,
)
from host import Host, register
from parts_flow import (
    DISTILLED,
    OFF,
    ONE,
    ONE_PASS,
    RENORMALISED,
    TWO_SCALES,
    alive,
    byt5,
    calls,
    deep_vae,
    qwen3_processor,
    qwen3_vl,
    qwen_processor,
    qwen_tokenizer,
    qwen_vae,
    qwen_vl,
    scheduler,
    wan_vae,
)
from parts_video import picture, pictures
from tiny import DIM, text_config, tokenizer, vae
from transformers import CLIPTextConfig, CLIPTextModel

BLURRY = {"negative_prompt": ["blurry"] * 2}


def hunyuan_model(**kwargs):
    defaults = {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "num_layers": 1,
        "num_single_layers": 1,
        "num_refiner_layers": 1,
        "text_embed_dim": DIM,
        "rope_axes_dim": (4, 4),
    }
    return alive(HunyuanImageTransformer2DModel(**defaults | kwargs))


def hunyuan(guider: BaseGuidance | None = None, **kwargs):
    encoder_2, tokenizer_2 = byt5()
    pipe = HunyuanImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=4.0),
        vae=AutoencoderKLHunyuanImage(3, 3, 4, (32, 32), 1, 2, 16, 0.5),
        **qwen_vl(),
        text_encoder_2=encoder_2,
        tokenizer_2=tokenizer_2,
        transformer=hunyuan_model(in_channels=4, out_channels=4, text_embed_2_dim=DIM, **kwargs),
        guider=guider,
    )
    pipe.tokenizer_max_length, pipe.tokenizer_2_max_length = 220, 16
    return pipe


def hunyuan_refiner():
    return HunyuanImageRefinerPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=4.0),
        vae=AutoencoderKLHunyuanImageRefiner(
            latent_channels=4,
            block_out_channels=(8, 8, 8),
            layers_per_block=1,
            spatial_compression_ratio=4,
            temporal_compression_ratio=1,
        ),
        **qwen_vl(),
        transformer=hunyuan_model(
            in_channels=16, out_channels=8, patch_size=(1, 1, 1), rope_axes_dim=(4, 2, 2), guidance_embeds=True
        ),
        guider=ClassifierFreeGuidance(),
    )


def glm():
    """Called with the tokens that its language model would plan the picture by."""
    model = GlmImageTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=DIM,
        time_embed_dim=16,
        condition_dim=4,
        prior_vq_quantizer_codebook_size=32,
    )
    encoder, byte_tokenizer = byt5()
    return GlmImagePipeline(byte_tokenizer, None, encoder, None, vae(), alive(model), scheduler())


def krea2():
    model = Krea2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=16,
        timestep_embed_dim=16,
        text_hidden_dim=DIM,
        num_text_layers=2,
        text_num_attention_heads=2,
        text_num_key_value_heads=1,
        text_intermediate_size=16,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 6, 6),
    )
    return Krea2Pipeline(scheduler(), qwen_vae(), qwen3_vl().model, qwen_tokenizer(), alive(model), (1, 2))


def kandinsky5(kind: type = Kandinsky5T2IPipeline, visual_cond: bool = False):
    model = Kandinsky5Transformer3DModel(
        in_visual_dim=4,
        out_visual_dim=4,
        in_text_dim=DIM,
        in_text_dim2=DIM,
        time_dim=16,
        model_dim=24,
        ff_dim=16,
        num_text_blocks=1,
        num_visual_blocks=1,
        axes_dims=(4, 4, 4),
        visual_cond=visual_cond,
    )
    pipe = kind(
        transformer=alive(model),
        vae=deep_vae(scaling_factor=0.5),
        text_encoder=qwen_vl()["text_encoder"],
        tokenizer=qwen_processor(),
        text_encoder_2=CLIPTextModel(CLIPTextConfig(**text_config(max_position_embeddings=77))),
        tokenizer_2=tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    pipe.resolutions = [(64, 64)]
    return pipe


def joyimage(kind: type = JoyImageEditPipeline, model: type = JoyImageEditTransformer3DModel):
    """The pipeline makes pictures of about 1024 by 1024 pixels of any that it is given: 64 by 64 are a latent here."""
    transformer = model(
        in_channels=4,
        hidden_size=24,
        num_attention_heads=2,
        text_dim=DIM,
        mlp_width_ratio=1.0,
        num_layers=1,
        rope_dim_list=[4, 4, 4],
    )
    return kind(
        FlowMatchEulerDiscreteScheduler(shift=1.5),
        wan_vae(6),
        qwen3_vl(),
        qwen_tokenizer(),
        alive(transformer),
        qwen3_processor(),
    )


def nucleus():
    model = NucleusMoEImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=DIM,
        axes_dims_rope=(4, 6, 6),
        mlp_ratio=1.0,
        dense_moe_strategy="all_moe",
        num_experts=2,
        capacity_factors=1.0,
        moe_intermediate_dim=16,
    )
    for block in model.transformer_blocks:  # made without numbers
        block.img_mlp.experts.gate_up_proj.data.zero_()
        block.img_mlp.experts.down_proj.data.zero_()
    return NucleusMoEImagePipeline(alive(model), scheduler(), qwen_vae(), qwen3_vl(), qwen3_processor())


def dreamlite(kind: type = DreamLitePipeline):
    unet = DreamLiteUNetModel(
        block_out_channels=(8, 8),
        down_block_types=("DreamLiteCrossAttnDownBlock2D",) * 2,
        up_block_types=("DreamLiteCrossAttnUpBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=2,
        cross_attention_dim=DIM,
        attention_head_dim=2,
        addition_embed_type="time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=16,
        ff_mult=1,
    )
    taesd = AutoencoderTiny(
        encoder_block_out_channels=(4, 4),
        decoder_block_out_channels=(4, 4),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        latent_channels=4,
    )
    return kind(qwen3_vl(), qwen_tokenizer(), qwen3_processor(), taesd, alive(unet), scheduler())


def host(name, build, note="", shape=(4, 8, 8), size=16, scale="guidance_scale", output="images", refused="", **kwargs):
    call = calls(**{"height": size, "width": size} | kwargs)
    return Host(name, build, call, shape, scale, output, note=note, refused=refused)


def hunyuan_host(name, build, note="", **kwargs):
    note = " ".join(filter(None, ("Its guider keeps its scale, not the call.", note)))
    return host(name, build, note, scale="guider.guidance_scale", **BLURRY, **kwargs)


register(
    hunyuan_host("hunyuan-image", lambda: hunyuan(ClassifierFreeGuidance())),
    hunyuan_host(
        "hunyuan-image-apg",
        lambda: hunyuan(AdaptiveProjectedMixGuidance(adaptive_projected_guidance_start_step=2)),
        "Guided by projection (APG) after three steps; with ClassifierFreeGuidance as its guider it can be guided.",
        refused="guides by another formula: give it ClassifierFreeGuidance",
    ),
    hunyuan_host("hunyuan-image-refiner", hunyuan_refiner, shape=(8, 8, 8), size=32, image=picture),
    host(
        "hunyuan-image-distilled",
        lambda: hunyuan(guidance_embeds=True, use_meanflow=True),
        DISTILLED,
        scale="distilled_guidance_scale",
        refused=OFF,
    ),
    host("glm-image", glm, prior_token_ids=lambda: torch.arange(32).view(2, 16)),
    host("krea-2", krea2, "Its scale s is our 1 + s.", (4, 4, 4), 32, **BLURRY),
    host("kandinsky-5-image", kandinsky5, size=64, output="image", **BLURRY),
    host(
        "kandinsky-5-image-edit",
        lambda: kandinsky5(Kandinsky5I2IPipeline, True),
        size=64,
        output="image",
        image=pictures,
        **BLURRY,
    ),
    host("joyimage-edit", joyimage, RENORMALISED, (4, 16, 16), 1024, **BLURRY, image=pictures),
    host(
        "joyimage-edit-plus",
        lambda: joyimage(JoyImageEditPlusPipeline, JoyImageEditPlusTransformer3DModel),
        RENORMALISED,
        (4, 16, 16),
        1024,
        **BLURRY,
        images=lambda: [[picture()], [picture(1)]],
    ),
    host(
        "nucleus-moe-image", nucleus, f"{RENORMALISED} With the other sign.", (4, 4, 4), 32, return_index=-1, **BLURRY
    ),
    host("dreamlite", dreamlite, "One prompt a call.", **ONE, negative_prompt="blurry"),
    host(
        "dreamlite-edit",
        dreamlite,
        f"One prompt a call. {TWO_SCALES}",
        **ONE,
        negative_prompt="blurry",
        image=picture,
    ),
    host("dreamlite-mobile", lambda: dreamlite(DreamLiteMobilePipeline), DISTILLED, **ONE, refused=ONE_PASS),
)
