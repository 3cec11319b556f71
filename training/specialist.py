"""Trains a specialist, a small head on a trained latent CLIP, to rank a prompt above the same prompt with another
number (counting) or other letters in the quoted text (text).

    online-guidance train specialist counting --clip runs/clip/clip --data runs/latents.npz \\
        --test-data runs/latents_test.npz --out runs/counting
    online-guidance train specialist text --clip CLIP --data TRAIN.npz --test-data TEST.npz --out runs/text --minutes 5

Works on any captions, as long as they name numbers or quote what is written in the picture.
"""

from collections.abc import Callable
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
from .evaluators import frozen_clip, keep
from .latents import Latents
from .noise import LEVELS, add_noise, noise_levels

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


def wrong_prompts(name: str, captions: list[str]) -> Callable[[str, np.random.Generator], str]:
    """The function that spoils a prompt, within the numbers or letters that occur in `captions`."""
    if name == "counting":
        numbers = {m.group().lower() for c in captions for m in NUMBER.finditer(c)}
        most = max(int(n) if n.isdecimal() else NUMBERS.index(n) + 2 for n in numbers)
        return lambda prompt, rng: other_number(prompt, rng, most)
    letters = "".join(sorted(set("".join(quoted(c) for c in captions))))
    return lambda prompt, rng: other_letters(prompt, rng, letters)


class Ranking(torch.nn.Module):
    """Logits of each row's image against its own prompts ``(n, 1 + WRONG)``, the right one first."""

    def __init__(self, head: CLIPHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        query = self.head.query(prompts).unflatten(0, (len(features), -1))
        return torch.einsum("nd,npd->np", self.head.image(features), query)


def loss_of(model: torch.nn.Module, batch: tuple) -> tuple[torch.Tensor, dict[str, float]]:
    """Cross entropy of the right prompt among the wrong ones."""
    features, prompts = batch
    logits = model(features, prompts)
    right = logits[:, 0] > logits[:, 1:].amax(1)
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device)), {
        "first_of_all": right.float().mean()
    }


def asked_rows(head: CLIPHead, data: Latents) -> np.ndarray:
    """Indices of the scenes whose captions ask for this specialist."""
    return np.array([i for i, texts in enumerate(data.captions) if all(map(head.asked, texts))])


@torch.no_grad()
def ranking_accuracy(head: CLIPHead, data: Latents, spoil: Callable, seed: int = 0) -> list[float]:
    """Share of the scenes that ask whose caption beats the same spoiled, at each of `LEVELS`."""
    rng = np.random.default_rng(seed)
    rows = asked_rows(head, data)
    right = data.captions[rows, 0].tolist()
    wrong = [spoil(prompt, rng) for prompt in right]
    query = [head.query(prompts)[:, None] for prompts in (right, wrong)]
    accuracy = []
    for level in LEVELS:
        latents = add_noise(data.latents[rows], torch.full((len(rows),), level), rng).to(head.clip.device)
        features = head.clip.features(latents[:, None], Context(right, 0.0, level))
        scores = [torch.einsum("nkd,nkd->n", head.image(features), q) for q in query]
        accuracy.append(round(float((scores[0] > scores[1]).float().mean()), 4))
    return accuracy


def main(argv: list[str] | None = None, within: Callable[[Callable], Callable] = lambda spoil: spoil) -> None:
    """`within` keeps what spoils a prompt in training from some prompts."""
    parser = Parser("train specialist", __doc__)
    parser.add_argument("specialist", choices=("counting", "text"))
    loop.add_arguments(parser, batch_size=256, lr=2e-3, minutes=3)
    parser.add_argument("--clip", type=Path, required=True, help="folder of the trained latent CLIP, which is frozen")
    parser.add_argument("--data", type=Path, required=True, help=".npz of `Latents`, to train on")
    parser.add_argument("--test-data", type=Path, required=True, help=".npz of `Latents`, to test on")
    args = parser.parse_args(argv)
    data, test = Latents.load(args.data), Latents.load(args.test_data)
    clip = frozen_clip(parser, args.clip)
    torch.manual_seed(args.seed)
    features = clip.trunk.head[0].in_features
    if args.specialist == "counting":
        head = LatentCounting(features, text_dim=clip.config.dim)
    else:
        head = LatentTextRendering(features)
    head.read(clip).to(clip.device)
    rows = asked_rows(head, data)
    for name, asked in (("data", rows), ("test-data", asked_rows(head, test))):
        if not len(asked):
            parser.error(f"argument --{name}: no caption asks for {args.specialist}")
    spoil = wrong_prompts(args.specialist, data.captions[rows].ravel().tolist())
    spoil_within = within(spoil)

    def batch_of(step: int) -> tuple[torch.Tensor, list[str]]:
        rng = np.random.default_rng((args.seed, step))
        picked = rng.choice(rows, args.batch_size)
        captions = data.captions[picked, rng.integers(data.captions.shape[1], size=args.batch_size)]
        prompts = [p for text in captions for p in (str(text), *(spoil_within(str(text), rng) for _ in range(WRONG)))]
        level = noise_levels(args.batch_size, rng)
        with torch.no_grad():
            latents = add_noise(data.latents[picked], level, rng).to(clip.device)
            return clip.trunk.pooled(latents, level.to(clip.device)), prompts

    report = loop.fit(args, Ranking(head), batch_of, loss_of)
    reliability = ranking_accuracy(head, test, spoil)
    keep(head, args.out, reliability, report)


if __name__ == "__main__":
    main()
