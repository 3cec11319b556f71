"""Cosmos: a scale that counts from the conditional prediction, and a first generation that steps twice."""

from diffusers import (
    AutoencoderKLCosmos,
    Cosmos2_5_PredictBasePipeline,
    Cosmos2_5_TransferPipeline,
    Cosmos2TextToImagePipeline,
    Cosmos2VideoToWorldPipeline,
    Cosmos3OmniPipeline,
    Cosmos3OmniTransformer,
    CosmosControlNetModel,
    CosmosTextToWorldPipeline,
    CosmosTransformer3DModel,
    CosmosVideoToWorldPipeline,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from host import register
from parts_video import SIZE, chat_tokenizer, clip, filled, one_prompt, picture, pictures, qwen2_5_vl, row, wan_vae
from tiny import DIM, t5

CHANNELS = 4
SIDE = SIZE // 8
SHAPE = (CHANNELS, 2, SIDE, SIDE)


class NothingChecked:
    """In the place of the safety checker, which is a package of its own."""

    def to(self, device):
        return self

    def check_text_safety(self, prompt: str) -> bool:
        return True


def transformer(**kwargs) -> CosmosTransformer3DModel:
    defaults = {
        "in_channels": CHANNELS,
        "out_channels": CHANNELS,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 2,
        "mlp_ratio": 1.0,
        "text_embed_dim": DIM,
        "adaln_lora_dim": 4,
        "max_size": (8, 8, 8),
        "encoder_hidden_states_channels": DIM,
    }
    return CosmosTransformer3DModel(**defaults | kwargs)


def cosmos(kind: type = CosmosTextToWorldPipeline, **kwargs):
    text_encoder, tokenizer = t5(DIM)
    vae = AutoencoderKLCosmos(
        latent_channels=CHANNELS,
        encoder_block_out_channels=(8, 8, 8, 8),
        decode_block_out_channels=(8, 8, 8, 8),
        attention_resolutions=(8,),
        resolution=64,
        num_layers=1,
        latents_mean=None,
        latents_std=None,
    )
    return kind(
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=transformer(**kwargs),
        vae=vae,
        scheduler=EDMEulerScheduler(sigma_data=0.5, final_sigmas_type="sigma_min"),
        safety_checker=NothingChecked(),
    )


def cosmos2(kind: type, **kwargs):
    text_encoder, tokenizer = t5(DIM)
    return kind(
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=transformer(**kwargs),
        vae=wan_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True),
        safety_checker=NothingChecked(),
    )


def cosmos25(kind: type = Cosmos2_5_PredictBasePipeline, controlnet_block_every_n: int | None = None, **parts):
    return kind(
        text_encoder=qwen2_5_vl(),
        tokenizer=chat_tokenizer(),
        transformer=transformer(
            in_channels=CHANNELS + 1,
            use_crossattn_projection=True,
            crossattn_proj_in_channels=2 * DIM,
            controlnet_block_every_n=controlnet_block_every_n,
        ),
        vae=wan_vae(),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0),
        safety_checker=NothingChecked(),
        **parts,
    )


def transfer():
    control = CosmosControlNetModel(
        n_controlnet_blocks=1,
        in_channels=2 * CHANNELS + 2,
        latent_channels=CHANNELS + 2,
        model_channels=32,
        num_attention_heads=2,
        attention_head_dim=16,
        mlp_ratio=1.0,
        text_embed_dim=DIM,
        adaln_lora_dim=4,
        max_size=(8, 8, 8),
        use_crossattn_projection=True,
        crossattn_proj_in_channels=2 * DIM,
        encoder_hidden_states_channels=DIM,
    )
    return cosmos25(Cosmos2_5_TransferPipeline, controlnet=filled(control), controlnet_block_every_n=2)


def omni():
    words = chat_tokenizer()
    words.add_tokens(["<|vision_start|>"], special_tokens=True)
    transformer = Cosmos3OmniTransformer(
        head_dim=8,
        hidden_size=16,
        intermediate_size=16,
        latent_channel=CHANNELS,
        num_attention_heads=2,
        num_hidden_layers=2,
        num_key_value_heads=1,
        patch_latent_dim=4 * CHANNELS,
        vocab_size=len(words),
        dtype="float32",
        rope_axes_dim=[2, 1, 1],
    )
    return Cosmos3OmniPipeline(
        transformer=transformer,
        text_tokenizer=words,
        vae=wan_vae(),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0),
        enable_safety_checker=False,
    )


CLEAN = "it guides predictions of the clean video"

register(
    row("cosmos", cosmos, SHAPE, num_frames=9, max_sequence_length=16, refused=CLEAN),
    row(
        "cosmos-video",
        lambda: cosmos(CosmosVideoToWorldPipeline, in_channels=CHANNELS + 1),
        SHAPE,
        num_frames=9,
        max_sequence_length=16,
        image=pictures,
        refused=CLEAN,
    ),
    row(
        "cosmos-2-image",
        lambda: cosmos2(Cosmos2TextToImagePipeline),
        (CHANNELS, SIDE, SIDE),
        output="images",
        max_sequence_length=16,
        refused=CLEAN,
    ),
    row(
        "cosmos-2-video",
        lambda: cosmos2(Cosmos2VideoToWorldPipeline, in_channels=CHANNELS + 1),
        SHAPE,
        num_frames=5,
        max_sequence_length=16,
        image=pictures,
        refused=CLEAN,
    ),
    row("cosmos-2.5", cosmos25, SHAPE, num_frames=5, max_sequence_length=16),
    row("cosmos-2.5-image", cosmos25, SHAPE, **one_prompt(), num_frames=5, max_sequence_length=16, image=picture),
    row(
        "cosmos-2.5-transfer",
        transfer,
        SHAPE,
        **one_prompt(),
        controls=lambda: clip(5),
        num_frames=5,
        num_frames_per_chunk=5,
        max_sequence_length=16,
    ),
    row("cosmos-3", omni, SHAPE, output="video", **one_prompt(), num_frames=5),
)
