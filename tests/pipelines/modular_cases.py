"""Every family of modular pipelines that calls a guider, tiny: its blocks around the models of a conformance host."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import (
    AnimaTextConditioner,
    CosmosTransformer3DModel,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux3Transformer2DModel,
    ModelMixin,
)
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.transformers.transformer_minimax_music3 import MiniMaxMusic3Transformer1DModel
from host import PROMPTS
from hosts import HOSTS
from parts_flow import alive, flux2_vae, qwen3, qwen3_processor, qwen3_vl, qwen_vae
from tiny import DIM, t5

NEGATIVE = {"negative_prompt": ["", ""]}
STEPS = 4


@dataclass
class Family:
    """A modular pipeline and how its tests call it.

    Attributes:
        name: of the tests.
        module: where in ``diffusers.modular_pipelines`` its blocks are.
        blocks: the class of them, or a function that makes them.
        parts: the host whose models it takes, or a function that makes models.
        shape: of one sample as evaluators see it.
        call: arguments besides those of the host.
        common: whether it is in the default test run.
        batch: how many samples a call makes.
        leave: the names of blocks that are not needed, or of which diffusers' own fails.
        guider: arguments of ``ClassifierFreeGuidance``.
        output: what holds the latents.
        exact: whether the result is the stock guider's bit for bit; else within rounding.
    """

    name: str
    module: str
    blocks: str | Callable[[], Any]
    parts: str | Callable[[], dict[str, Any]]
    shape: tuple[int, ...]
    call: dict[str, Any] = field(default_factory=dict)
    common: bool = False
    batch: int = 2
    leave: tuple[str, ...] = ()
    guider: dict[str, Any] = field(default_factory=dict)
    output: str = "latents"
    exact: bool = True

    def make(self) -> Any:
        """The pipeline, always the same."""
        module = importlib.import_module(f"diffusers.modular_pipelines.{self.module}")
        blocks = getattr(module, self.blocks)() if isinstance(self.blocks, str) else self.blocks()
        for name in self.leave:
            blocks.sub_blocks.pop(name)
        pipe = blocks.init_pipeline()
        if isinstance(self.parts, str):
            parts = HOSTS[self.parts].make().components
        else:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                parts = self.parts()
        parts = {name: part for name, part in parts.items() if name in pipe._component_specs and part is not None}
        for part in parts.values():
            if isinstance(part, torch.nn.Module):
                part.eval()  # else its dropout draws
        pipe.update_components(**parts)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def run(self, pipe: Any, guider: Any, **kwargs: Any) -> torch.Tensor:
        """The latents that a call with `guider` ends with."""
        guiders = [name for name in ("guider", "guider_2") if name in pipe._component_specs]
        pipe.update_components(**dict.fromkeys(guiders, guider))
        arguments = HOSTS[self.parts].call() if isinstance(self.parts, str) else {}
        arguments |= {"generator": torch.Generator().manual_seed(0), "num_inference_steps": STEPS} | self.call | kwargs
        takes = [parameter.name for parameter in pipe.blocks.inputs]
        latents = pipe(output=self.output, **{name: arguments[name] for name in arguments if name in takes})
        return latents[-1] if isinstance(latents, list) else latents


def flux3() -> dict[str, Any]:
    model = Flux3Transformer2DModel(
        in_channels=16,
        cond_in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * DIM,
        timestep_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
    )
    parts = {"text_encoder": qwen3_vl(), "tokenizer": qwen3_processor(), "vae": flux2_vae()}
    return parts | {"transformer": alive(model), "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0)}


def anima() -> dict[str, Any]:
    tokenizer = t5(DIM)[1]
    sizes = {"source_dim": DIM, "target_dim": DIM, "model_dim": DIM, "num_layers": 1, "num_attention_heads": 2}
    conditioner = AnimaTextConditioner(**sizes, target_vocab_size=len(tokenizer) + 1, min_sequence_length=8)
    model = CosmosTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=1,
        mlp_ratio=1.0,
        text_embed_dim=DIM,
        adaln_lora_dim=4,
        max_size=(4, 8, 8),
        encoder_hidden_states_channels=DIM,
        extra_pos_embed_type=None,
    )
    parts = {"t5_tokenizer": tokenizer, "text_conditioner": conditioner, "vae": qwen_vae(), **qwen3()}
    return parts | {"transformer": alive(model), "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0)}


def music_blocks() -> Any:
    """Without the language model that composes."""
    from diffusers.modular_pipelines.minimax_music3.modular_blocks_minimax_music3 import MiniMaxMusic3Blocks

    return MiniMaxMusic3Blocks().sub_blocks["denoise"]


def music() -> dict[str, Any]:
    from diffusers.models.condition_embedders.condition_embedder_minimax_music3 import MiniMaxMusic3ConditionEncoder

    model = MiniMaxMusic3Transformer1DModel(
        in_channels=4,
        condition_dim=DIM,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=8,
        ff_inner_dim=16,
        rotary_dim=4,
        fourier_embedding_dim=8,
    )
    encoder = MiniMaxMusic3ConditionEncoder(condition_hidden_dim=DIM, num_condition_layers=2, out_dim=DIM)
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, invert_sigmas=True)
    return {"transformer": alive(model), "condition_encoder": encoder, "scheduler": scheduler}


class Alone(ModelMixin):
    """In the place of Wan-Animate 2's transformer, whose attention takes a compiler: one sample without its axis."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv3d(4, 4, 1)

    def forward(self, hidden_states, timestep=None, encoder_hidden_states=None, is_uncondtion=False, **kwargs):
        sample = self.layer(hidden_states[0])
        return Transformer2DModelOutput(sample=[sample.flip(1) if is_uncondtion else sample])


