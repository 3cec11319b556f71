"""Trains the embedded text encoder and UNet together (latents of `tinyworld.recipes.vae`, captions of tinyworld).

python -m tinyworld.recipes.text_to_image --vae runs/vae/vae --cache runs/latents --out runs/text_to_image

A share of every batch are signs, drawn by the recipe itself, which come with lessons in spelling.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from scipy.special import expit, ndtri
from transformers import CLIPTextConfig, CLIPTextModel

from commands.arguments import positive
from training import loop
from training.cache import Cache, Draws
from training.noise import SD_BETAS

from .spelling import PARAPHRASES, Spelling, SpellingLessons, render_signs
from .tokenizer import MAX_LENGTH, build_tokenizer

CONDITION_DROPOUT = 0.12
SIGNS_SEED = 7


def build(tokenizer) -> tuple[CLIPTextModel, UNet2DConditionModel]:
    """The shipped shapes. Thin at 16×16 and wide below: on a CPU that is where a FLOP buys most."""
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(32, 96, 160),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=(1, 3, 5),
        norm_num_groups=16,
    )
    return text_encoder, unet


class TextToImage(torch.nn.Module):
    """The two networks that train and their lessons, so that one optimiser, one EMA and one checkpoint hold all."""

    def __init__(self, text_encoder: CLIPTextModel, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.text_encoder, self.unet = text_encoder, unet
        self.lessons = SpellingLessons(text_encoder.config.hidden_size)
        self.lessons.attend(unet)

    def forward(
        self, noisy: torch.Tensor, timesteps: torch.Tensor, input_ids: torch.Tensor, *asked: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The prediction ``(n, 4, 16, 16)`` and the loss of the lessons, which are `asked` of `SpellingLessons`."""
        prompt_embeds = self.text_encoder(input_ids)[0]
        return self.unet(noisy, timesteps, prompt_embeds).sample, self.lessons(prompt_embeds, *asked)


def scheduler() -> DDIMScheduler:
    """SD's noise schedule with v-prediction, which trains evenly over all noise levels."""
    return DDIMScheduler(
        **SD_BETAS,
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
        steps_offset=1,  # without effect here; SD pipelines warn of anything else
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    loop.add_arguments(parser, batch_size=24, lr=1e-3, minutes=75)
    parser.add_argument("--vae", type=Path, required=True, help="folder of the trained AutoencoderKL")
    parser.add_argument("--cache", type=Path, required=True, help="latents of `train latents`")
    parser.add_argument("--signs", type=positive, default=32_000, help="how many signs to draw")
    parser.add_argument("--sign-share", type=float, default=0.6, help="share of a batch that are signs of these")
    parser.add_argument("--init", type=Path, help="pipeline folder whose networks to train further")
    args = parser.parse_args(argv)
    from_signs = round(args.batch_size * args.sign_share)
    if not 0 < from_signs < args.batch_size:
        parser.error(f"argument --sign-share: {args.sign_share} of --batch-size {args.batch_size} is all or nothing")
    vae = AutoencoderKL.from_pretrained(args.vae).eval()
    cache = Cache(args.cache)
    draw = Draws(cache, np.arange(len(cache)), args.batch_size - from_signs)
    signs = render_signs(vae, args.signs, SIGNS_SEED)
    tokenizer = build_tokenizer()
    spelling = Spelling(tokenizer)
    torch.manual_seed(args.seed)
    text_encoder, unet = build(tokenizer)
    if args.init is not None:
        start = StableDiffusionPipeline.from_pretrained(args.init)
        text_encoder, unet = start.text_encoder, start.unet
    model = TextToImage(text_encoder, unet.to(memory_format=torch.channels_last))
    noise_scheduler = scheduler()

    def batch_of(step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng((args.seed, step))
        batch, rows = draw(rng), rng.integers(len(signs), size=from_signs)
        latents = torch.cat([signs.latents[rows], batch.latents]).float()
        boxes = torch.cat([signs.boxes[rows], torch.zeros(len(batch), *signs.boxes.shape[1:], dtype=torch.int64)])
        texts = [signs.captions[row][rng.integers(PARAPHRASES)] for row in rows] + batch.caption(rng)
        dropped = rng.random(args.batch_size) < CONDITION_DROPOUT
        captions = ["" if drop else text for drop, text in zip(dropped, texts, strict=True)]
        input_ids = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        # Stratified, one timestep from every stretch, for a less noisy gradient. Two thirds of them crowd around the
        # middle noise levels (logit-normal, arXiv 2403.03206), where shapes are decided.
        u = (rng.permutation(args.batch_size) + rng.random(args.batch_size)) / args.batch_size
        timesteps = 1000 * np.where(rng.random(args.batch_size) < 0.35, u, expit(0.8 * ndtri(u) - 0.3))
        return latents, torch.from_numpy(timesteps).long().clamp(max=999), input_ids, boxes

    def loss_of(model: torch.nn.Module, batch: tuple) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        device = next(model.parameters()).device
        latents, timesteps, input_ids, boxes, place, letter = (t.to(device) for t in (*batch, *spelling(batch[2])))
        noise = torch.randn_like(latents)
        noisy = noise_scheduler.add_noise(latents, noise, timesteps).contiguous(memory_format=torch.channels_last)
        seen = noise_scheduler.alphas_cumprod.to(device)[timesteps].sqrt()
        prediction, spelled = model(noisy, timesteps, input_ids, place, letter, boxes, seen)
        loss = F.mse_loss(prediction.float(), noise_scheduler.get_velocity(latents, noise, timesteps))
        return loss + spelled, {"denoising": loss.detach(), "spelling": spelled.detach()}

    report = loop.fit(args, model, batch_of, loss_of)
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(args.out / "pipeline")
    report["parameters"] = {name: sum(p.numel() for p in m.parameters()) for name, m in model.named_children()}
    loop.write_report(args.out, report)


if __name__ == "__main__":
    main()
