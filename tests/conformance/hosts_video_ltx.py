"""LTX-Video and LTX-2, whose latents are packed into tokens."""

from diffusers import (
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTXVideo,
    FlowMatchEulerDiscreteScheduler,
    LTX2ConditionPipeline,
    LTX2HDRPipeline,
    LTX2ImageToVideoPipeline,
    LTX2InContextPipeline,
    LTX2Pipeline,
    LTX2VideoTransformer3DModel,
    LTXConditionPipeline,
    LTXEulerAncestralRFScheduler,
    LTXI2VLongMultiPromptPipeline,
    LTXImageToVideoPipeline,
    LTXPipeline,
    LTXVideoTransformer3DModel,
)
from diffusers.pipelines.ltx2 import LTX2TextConnectors, LTX2Vocoder
from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition
from diffusers.pipelines.ltx2.pipeline_ltx2_hdr_lora import LTX2HDRReferenceCondition
from diffusers.pipelines.ltx2.pipeline_ltx2_ic_lora import LTX2ReferenceCondition
from host import register
from parts_video import SIZE, clip, gemma3, ltx2_vae, one_prompt, picture, pictures, row
from tiny import DIM, t5

CHANNELS, FRAMES = 4, 5  # of the latents; of the video, which makes three frames of latents
SIDE = SIZE // 8
SHAPE = (CHANNELS, 3, SIDE, SIDE)


def ltx(kind: type = LTXPipeline, **parts):
    text_encoder, tokenizer = t5(DIM)
    vae = AutoencoderKLLTXVideo(
        latent_channels=CHANNELS,
        block_out_channels=(8, 8),
        down_block_types=("LTXVideoDownBlock3D",) * 2,
        decoder_block_out_channels=(8, 8),
        layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        spatio_temporal_scaling=(True, False),
        decoder_spatio_temporal_scaling=(True, False),
        decoder_inject_noise=(False, False, False),
        downsample_type=("conv", "conv"),
        upsample_residual=(False, False),
        upsample_factor=(1, 1),
    )
    transformer = LTXVideoTransformer3DModel(
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=2,
        caption_channels=DIM,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05)
    shared = {"vae": vae, "text_encoder": text_encoder, "tokenizer": tokenizer, "transformer": transformer}
    return kind(**shared | {"scheduler": scheduler} | parts)


def ltx2(kind: type = LTX2Pipeline):
    audio_vae = AutoencoderKLLTX2Audio(
        base_channels=8, ch_mult=(1, 1, 1), num_res_blocks=1, latent_channels=2, mel_bins=16
    )
    transformer = LTX2VideoTransformer3DModel(
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        audio_in_channels=8,
        audio_out_channels=8,
        audio_num_attention_heads=2,
        audio_attention_head_dim=4,
        audio_cross_attention_dim=8,
        num_layers=2,
        caption_channels=DIM,
        vae_scale_factors=(2, 8, 8),
    )
    connectors = LTX2TextConnectors(
        caption_channels=DIM,
        text_proj_in_factor=3,
        video_connector_num_attention_heads=2,
        video_connector_attention_head_dim=8,
        video_connector_num_layers=1,
        video_connector_num_learnable_registers=8,
        audio_connector_num_attention_heads=2,
        audio_connector_attention_head_dim=8,
        audio_connector_num_layers=1,
        audio_connector_num_learnable_registers=8,
    )
    vocoder = LTX2Vocoder(
        in_channels=32,
        hidden_channels=4,
        upsample_kernel_sizes=[4],
        upsample_factors=[2],
        resnet_kernel_sizes=[3],
        resnet_dilations=[[1]],
    )
    return kind(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05),
        vae=ltx2_vae(CHANNELS),
        audio_vae=audio_vae,
        connectors=connectors,
        transformer=transformer,
        vocoder=vocoder,
        **gemma3(),
    )


T2V = {"num_frames": FRAMES, "max_sequence_length": 16}
FOREIGN = "does not guide by u + s (c - u)"
CLEAN = "Its guidance is of predictions of the clean latents."
MINUS = "Its scheduler is given minus the prediction."
CUT = "The first frame of its latents never reaches the scheduler."
CFG = {  # guidance by the text alone
    "stg_scale": 0.0,
    "modality_scale": 1.0,
    "guidance_rescale": 0.0,
    "audio_guidance_scale": 4.0,
    "audio_stg_scale": 0.0,
    "audio_modality_scale": 1.0,
    "audio_guidance_rescale": 0.0,
}
STG = {"audio_guidance_scale": 4.0, "spatio_temporal_guidance_blocks": [1]}


def condition():
    return ltx(LTXConditionPipeline, scheduler=FlowMatchEulerDiscreteScheduler())


def first_frame() -> list[LTX2VideoCondition]:
    return [LTX2VideoCondition(frames=picture(), crf=0)]


def reference() -> list[LTX2ReferenceCondition]:
    return [LTX2ReferenceCondition(frames=clip(FRAMES))]


def hdr_reference() -> list[LTX2HDRReferenceCondition]:
    return [LTX2HDRReferenceCondition(frames=clip(FRAMES))]


WITHOUT_FIRST = (CHANNELS, 2, SIDE, SIDE)
WITH_ANOTHER = (CHANNELS, 4, SIDE, SIDE)

register(
    row("ltx", ltx, SHAPE, common=True, **T2V),
    row("ltx-rescale", ltx, SHAPE, **T2V, guidance_rescale=0.7),
    row("ltx-i2v", lambda: ltx(LTXImageToVideoPipeline), WITHOUT_FIRST, **T2V, image=pictures, note=CUT),
    row("ltx-condition", condition, SHAPE, **T2V, image=picture, frame_index=0, note=MINUS),
    row(
        "ltx-condition-last",
        condition,
        SHAPE,
        **T2V | one_prompt(),
        image=picture,
        frame_index=FRAMES - 1,
    ),
    row(
        "ltx-long",
        lambda: ltx(LTXI2VLongMultiPromptPipeline, scheduler=LTXEulerAncestralRFScheduler()),
        WITH_ANOTHER,
        **T2V | one_prompt(),
        cond_image=picture,
        skip_steps_sigma_threshold=None,
    ),
    row("ltx2", ltx2, SHAPE, **T2V, **CFG, note=CLEAN),
    row("ltx2-stg", ltx2, SHAPE, **T2V, **STG, refused=FOREIGN),
    row(
        "ltx2-i2v",
        lambda: ltx2(LTX2ImageToVideoPipeline),
        WITHOUT_FIRST,
        **T2V,
        **CFG,
        image=pictures,
        image_crf=0,
        note=CLEAN + " " + CUT,
    ),
    row("ltx2-condition", lambda: ltx2(LTX2ConditionPipeline), SHAPE, **T2V, **CFG, conditions=first_frame),
    row(
        "ltx2-in-context",
        lambda: ltx2(LTX2InContextPipeline),
        SHAPE,
        **T2V,
        **CFG,
        reference_conditions=reference,
    ),
    row("ltx2-hdr", lambda: ltx2(LTX2HDRPipeline), SHAPE, **T2V, reference_conditions=hdr_reference),
)
