"""Lessons in spelling: which letter of the word each token is, and which token to look at where a letter is drawn.

A model that is only asked to denoise learns words last of all: a letter is told from its neighbours by nothing but the
place of its token, and until the attention has found out which token belongs where, all that can be drawn is the mean
of them. Both are known of a rendered sign, so both are taught: the text encoder by a head on its letters' tokens, and
one head of every cross-attention by where the letters are (FastComposer, arXiv 2305.10431, localises people so). The
lessons leave nothing behind in the model: its classes, shapes and attention are those of diffusers.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from tqdm.auto import trange
from transformers import CLIPTokenizer

from training.vae import to_pixels

from ..captions import LETTERS, MAX_WORD, caption
from ..scenes import SIZE, letter_boxes, make_scene

PARAPHRASES = 4
FINE = 64  # cells from which on a grid can tell the letters of a word apart
ENCODED = 64  # pictures that the VAE encodes at once


@dataclass(frozen=True)
class Signs:
    """Rendered signs of the train split.

    Attributes:
        latents: fp16 ``(n, 4, 16, 16)`` at unit variance.
        captions: `PARAPHRASES` of each.
        boxes: top, bottom, left and right of each letter in pixels, int64 ``(n, MAX_WORD, 4)``; zeros for no letter.
    """

    latents: torch.Tensor
    captions: list[list[str]]
    boxes: torch.Tensor

    def __len__(self) -> int:
        return len(self.latents)


@torch.no_grad()
def render_signs(vae: AutoencoderKL, n: int, seed: int) -> Signs:
    """Draws and encodes `n` signs: two or three milliseconds each."""
    latents, captions, boxes = [], [], torch.zeros(n, MAX_WORD, 4, dtype=torch.int64)
    for first in trange(0, n, ENCODED, desc="signs"):
        scenes = [make_scene((seed << 40) + i, category="text") for i in range(first, min(first + ENCODED, n))]
        pixels = to_pixels(np.stack([scene.image for scene in scenes])).to(vae.device)
        latents.append((vae.encode(pixels).latent_dist.mean * vae.config.scaling_factor).half().cpu())
        for i, scene in enumerate(scenes, first):
            captions.append([caption(scene.spec, np.random.default_rng((seed, i, j))) for j in range(PARAPHRASES)])
            boxes[i, : len(scene.spec.text)] = torch.from_numpy(letter_boxes(scene.spec.text, scene.objects[0]))
    return Signs(torch.cat(latents), captions, boxes)


def letter_share(boxes: torch.Tensor, cells: int) -> torch.Tensor:
    """How much of each cell of a `cells` × `cells` grid each letter's box covers, ``(n, MAX_WORD, cells²)`` in [0, 1],
    for boxes in pixels ``(n, MAX_WORD, 4)``."""
    cell = SIZE / cells
    edges = torch.arange(cells, device=boxes.device) * cell
    top, bottom, left, right = boxes.unsqueeze(-1).unbind(-2)
    rows = (torch.minimum(bottom, edges + cell) - torch.maximum(top, edges)).clamp(min=0) / cell
    columns = (torch.minimum(right, edges + cell) - torch.maximum(left, edges)).clamp(min=0) / cell
    return (rows[..., :, None] * columns[..., None, :]).flatten(-2)


class Spelling:
    """Finds the letters of a quoted word among the tokens of a caption."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        names = [(i, letter.lower()) for i, letter in enumerate(LETTERS)]
        self._letters = {tokenizer.convert_tokens_to_ids(name + end): i for i, name in names for end in ("", "</w>")}
        self._quote = tokenizer.convert_tokens_to_ids('"</w>')

    def __call__(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of each token its place in the word and its number in `LETTERS`, each int ``(n, length)``, -100 for tokens
        that are no letter of a word. "ONE" is a number to the tokenizer, and has no letters."""
        place, letter = torch.full_like(input_ids, -100), torch.full_like(input_ids, -100)
        for row, tokens in enumerate(input_ids.tolist()):
            first = tokens.index(self._quote) + 1 if self._quote in tokens else len(tokens)
            for i, token in enumerate(tokens[first : first + MAX_WORD]):
                if token not in self._letters:
                    break
                place[row, first + i], letter[row, first + i] = i, self._letters[token]
        return place, letter


class LookingAttention:
    """The attention of diffusers' default processor, which also keeps the logits of its first head."""

    def __init__(self, kept: list[torch.Tensor]) -> None:
        self.kept = kept

    def __call__(
        self, attn: Attention, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor, **_: Any
    ) -> torch.Tensor:
        query, key, value = (
            states.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for states in (
                attn.to_q(hidden_states),
                attn.to_k(encoder_hidden_states),
                attn.to_v(encoder_hidden_states),
            )
        )
        logits = query @ key.transpose(-1, -2) * attn.scale
        self.kept.append(logits[:, 0])
        attended = (logits.softmax(-1) @ value).transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](attended))


class SpellingLessons(torch.nn.Module):
    """What is learned beside denoising, and thrown away after it.

    Args:
        hidden_size: of the text encoder.
        weight: of either lesson beside the error of the prediction.
    """

    def __init__(self, hidden_size: int, weight: float = 0.05) -> None:
        super().__init__()
        self.head = torch.nn.Linear(hidden_size, MAX_WORD + len(LETTERS))
        self.weight = weight
        self.logits: list[torch.Tensor] = []

    def attend(self, unet: UNet2DConditionModel) -> None:
        """Lets every cross-attention of `unet` keep what its first head looks at."""
        for name, module in unet.named_modules():
            if name.endswith("attn2"):
                module.set_processor(LookingAttention(self.logits))

    def forward(
        self,
        prompt_embeds: torch.Tensor,
        place: torch.Tensor,
        letter: torch.Tensor,
        boxes: torch.Tensor,
        seen: torch.Tensor,
    ) -> torch.Tensor:
        """The loss of both lessons, weighted.

        Args:
            prompt_embeds: ``(n, length, hidden)``.
            place, letter: of `Spelling`, ``(n, length)``.
            boxes: of `Signs`, ``(n, MAX_WORD, 4)``; zeros where a row is no sign.
            seen: how much of the picture is left in the noisy latents ``(n,)``, which weights where to look.
        """
        told = self.head(prompt_embeds.float())
        spelled = sum(
            F.cross_entropy(logits.flatten(0, 1), asked.flatten(), reduction="sum")
            for logits, asked in ((told[..., :MAX_WORD], place), (told[..., MAX_WORD:], letter))
        ) / (place >= 0).sum().clamp(min=1)
        of_token = torch.stack([place == i for i in range(MAX_WORD)], 1).float()  # (n, MAX_WORD, length)
        looked = []
        for logits in self.logits:
            if logits.shape[1] < FINE:
                continue
            share = letter_share(boxes, round(logits.shape[1] ** 0.5))
            target = torch.einsum("nmc,nml->ncl", share, of_token)
            weight = target.sum(-1) * seen[:, None]
            target = target / target.sum(-1, keepdim=True).clamp(min=1e-6)
            error = -(target * logits.float().log_softmax(-1)).sum(-1)
            looked.append((error * weight).sum() / weight.sum().clamp(min=1e-6))
        self.logits.clear()
        return self.weight * (2 * spelled + torch.stack(looked).mean())