def animate_blocks() -> Any:
    """The loop over segments, each from given latents."""
    from diffusers.modular_pipelines.wan_animate_2 import denoise

    class Segments(denoise.WanAnimate2SegmentLoopWrapper):
        block_classes = [denoise.WanAnimate2SegmentSchedulerResetStep, denoise.WanAnimate2SegmentDenoiseInner]  # noqa: RUF012
        block_names = ["reset", "denoise"]  # noqa: RUF012

    return Segments()


def animate() -> dict[str, Any]:
    scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return {"transformer": Alone(), "scheduler": scheduler}


VIDEO = torch.randn(4, 2, 4, 4, generator=torch.Generator().manual_seed(0))
MUSIC = {"frame_hiddens": torch.randn(1, 8, 2 * DIM, generator=torch.Generator().manual_seed(0))}
UNUSED = ("kv_cache", "max_seq_len", "grid_sizes_ref", "prompt_embeds", "negative_prompt_embeds", "reference_latents")
SEGMENTS = dict.fromkeys(UNUSED, VIDEO) | {"latents": VIDEO, "num_segments": 2, "height": 32, "width": 32}
FLUX3 = {"prompt": PROMPTS[0], "negative_prompt": "", "height": 16, "width": 16, "max_sequence_length": 64}
FLUX3["text_encoder_out_layers"] = (0, 1, 2)
ANIMA = {"prompt": PROMPTS, "negative_prompt": "", "height": 32, "width": 32, "max_sequence_length": 64}
# Its modular pipeline cuts off the 108 tokens of a system message, which the tiny tokenizer does not write.
LONG = {"prompt": [108 * "a " + prompt for prompt in PROMPTS], "negative_prompt": [108 * "a "] * 2}
LONG_ALONE = {name: texts[0] for name, texts in LONG.items()}
SD3, SDXL, QWEN, WAN = "stable_diffusion_3", "stable_diffusion_xl", "qwenimage", "wan"
HUNYUAN = "hunyuan_video1_5"
ORIGINAL = {"use_original_formulation": True}
SHAPE, CLIP = (4, 8, 8), (4, 2, 4, 4)

