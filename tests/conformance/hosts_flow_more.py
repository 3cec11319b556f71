"""Lumina, HiDream, Chroma, AuraFlow, CogView, OmniGen."""

from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    ChromaImg2ImgPipeline,
    ChromaInpaintPipeline,
    ChromaPipeline,
    ChromaTransformer2DModel,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogView3PlusPipeline,
    CogView3PlusTransformer2DModel,
    CogView4ControlPipeline,
    CogView4Pipeline,
    CogView4Transformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    HiDreamImagePipeline,
    HiDreamImageTransformer2DModel,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    LuminaNextDiT2DModel,
    LuminaPipeline,
    OmniGenPipeline,
    OmniGenTransformer2DModel,
)
from host import PROMPTS, Host, register
from parts_flow import (
    NEGATED,
    RENORMALISED,
    TWO_SCALES,
    alive,
    calls,
    deep_vae,
    llama,
    mask,
    qwen3,
    qwen_tokenizer,
    scheduler,
)
from parts_video import picture
from tiny import DIM, flow_vae, t5, text_config, tokenizer, vae
from transformers import CLIPTextConfig, CLIPTextModelWithProjection


def lumina2():
    model = Lumina2Transformer2DModel(
        sample_size=8,
        in_channels=4,
        hidden_size=24,
        num_layers=1,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=8,
        axes_dim_rope=(4, 4, 4),
        axes_lens=(300, 32, 32),
        cap_feat_dim=DIM,
    )
    return Lumina2Pipeline(transformer=alive(model), scheduler=scheduler(), vae=flow_vae(), **qwen3())


def lumina():
    model = LuminaNextDiT2DModel(
        sample_size=8,
        in_channels=4,
        hidden_size=16,
        num_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=8,
        cross_attention_dim=DIM,
    )
    model.pad_token.data.zero_()  # made without numbers
    return LuminaPipeline(transformer=alive(model), scheduler=FlowMatchEulerDiscreteScheduler(), vae=vae(), **qwen3())


def hidream():
    model = HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=1,
        caption_channels=[DIM, DIM],
        text_emb_dim=2 * DIM,
        num_routed_experts=2,
        num_activated_experts=1,
        axes_dims_rope=(4, 6, 6),
        max_resolution=(8, 8),
        llama_layers=[0, 1],
        force_inference_output=True,
    )
    t5_encoder, t5_tokenizer = t5(DIM)
    pipe = HiDreamImagePipeline(
        scheduler=scheduler(use_dynamic_shifting=False),
        vae=flow_vae(),
        text_encoder=CLIPTextModelWithProjection(CLIPTextConfig(**text_config())),
        tokenizer=tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(CLIPTextConfig(**text_config())),
        tokenizer_2=tokenizer(),
        text_encoder_3=t5_encoder,
        tokenizer_3=t5_tokenizer,
        text_encoder_4=llama(),
        tokenizer_4=qwen_tokenizer(),
        transformer=alive(model),
    )
    pipe.default_sample_size = 8  # the pipeline scales any height and width to its own area
    return pipe


def chroma(kind: type = ChromaPipeline):
    model = ChromaTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=DIM,
        axes_dims_rope=(4, 6, 6),
        approximator_num_channels=8,
        approximator_hidden_dim=16,
        approximator_layers=1,
    )
    if kind is ChromaInpaintPipeline:  # asks what the model's class does not say
        model.register_to_config(guidance_embeds=False)
    text_encoder, t5_tokenizer = t5(DIM)
    return kind(scheduler(), flow_vae(), text_encoder, t5_tokenizer, alive(model))


def aura_flow():
    model = AuraFlowTransformer2DModel(
        sample_size=8,
        in_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=DIM,
        caption_projection_dim=16,
        pos_embed_max_size=64,
    )
    text_encoder, t5_tokenizer = t5(DIM)
    return AuraFlowPipeline(
        t5_tokenizer, text_encoder, vae(), alive(model), FlowMatchEulerDiscreteScheduler(shift=1.73)
    )


def cogview(kind: type, **kwargs):
    defaults = {
        "in_channels": 4,
        "num_layers": 1,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "out_channels": 4,
        "text_embed_dim": DIM,
        "time_embed_dim": 16,
        "condition_dim": 4,
        "sample_size": 8,
    }
    return alive(kind(**defaults | kwargs))


def cogview3(kind: type = CogVideoXDDIMScheduler):
    text_encoder, t5_tokenizer = t5(DIM)
    model = cogview(CogView3PlusTransformer2DModel, pos_embed_max_size=16)
    scheduler = kind(prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")
    return CogView3PlusPipeline(t5_tokenizer, text_encoder, vae(), model, scheduler)


def cogview4(kind: type = CogView4Pipeline, in_channels: int = 4):
    model = cogview(CogView4Transformer2DModel, in_channels=in_channels, rope_axes_dim=(8, 8))
    return kind(vae=vae(), transformer=model, scheduler=scheduler(), **qwen3())


def omnigen():
    model = OmniGenTransformer2DModel(
        in_channels=4,
        hidden_size=16,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=16,
        num_layers=1,
        pad_token_id=0,
        vocab_size=len(qwen_tokenizer()),
        rope_scaling={"short_factor": [1.0] * 4, "long_factor": [1.0] * 4},
        pos_embed_max_size=32,
        time_step_dim=16,
    )
    return OmniGenPipeline(
        alive(model), FlowMatchEulerDiscreteScheduler(invert_sigmas=True), deep_vae(), qwen_tokenizer()
    )


def host(name, build, note="", common=False, size=16, **kwargs):
    return Host(name, build, calls(height=size, width=size, **kwargs), (4, 8, 8), common=common, note=note)


START = {"image": picture, "strength": 0.7}
BLURRY = {"negative_prompt": ["blurry"] * 2}
SHORT = BLURRY | {"max_sequence_length": 32}

register(
    host("lumina2", lumina2, f"{RENORMALISED} {NEGATED}", common=True, size=64, **BLURRY),
    host("lumina2-plain", lumina2, NEGATED, size=64, **BLURRY, cfg_normalization=False),
    host(
        "lumina2-truncated",
        lumina2,
        f"Guided at the first steps only. {RENORMALISED} {NEGATED}",
        size=64,
        **BLURRY,
        cfg_trunc_ratio=0.5,
    ),
    host("lumina-next", lumina, f"Guides three channels of four. {NEGATED}", size=64, clean_caption=False, **SHORT),
    host("hidream", hidream, NEGATED, common=True, **BLURRY, max_sequence_length=24),
    host("chroma", chroma, **SHORT),
    host("chroma-img2img", lambda: chroma(ChromaImg2ImgPipeline), **START, **SHORT),
    host("chroma-inpaint", lambda: chroma(ChromaInpaintPipeline), **START, mask_image=mask, **SHORT),
    host("aura-flow", aura_flow, **SHORT),
    host("cogview3-plus", cogview3, **SHORT),
    host(
        "cogview3-plus-dpm",
        lambda: cogview3(CogVideoXDPMScheduler),
        "The step of its scheduler takes the last clean prediction, too.",
        **SHORT,
    ),
    host("cogview4", cogview4, **BLURRY),
    host("cogview4-control", lambda: cogview4(CogView4ControlPipeline, 8), control_image=picture, **BLURRY),
    host("omnigen", omnigen, size=64),
    host(
        "omnigen-image",
        omnigen,
        TWO_SCALES,
        prompt=lambda: [f"{prompt} <img><|image_1|></img>" for prompt in PROMPTS],
        input_images=lambda: [[picture()], [picture(1)]],
        size=64,
    ),
)
