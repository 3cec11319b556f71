"""Trains a specialist, a small head on a trained latent CLIP, to rank a prompt above the same prompt with another
number (counting) or other letters in the quoted text (text).

    online-guidance train specialist counting --clip runs/clip/clip --cache runs/latents --out runs/counting
    online-guidance train specialist text --clip CLIP --cache TRAIN --test-cache TEST --out runs/text --minutes 5

Works on any captions, as long as they name numbers or quote what is written in the picture; latents are those of
`online-guidance train latents`.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from commands.parser import Parser
from evaluators import Context, LatentCounting, LatentTextRendering
from evaluators.latent.counting import NUMBER, NUMBERS
from evaluators.latent.head import CLIPHead
from evaluators.latent.text import QUOTED, quoted

from . import loop
from .cache import Cache, Draws, split
from .evaluators import frozen_clip, keep
from .noise import LEVELS, add_noise, picture_share

WRONG = 4  # wrong prompts beside every right one


def other_number(prompt: str, rng: np.random.Generator, most: int) -> str:
    """`prompt` with one of its numbers changed to another from 2 to `most`, in the style it was written in."""
    found = list(NUMBER.finditer(prompt))
    at = found[rng.integers(len(found))]
    digits = at.group().isdecimal()
    now = int(at.group()) if digits else NUMBERS.index(at.group().lower()) + 2
    new = int(rng.choice([n for n in range(2, most + 1) if n != now]))
    return prompt[: at.start()] + (str(new) if digits else NUMBERS[new - 2]) + prompt[at.end() :]


def other_letters(prompt: str, rng: np.random.Generator, letters: str) -> str:
    """`prompt` with its quoted text a letter away: one changed, two neighbours swapped, or one dropped or added."""
    word = quoted(prompt)
    start = QUOTED.search(prompt).start() + 1
    while True:
        at, kind = int(rng.integers(len(word))), rng.random()
        if kind < 0.6:
            new = word[:at] + rng.choice(list(letters)) + word[at + 1 :]
        elif kind < 0.8:
            new = word[:at] + word[at : at + 2][::-1] + word[at + 2 :]
        else:
            new = word[:at] + word[at + 1 :] if len(word) > 2 else word[:at] + rng.choice(list(letters)) + word[at:]
        if new != word:
            return prompt[:start] + new + prompt[start + len(word) :]


def wrong_prompts(name: str, captions: Iterable[str]) -> Callable[[str, np.random.Generator], str]:
    """The function that spoils a prompt, within the numbers or letters that occur in `captions`."""
    if name == "counting":
        numbers = {m.group().lower() for c in captions for m in NUMBER.finditer(c)}
        most = max(int(n) if n.isdecimal() else NUMBERS.index(n) + 2 for n in numbers)
        return lambda prompt, rng: other_number(prompt, rng, most)
    letters = "".join(sorted(set("".join(quoted(c) for c in captions))))
    return lambda prompt, rng: other_letters(prompt, rng, letters)


class Ranking(torch.nn.Module):
    """Logits of each row's image against its own prompts ``(n, 1 + WRONG)``, the right one first, and those of each
    right prompt against all images ``(n, n)``, an image that the same is asked of left out by ``-inf``."""

    def __init__(self, head: CLIPHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: torch.Tensor, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        query, image = self.head.query(prompts).unflatten(0, (len(features), -1)), self.head.image(features)
        asked = np.array([(quoted(p) or p).upper() for p in prompts[:: query.shape[1]]])
        same = torch.from_numpy((asked[:, None] == asked) & ~np.eye(len(asked), dtype=bool))
        across = (query[:, 0] @ image.T).masked_fill(same.to(image.device), -torch.inf)
        return torch.einsum("nd,npd->np", image, query), across


def loss_of(model: torch.nn.Module, batch: tuple) -> tuple[torch.Tensor, dict[str, float]]:
    """Cross entropy of the right prompt among the wrong ones, each picture's times its weight, and of the right image
    of each prompt: a search compares images for one prompt, of which the first alone leaves open how high they score.
    """
    features, prompts, weight = batch
    logits, across = model(features, prompts)
    right, own = logits[:, 0] > logits[:, 1:].amax(1), torch.arange(len(across), device=across.device)
    losses = F.cross_entropy(logits, torch.zeros_like(own), reduction="none")
    losses = losses + F.cross_entropy(across, own, reduction="none")
    metrics = {"first_of_all": right.float().mean(), "first_of_images": (across.argmax(1) == own).float().mean()}
    return (losses * weight).mean(), metrics


def asked_rows(head: CLIPHead, cache: Cache, rows: np.ndarray) -> np.ndarray:
    """Those of `rows` whose captions ask for this specialist."""
    return rows[[all(map(head.asked, texts)) for texts in cache.captions(rows)]]


@torch.no_grad()
def ranking_accuracy(head: CLIPHead, cache: Cache, rows: np.ndarray, spoil: Callable, seed: int = 0) -> list[float]:
    """Share of the pictures `rows` whose caption beats the same spoiled, at each of `LEVELS`."""
    rng = np.random.default_rng(seed)
    right = torch.zeros(len(LEVELS))
    for batch in cache.batches(rows, 256):
        prompts = [texts[0] for texts in batch.captions]
        query = [head.query(p)[:, None] for p in (prompts, [spoil(prompt, rng) for prompt in prompts])]
        for i, level in enumerate(LEVELS):
            latents = add_noise(batch.latents, torch.full((len(batch),), level), rng).to(head.clip.device)
            features = head.clip.features(latents[:, None], Context(prompts, 0.0, level))
            good, bad = (torch.einsum("nkd,nkd->n", head.image(features), q) for q in query)
            right[i] += (good > bad).sum().cpu()
    return [round(float(share), 4) for share in right / len(rows)]


def main(argv: list[str] | None = None, within: Callable[[Callable], Callable] = lambda spoil: spoil) -> None:
    """`within` keeps what spoils a prompt in training from some prompts."""
    parser = Parser("train specialist", __doc__)
    parser.add_argument("specialist", choices=("counting", "text"))
    loop.add_arguments(parser, batch_size=256, lr=2e-3, minutes=3)
    parser.add_argument("--clip", type=Path, required=True, help="folder of the trained latent CLIP, which is frozen")
    parser.add_argument("--cache", type=Path, nargs="+", required=True, help="latents to train on, of `train latents`")
    parser.add_argument("--test-cache", type=Path, help="latents to test on; default: one in ten pictures, held out")
    args = parser.parse_args(argv)
    clip = frozen_clip(parser, args.clip)
    try:
        cache = Cache(*args.cache)
        rows, (test, test_rows) = split(cache, Cache(args.test_cache) if args.test_cache else None)
    except ValueError as error:
        parser.error(str(error))
    if cache.channels != clip.in_channels:
        parser.error(f"argument --cache: has {cache.channels} channels, the CLIP reads {clip.in_channels}")
    torch.manual_seed(args.seed)
    features = clip.trunk.head[0].in_features
    if args.specialist == "counting":
        head = LatentCounting(features, text_dim=clip.config.dim)
    else:
        head = LatentTextRendering(features)
    head.read(clip).to(clip.device)
    rows, test_rows = asked_rows(head, cache, rows), asked_rows(head, test, test_rows)
    for part, asked in (("to train on", rows), ("to test on", test_rows)):
        if not len(asked):
            parser.error(f"argument --cache: no caption of the pictures {part} asks for {args.specialist}")
    spoil = wrong_prompts(args.specialist, (text for texts in cache.captions(rows) for text in texts))
    spoil_within, draw = within(spoil), Draws(cache, rows, args.batch_size)

    def batch_of(step: int) -> tuple[torch.Tensor, torch.Tensor, list[str], torch.Tensor]:
        rng = np.random.default_rng((args.seed, step))
        batch = draw(rng)
        captions = batch.caption(rng)
        prompts = [p for text in captions for p in (text, *(spoil_within(text, rng) for _ in range(WRONG)))]
        level = cache.noise_levels(len(batch), rng)
        # Letters are not there to be read in a layout of noise.
        weight = picture_share(level) if args.specialist == "text" else torch.ones_like(level)
        return add_noise(batch.latents, level, rng), level, prompts, weight

    def loss(model: torch.nn.Module, batch: tuple) -> tuple[torch.Tensor, dict[str, float]]:
        latents, level, prompts, weight = batch
        with torch.no_grad():
            features = clip.trunk.pooled(latents.to(clip.device), level.to(clip.device))
        return loss_of(model, (features, prompts, weight.to(clip.device)))

    report = loop.fit(args, Ranking(head), batch_of, loss)
    about = {"pictures": len(rows), "test_pictures": len(test_rows), "data": [str(path) for path in args.cache]}
    keep(head, args, ranking_accuracy(head, test, test_rows, spoil), report | about)


if __name__ == "__main__":
    main()
