"""HunyuanVideo and what descends from it: guidance by a second prompt, beside a guidance that is an input."""

from diffusers import (
    AutoencoderKLHunyuanVideo,
    AutoencoderKLHunyuanVideo15,
    ClassifierFreeGuidance,
    FlowMatchEulerDiscreteScheduler,
    HunyuanSkyreelsImageToVideoPipeline,
    HunyuanVideo15ImageToVideoPipeline,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
    HunyuanVideoFramepackPipeline,
    HunyuanVideoFramepackTransformer3DModel,
    HunyuanVideoImageToVideoPipeline,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from host import register
from parts_video import SIZE, chat_tokenizer, llama_config, one_prompt, picture, pictures, qwen_config, row
from tiny import DIM, t5, text_config, tokenizer
from transformers import (
    ByT5Tokenizer,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    LlamaModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLTextModel,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
)

CHANNELS, FRAMES = 4, 5  # of the latents; of the video, which makes two frames of latents
SHAPE = (CHANNELS, 2, SIZE // 8, SIZE // 8)
IMAGE, HEADER = "<image>", "<|end_header_id|>"


def transformer(kind: type = HunyuanVideoTransformer3DModel, **kwargs):
    defaults = {
        "in_channels": CHANNELS,
        "out_channels": CHANNELS,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "num_layers": 1,
        "num_single_layers": 1,
        "num_refiner_layers": 1,
        "patch_size": 1,
        "text_embed_dim": DIM,
        "pooled_projection_dim": DIM,
        "rope_axes_dim": (2, 2, 4),
    }
    return kind(**defaults | kwargs)


def hunyuan(kind: type = HunyuanVideoPipeline, **parts):
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=CHANNELS, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=2
    )
    shared = {
        "text_encoder": LlamaModel(llama_config()),
        "tokenizer": t5(DIM)[1],
        "transformer": transformer(),
        "vae": vae,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
        "text_encoder_2": CLIPTextModel(CLIPTextConfig(**text_config(max_position_embeddings=77))),
        "tokenizer_2": tokenizer(),
    }
    return kind(**shared | parts)


def image_to_video(condition: str, in_channels: int):
    """By Llava, whose image stands before the prompt."""
    words = t5(DIM)[1]
    words.add_tokens([IMAGE, HEADER], special_tokens=True)
    vision = CLIPVisionConfig(
        hidden_size=DIM,
        intermediate_size=DIM,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
        projection_dim=DIM,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=llama_config(),
        image_token_index=words.convert_tokens_to_ids(IMAGE),
        pad_token_id=0,
    )
    size = {"height": 8, "width": 8}
    return hunyuan(
        HunyuanVideoImageToVideoPipeline,
        text_encoder=LlavaForConditionalGeneration(config),
        tokenizer=words,
        transformer=transformer(in_channels=in_channels, image_condition_type=condition, guidance_embeds=False),
        image_processor=CLIPImageProcessor(size={"shortest_edge": 8}, crop_size=size),
    )


def siglip() -> dict:
    """An image encoder of 4 tokens and its processor."""
    config = SiglipVisionConfig(
        hidden_size=DIM, intermediate_size=DIM, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4
    )
    processor = SiglipImageProcessor(size={"height": 8, "width": 8})
    return {"image_encoder": SiglipVisionModel(config), "feature_extractor": processor}


def framepack():
    model = transformer(
        HunyuanVideoFramepackTransformer3DModel,
        patch_size=2,
        has_image_proj=True,
        image_proj_dim=DIM,
        has_clean_x_embedder=True,
    )
    return hunyuan(HunyuanVideoFramepackPipeline, transformer=model, **siglip())


def hunyuan15(kind: type = HunyuanVideo15Pipeline, **parts):
    vae = AutoencoderKLHunyuanVideo15(
        latent_channels=CHANNELS,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        spatial_compression_ratio=8,
    )
    model = HunyuanVideo15Transformer3DModel(
        in_channels=2 * CHANNELS + 1,
        out_channels=CHANNELS,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_refiner_layers=1,
        text_embed_dim=DIM,
        text_embed_2_dim=8,
        image_embed_dim=DIM,
        rope_axes_dim=(2, 2, 4),
        target_size=SIZE,
    )
    glyphs = ByT5Tokenizer(extra_ids=0)
    pipe = kind(
        text_encoder=Qwen2_5_VLTextModel(Qwen2_5_VLTextConfig(**qwen_config())),
        tokenizer=chat_tokenizer(),
        transformer=model,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        text_encoder_2=t5(8)[0],
        tokenizer_2=glyphs,
        guider=ClassifierFreeGuidance(),
        **parts,
    )
    # The chat template leaves out the system message, in whose place the prompt would be cut off.
    pipe.prompt_template_encode_start_idx = 0
    pipe.tokenizer_max_length, pipe.tokenizer_2_max_length, pipe.vision_num_semantic_tokens = 16, 8, 4
    return pipe


def skyreels():
    return hunyuan(HunyuanSkyreelsImageToVideoPipeline, transformer=transformer(in_channels=2 * CHANNELS))


T2V = {
    "scale": "true_cfg_scale",
    "num_frames": FRAMES,
    "negative_prompt": ["", ""],
    "prompt_template": {"template": "{}", "crop_start": 0},
    "max_sequence_length": 16,
}
# The words around which the features of the image are cut out, and where they stand.
AROUND = {
    "template": HEADER + IMAGE + HEADER + "{} abc" + HEADER,
    "crop_start": 3,
    "image_emb_start": 1,
    "image_emb_end": 5,
    "image_emb_len": 4,
}
ONE = T2V | one_prompt() | {"negative_prompt": "", "image": picture}
I2V = ONE | {"prompt_template": AROUND, "max_sequence_length": 32}
SCALED = {"scale": "guider.guidance_scale", "num_frames": FRAMES}

register(
    row("hunyuan-video", hunyuan, SHAPE, **T2V),
    row("hunyuan-video-i2v", lambda: image_to_video("latent_concat", 2 * CHANNELS + 1), SHAPE, **I2V),
    row(
        "hunyuan-video-i2v-replace",
        lambda: image_to_video("token_replace", CHANNELS),
        (CHANNELS, 1, *SHAPE[2:]),
        **I2V | {"note": "One prompt a call. The first frame of its latents never reaches the scheduler."},
    ),
    row("hunyuan-skyreels-i2v", skyreels, SHAPE, **T2V, image=pictures),
    row(
        "framepack",
        framepack,
        SHAPE,
        **ONE
        | {"num_frames": 2 * FRAMES, "note": "One prompt a call. Sections one after another, each with all steps."},
        latent_window_size=2,
        output_type="pt",  # the latents would be a list, of growing length
    ),
    row("hunyuan-video-1.5", hunyuan15, SHAPE, **SCALED),
    row(
        "hunyuan-video-1.5-i2v",
        lambda: hunyuan15(HunyuanVideo15ImageToVideoPipeline, **siglip()),
        SHAPE,
        **SCALED | one_prompt(),
        image=picture,
        height=None,
        width=None,
    ),
)
