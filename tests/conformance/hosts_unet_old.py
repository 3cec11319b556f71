"""Pipelines on SD's parts that diffusers keeps for those who have them."""

from diffusers import (
    CycleDiffusionPipeline,
    DDIMParallelScheduler,
    SemanticStableDiffusionPipeline,
    StableDiffusionModelEditingPipeline,
    StableDiffusionPanoramaPipeline,
    StableDiffusionParadigmsPipeline,
    StableDiffusionSAGPipeline,
    TextToVideoZeroPipeline,
)
from host import PROMPTS, register
from parts_unet import FOREIGN, FROM_IMAGE, host, sd, small_pictures
from tiny import SD_BETAS

COPIES = "steps by copies of its scheduler"

register(
    host("sd-sag", lambda: sd(StableDiffusionSAGPipeline), sag_scale=0.0, note="Without its guidance by attention."),
    host(
        "sd-sag-on",
        lambda: sd(StableDiffusionSAGPipeline),
        sag_scale=0.75,
        refused=FOREIGN,
        note="A third pass, with blurred attention, adds guidance of its own.",
    ),
    host("sd-semantic", lambda: sd(SemanticStableDiffusionPipeline), note="Without an edit."),
    host(
        "sd-semantic-edit",
        lambda: sd(SemanticStableDiffusionPipeline),
        editing_prompt="a fox",
        edit_warmup_steps=0,
        refused=FOREIGN,
        note="A third pass, of the edit, adds guidance of its own.",
    ),
    host("sd-model-editing", lambda: sd(StableDiffusionModelEditingPipeline)),
    host("sd-panorama", lambda: sd(StableDiffusionPanoramaPipeline), width=32, refused="one for each window"),
    host(
        "sd-paradigms",
        lambda: sd(StableDiffusionParadigmsPipeline, scheduler=DDIMParallelScheduler(**SD_BETAS)),
        parallel=2,
        refused="many steps at once",
    ),
    host(
        "sd-cycle",
        lambda: sd(CycleDiffusionPipeline),
        source_prompt=lambda: PROMPTS[::-1],
        eta=0.1,
        **FROM_IMAGE | {"image": small_pictures},
        refused="two prompts side by side",
    ),
    host(
        "sd-text-to-video-zero",
        lambda: sd(TextToVideoZeroPipeline),
        prompt=PROMPTS[0],
        generator=None,
        num_inference_steps=10,
        video_length=2,
        t0=2,
        t1=4,
        refused=COPIES,
    ),
)
