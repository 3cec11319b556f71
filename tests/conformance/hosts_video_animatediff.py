"""AnimateDiff, whose denoiser is a UNet with motion modules, and Stable Video Diffusion."""

from diffusers import (
    AnimateDiffControlNetPipeline,
    AnimateDiffPipeline,
    AnimateDiffSDXLPipeline,
    AnimateDiffSparseControlNetPipeline,
    AnimateDiffVideoToVideoControlNetPipeline,
    AnimateDiffVideoToVideoPipeline,
    AutoencoderKLTemporalDecoder,
    ControlNetModel,
    DDIMScheduler,
    EulerDiscreteScheduler,
    MotionAdapter,
    SparseControlNetModel,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from host import register
from parts_video import clip, clip_vision, filled, one_prompt, picture, pictures, row
from tiny import DIM, SD_BETAS, text_config, tokenizer, unet, vae
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionModelWithProjection,
)

SIZE, FRAMES = 16, 3
SHAPE = (4, FRAMES, SIZE // 2, SIZE // 2)


def adapter() -> MotionAdapter:
    return filled(
        MotionAdapter(
            block_out_channels=(8, 16),
            motion_layers_per_block=1,
            motion_num_attention_heads=2,
            motion_norm_num_groups=4,
            motion_max_seq_length=8,
        )
    )


def animatediff(kind: type = AnimateDiffPipeline, **parts):
    return kind(
        vae=vae(),
        text_encoder=CLIPTextModel(CLIPTextConfig(**text_config())),
        tokenizer=tokenizer(),
        unet=unet(cross_attention_dim=DIM),
        motion_adapter=adapter(),
        scheduler=DDIMScheduler(beta_schedule="linear", clip_sample=False, timestep_spacing="linspace", steps_offset=1),
        **parts,
    )


def sdxl():
    return AnimateDiffSDXLPipeline(
        vae=vae(),
        text_encoder=CLIPTextModel(CLIPTextConfig(**text_config())),
        text_encoder_2=CLIPTextModelWithProjection(CLIPTextConfig(**text_config())),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        unet=unet(
            cross_attention_dim=2 * DIM,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + DIM,
        ),
        motion_adapter=adapter(),
        scheduler=EulerDiscreteScheduler(**SD_BETAS),
    )


def controlnet() -> ControlNetModel:
    return filled(ControlNetModel.from_unet(unet(cross_attention_dim=DIM), conditioning_embedding_out_channels=(4, 8)))


def sparse() -> SparseControlNetModel:
    return filled(
        SparseControlNetModel(
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlockMotion", "CrossAttnDownBlockMotion"),
            conditioning_channels=3,
            cross_attention_dim=DIM,
            conditioning_embedding_out_channels=(4, 8),
            norm_num_groups=4,
            attention_head_dim=2,
            motion_max_seq_length=8,
            motion_num_attention_heads=2,
            concat_conditioning_mask=True,
            use_simplified_condition_embedding=False,
        )
    )


def frames():
    return clip(FRAMES, SIZE)


def free_init():
    pipe = animatediff()
    pipe.enable_free_init(num_iters=2)
    return pipe


def svd():
    encoder = clip_vision(CLIPVisionModelWithProjection, size=224)
    unet = UNetSpatioTemporalConditionModel(
        in_channels=8,
        block_out_channels=(32, 32),
        down_block_types=("DownBlockSpatioTemporal", "CrossAttnDownBlockSpatioTemporal"),
        up_block_types=("CrossAttnUpBlockSpatioTemporal", "UpBlockSpatioTemporal"),
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=12,
        cross_attention_dim=DIM,
        layers_per_block=1,
        num_attention_heads=2,
    )
    return StableVideoDiffusionPipeline(
        vae=AutoencoderKLTemporalDecoder(
            block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2, layers_per_block=1
        ),
        image_encoder=encoder["image_encoder"],
        unet=unet,
        scheduler=EulerDiscreteScheduler(),
        feature_extractor=encoder["image_processor"],
    )


SMALL = {"height": SIZE, "width": SIZE}
T2V = SMALL | {"num_frames": FRAMES}
V2V = SMALL | {"video": lambda: [frames()] * 2, "strength": 0.7}

register(
    row("animatediff", animatediff, SHAPE, **T2V),
    row("animatediff-free-init", free_init, SHAPE, **T2V, note="All steps several times over."),
    row("animatediff-sdxl", sdxl, SHAPE, **T2V),
    row("animatediff-sdxl-rescale", sdxl, SHAPE, **T2V, guidance_rescale=0.7),
    row("animatediff-v2v", lambda: animatediff(AnimateDiffVideoToVideoPipeline), SHAPE, **V2V),
    row(
        "animatediff-controlnet",
        lambda: animatediff(AnimateDiffControlNetPipeline, controlnet=controlnet()),
        SHAPE,
        **T2V | one_prompt(),
        conditioning_frames=frames,
    ),
    row(
        "animatediff-v2v-controlnet",
        lambda: animatediff(AnimateDiffVideoToVideoControlNetPipeline, controlnet=controlnet()),
        SHAPE,
        **V2V | one_prompt() | {"video": frames},
        conditioning_frames=frames,
    ),
    row(
        "animatediff-sparse-controlnet",
        lambda: animatediff(AnimateDiffSparseControlNetPipeline, controlnet=sparse()),
        SHAPE,
        **T2V | one_prompt(),
        conditioning_frames=lambda: picture(0, SIZE),
    ),
    row(
        "stable-video-diffusion",
        svd,
        SHAPE,
        **T2V,
        prompt=None,
        scale="max_guidance_scale",
        image=pictures,
        note="A picture in place of a prompt; its scale grows from frame to frame.",
        refused="it guides every frame by a scale of its own",
    ),
)
