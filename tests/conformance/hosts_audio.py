"""Sound, whose latents evaluators see as one row: Stable Audio, AudioLDM 2, LongCat-AudioDiT, ACE-Step."""

from diffusers import (
    AceStepPipeline,
    AceStepTransformer1DModel,
    AudioLDM2Pipeline,
    AudioLDM2ProjectionModel,
    AudioLDM2UNet2DConditionModel,
    AutoencoderOobleck,
    AutoencoderSAME,
    DDIMScheduler,
    EDMDPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    LongCatAudioDiTPipeline,
    LongCatAudioDiTTransformer,
    LongCatAudioDiTVae,
    StableAudio3DiTModel,
    StableAudio3DurationEmbedder,
    StableAudio3Pipeline,
    StableAudioDiTModel,
    StableAudioPipeline,
    StableAudioProjectionModel,
)
from diffusers.pipelines.ace_step import AceStepConditionEncoder
from host import PROMPTS, register
from parts_video import filled, row, umt5
from tiny import DIM, SD_BETAS, t5, vae
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    GPT2Config,
    GPT2LMHeadModel,
    Qwen3Config,
    Qwen3Model,
    RobertaTokenizer,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
    T5GemmaConfig,
    T5GemmaEncoderModel,
)

LENGTH = 8  # of the latents
SHAPE = (4, 1, LENGTH)
SOUND = {"output": "audios", "height": None, "width": None}


def oobleck(channels: int) -> AutoencoderOobleck:
    """Of 4 samples, 32 of which make a second."""
    return AutoencoderOobleck(
        encoder_hidden_size=8,
        downsampling_ratios=[2, 2],
        channel_multiples=[1, 1],
        decoder_channels=8,
        decoder_input_channels=channels,
        sampling_rate=4 * LENGTH,
    )


def stable_audio():
    text_encoder, tokenizer = t5(DIM)
    transformer = StableAudioDiTModel(
        sample_size=LENGTH,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        num_key_value_attention_heads=2,
        out_channels=4,
        cross_attention_dim=DIM,
        time_proj_dim=8,
        global_states_input_dim=2 * DIM,
        cross_attention_input_dim=DIM,
    )
    return StableAudioPipeline(
        vae=oobleck(4),
        text_encoder=text_encoder,
        projection_model=StableAudioProjectionModel(DIM, DIM, 0, 32),
        tokenizer=tokenizer,
        transformer=transformer,
        scheduler=EDMDPMSolverMultistepScheduler(
            sigma_min=0.3, sigma_max=500, sigma_data=1.0, prediction_type="v_prediction"
        ),
    )


def longcat():
    transformer = LongCatAudioDiTTransformer(
        dit_dim=16, dit_depth=2, dit_heads=2, dit_text_dim=DIM, latent_dim=4, ff_mult=1.0
    )
    vae = LongCatAudioDiTVae(
        channels=4,
        c_mults=[1, 1],
        strides=[2],
        latent_dim=4,
        encoder_latent_dim=8,
        downsampling_ratio=2,
        sample_rate=16,
    )
    return LongCatAudioDiTPipeline(vae=vae, transformer=filled(transformer), scheduler=None, **umt5())


def stable_audio_3(stochastic: bool = False):
    words = t5(DIM)[1]
    config = {
        "vocab_size": len(words),
        "hidden_size": DIM,
        "intermediate_size": DIM,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
    }
    text_encoder = T5GemmaEncoderModel(T5GemmaConfig(encoder=config, decoder=config, is_encoder_decoder=False))
    transformer = StableAudio3DiTModel(
        io_channels=4,
        embed_dim=16,
        depth=2,
        num_heads=2,
        cond_token_dim=DIM,
        global_cond_dim=DIM,
        local_add_cond_dim=5,
        timestep_features_dim=8,
        ff_mult=1,
        num_memory_tokens=2,
    )
    vae = AutoencoderSAME(
        patch_size=2,
        encoder_channels=8,
        encoder_c_mults=(1,),
        encoder_strides=(2,),
        encoder_transformer_depths=(1,),
        latent_dim=4,
        dim_heads=4,
        ff_mult=1,
        sampling_rate=4 * LENGTH,
    )
    return StableAudio3Pipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=words,
        duration_embedder=StableAudio3DurationEmbedder(output_dim=DIM, fourier_dim=8),
        transformer=filled(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(stochastic_sampling=stochastic),
    )