FAMILIES = [
    Family("sdxl", SDXL, "StableDiffusionXLAutoBlocks", "sdxl", SHAPE, common=True),
    Family("sdxl-img2img", SDXL, "StableDiffusionXLAutoBlocks", "sdxl-img2img", SHAPE),
    Family("sdxl-inpaint", SDXL, "StableDiffusionXLAutoBlocks", "sdxl-inpaint", SHAPE),
    Family("sd3", SD3, "StableDiffusion3AutoBlocks", "sd3", (16, 8, 8), NEGATIVE, common=True),
    Family("sd3-img2img", SD3, "StableDiffusion3AutoBlocks", "sd3-img2img", (16, 8, 8), NEGATIVE),
    Family("qwenimage", QWEN, "QwenImageAutoBlocks", "qwen-image", (4, 4, 4), common=True),
    Family("qwenimage-img2img", QWEN, "QwenImageAutoBlocks", "qwen-image-img2img", (4, 4, 4)),
    Family("qwenimage-inpaint", QWEN, "QwenImageAutoBlocks", "qwen-image-inpaint", (4, 4, 4)),
    Family("qwenimage-controlnet", QWEN, "QwenImageAutoBlocks", "qwen-image-controlnet", (4, 4, 4)),
    Family("qwenimage-edit", QWEN, "QwenImageEditAutoBlocks", "qwen-image-edit", (4, 4, 4)),
    Family("qwenimage-edit-inpaint", QWEN, "QwenImageEditAutoBlocks", "qwen-image-edit-inpaint", (4, 16, 16)),
    Family("qwenimage-edit-plus", QWEN, "QwenImageEditPlusAutoBlocks", "qwen-image-edit-plus", (4, 4, 4), batch=1),
    Family("qwenimage-layered", QWEN, "QwenImageLayeredAutoBlocks", "qwen-image-layered", (4, 2, 10, 10)),
    Family("qwenimage21", "qwenimage21", "QwenImage21AutoBlocks", "qwen-image-2.1", (4, 4, 4)),
    Family("qwenimage21-edit", "qwenimage21", "QwenImage21AutoBlocks", "qwen-image-2.1-edit", (4, 4, 4)),
    Family("z-image", "z_image", "ZImageAutoBlocks", "z-image", SHAPE, common=True),
    Family("z-image-img2img", "z_image", "ZImageAutoBlocks", "z-image-img2img", SHAPE),
    Family("flux2-klein", "flux2", "Flux2KleinBaseAutoBlocks", "flux2-klein", SHAPE),
    Family("flux2-klein-image", "flux2", "Flux2KleinBaseAutoBlocks", "flux2-klein-image", SHAPE),
    Family("flux3", "flux3", "Flux3AutoBlocks", flux3, SHAPE, FLUX3, batch=1, leave=("prompt_upsampler",)),
    Family("wan", WAN, "WanBlocks", "wan-t2v", CLIP, common=True),
    Family("wan-i2v", WAN, "WanImage2VideoAutoBlocks", "wan-i2v", CLIP, {"prompt": PROMPTS[0]}, batch=1),
    Family("wan-2.2", WAN, "Wan22Blocks", "wan-2.2-t2v", CLIP),
    Family("wan-2.2-i2v", WAN, "Wan22Image2VideoBlocks", "wan-2.2-i2v", CLIP),
    Family("wan-2.2-vace", WAN, "Wan22VaceBlocks", "wan-2.2-vace", CLIP, batch=1),
    Family("wan-animate-2", "wan_animate_2", animate_blocks, animate, CLIP, SEGMENTS, batch=1),
    Family("ltx", "ltx", "LTXAutoBlocks", "ltx", (4, 3, 4, 4)),
    Family("ltx-i2v", "ltx", "LTXAutoBlocks", "ltx-i2v", CLIP),
    Family("ltx2", "ltx2", "LTX2AutoBlocks", "ltx2", (4, 3, 4, 4), exact=False),
    Family("ltx2-i2v", "ltx2", "LTX2AutoBlocks", "ltx2-i2v", CLIP, exact=False),
    Family("ltx2-condition", "ltx2", "LTX2AutoBlocks", "ltx2-condition", (4, 3, 4, 4), exact=False),
    Family("krea2", "krea2", "Krea2AutoBlocks", "krea-2", (4, 4, 4), guider=ORIGINAL),
    Family("hunyuan-1.5", HUNYUAN, "HunyuanVideo15AutoBlocks", "hunyuan-video-1.5", CLIP, LONG, leave=("decode",)),
    Family("hunyuan-1.5-i2v", HUNYUAN, "HunyuanVideo15AutoBlocks", "hunyuan-video-1.5-i2v", CLIP, LONG_ALONE, batch=1),
    Family("ernie-image", "ernie_image", "ErnieImageAutoBlocks", "ernie-image", (16, 4, 4)),
    Family("helios", "helios", "HeliosAutoBlocks", "helios", CLIP),
    Family("helios-pyramid", "helios", "HeliosPyramidAutoBlocks", "helios-pyramid", (4, 2, 8, 8)),
    Family("anima", "anima", "AnimaAutoBlocks", anima, (4, 4, 4), ANIMA),
    Family("minimax-music3", "minimax_music3", music_blocks, music, (4, 1, 27), MUSIC, batch=1, output="latent_chunks"),
]