def ace_step():
    words = t5(DIM)[1]
    attention = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "sliding_window": 4,
    }
    text_encoder = Qwen3Model(
        Qwen3Config(
            vocab_size=len(words),
            hidden_size=DIM,
            intermediate_size=DIM,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
        )
    )
    return AceStepPipeline(
        vae=oobleck(4),
        text_encoder=text_encoder,
        tokenizer=words,
        transformer=AceStepTransformer1DModel(
            num_hidden_layers=2, in_channels=12, audio_acoustic_hidden_dim=4, encoder_hidden_size=16, **attention
        ),
        condition_encoder=filled(
            AceStepConditionEncoder(
                text_hidden_dim=DIM,
                timbre_hidden_dim=4,
                num_lyric_encoder_hidden_layers=1,
                num_timbre_encoder_hidden_layers=1,
                **attention,
            )
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=3.0),
    )


def roberta() -> RobertaTokenizer:
    """A token per letter."""
    vocab = {
        token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(ByteLevel.alphabet())])
    }
    return RobertaTokenizer(vocab=vocab, merges=[], model_max_length=24)


def audioldm2():
    text_encoder_2, tokenizer_2 = t5(DIM)
    words = roberta()
    text = {
        "vocab_size": len(words),
        "hidden_size": DIM,
        "intermediate_size": DIM,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 40,
        "projection_dim": DIM,
        "pad_token_id": words.pad_token_id,
    }
    audio = {
        "spec_size": 8,
        "window_size": 2,
        "num_mel_bins": 8,
        "patch_size": 2,
        "patch_stride": [2, 2],
        "patch_embeds_hidden_size": 8,
        "depths": [1, 1],
        "num_attention_heads": [2, 2],
        "num_hidden_layers": 2,
        "hidden_size": 16,
        "projection_dim": DIM,
    }
    return AudioLDM2Pipeline(
        vae=vae(in_channels=1, out_channels=1),
        text_encoder=ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=DIM)),
        text_encoder_2=text_encoder_2,
        projection_model=AudioLDM2ProjectionModel(DIM, DIM, DIM),
        language_model=GPT2LMHeadModel(
            GPT2Config(vocab_size=16, n_embd=DIM, n_head=2, n_layer=1, n_positions=64, max_new_tokens=2)
        ),
        tokenizer=words,
        tokenizer_2=tokenizer_2,
        feature_extractor=ClapFeatureExtractor(),
        unet=AudioLDM2UNet2DConditionModel(
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=4,
            attention_head_dim=2,
            cross_attention_dim=([None, DIM], [DIM, None]),
        ),
        scheduler=DDIMScheduler(**SD_BETAS, clip_sample=False),
        vocoder=SpeechT5HifiGan(
            SpeechT5HifiGanConfig(
                model_in_dim=8,
                sampling_rate=64,
                upsample_initial_channel=4,
                upsample_rates=[2],
                upsample_kernel_sizes=[4],
                resblock_kernel_sizes=[3],
                resblock_dilation_sizes=[[1]],
            )
        ),
    )


register(
    row("stable-audio", stable_audio, SHAPE, **SOUND, audio_end_in_s=1.0),
    row("stable-audio-3", stable_audio_3, SHAPE, **SOUND, duration=1.0),
    row("stable-audio-3-stochastic", lambda: stable_audio_3(stochastic=True), SHAPE, **SOUND, duration=1.0),
    row("longcat-audio", longcat, SHAPE, **SOUND, audio_duration_s=1.0, note="Channels come last."),
    row(
        "ace-step",
        ace_step,
        SHAPE,
        **SOUND,
        audio_duration=1.0,
        lyrics=PROMPTS,
        max_text_length=24,
        max_lyric_length=24,
        note="Adaptive projected guidance, with a momentum.",
        refused="it guides by projection",
    ),
    row("audioldm2", audioldm2, (4, 16, 4), **SOUND, audio_length_in_s=1.0),
)
