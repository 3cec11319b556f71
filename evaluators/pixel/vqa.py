"""Does a vision-language model see in the picture what the prompt says?"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from .base import PixelEvaluator

TEMPLATE = 'Does this figure show "{}"? Please answer Yes or No.'
Questions = Callable[[str], Sequence[tuple[str, str]]]


def one_question(prompt: str) -> Sequence[tuple[str, str]]:
    """The question of VQAScore and the answer that speaks for the picture."""
    return [(TEMPLATE.format(prompt), "Yes")]


class VQAScore(PixelEvaluator):
    r"""The mean over questions of the probability of the right answer, in [0, 1] (VQAScore, arXiv 2404.01291, which
    asks one: "Does this figure show …?").

    .. math:: \frac{1}{|Q|} \sum_{(q, a) \in Q(\text{prompt})} P(a \mid \text{picture}, q)

    Any transformers model of images and text with a chat template in its processor. Its visual tokens can be pruned
    while it judges, which is where most of its cost is::

        judge = VQAScore.from_pretrained("llava-hf/llava-1.5-7b-hf")
        with prune(judge.model, "divprune", keep=0.33), guide(pipe, GreedySearch([judge])):
            image = pipe("two red circles").images[0]

    A prompt without questions gets the same score for every picture. Licence: that of the model.

    Args:
        model, processor: as transformers loads them.
        questions: of a prompt, ``(question, answer)``.
    """

    name = "vqa"
    resolution = 336
    chunk = 16

    def __init__(self, model: Any, processor: Any, questions: Questions = one_question) -> None:
        super().__init__()
        if getattr(processor, "chat_template", None) is None:
            raise ValueError("`processor` must have a chat template.")
        self.model, self.processor, self.questions = model.eval(), processor, questions
        self.processor.tokenizer.padding_side = "left"

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, questions: Questions = one_question, dtype: torch.dtype = torch.float32
    ) -> "VQAScore":
        """From a folder or hub id.

        Raises:
            OSError, ValueError: it holds no vision-language model with its processor.
        """
        from transformers import AutoModelForImageTextToText, AutoProcessor

        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype)
        return cls(model, AutoProcessor.from_pretrained(folder), questions)

    def speaks_of(self, prompt: str) -> bool:
        """Whether there are questions about it."""
        return bool(self.questions(prompt))

    def judge(self, images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        asked = [(i, *pair) for i, prompt in enumerate(prompts) for pair in self.questions(prompt)]
        scores, counts = images.new_zeros(2, len(images), dtype=torch.float32)
        pictures = list((images.float() * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy())
        for first in range(0, len(asked), self.chunk):
            part = asked[first : first + self.chunk]
            rows = torch.tensor([row for row, _, _ in part], device=images.device)
            right = self.probability([pictures[i] for i, _, _ in part], [q for _, q, _ in part], [a for *_, a in part])
            scores.index_add_(0, rows, right.to(images.device))
            counts.index_add_(0, rows, torch.ones_like(right, device=images.device))
        return scores / counts.clamp_min(1)

    def probability(self, pictures: list[Any], questions: list[str], answers: list[str]) -> torch.Tensor:
        """Of each answer to its question about its picture, ``(n,)``."""
        turns = [
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
            for question in questions
        ]
        apply = self.processor.apply_chat_template
        texts = [apply(turn, add_generation_prompt=True, tokenize=False) for turn in turns]
        batch = self.processor(images=pictures, text=texts, padding=True, return_tensors="pt").to(self.device)
        batch = {k: v.to(self.dtype) if v.is_floating_point() else v for k, v in batch.items()}
        options = [self.spellings(answer) for answer in answers]
        if all(len(ids) == 1 for forms in options for ids in forms):
            chances = self.model(**batch).logits[:, -1].float().softmax(-1)
            return torch.stack(
                [row[[ids[0] for ids in forms]].sum() for row, forms in zip(chances, options, strict=True)]
            )
        return self.of_sequences(batch, [forms[0] for forms in options])

    def of_sequences(self, batch: dict[str, torch.Tensor], answers: list[list[int]]) -> torch.Tensor:
        """Of answers of several tokens, ``(n,)``."""
        longest = max(map(len, answers))
        ids = torch.tensor([ids + [ids[-1]] * (longest - len(ids)) for ids in answers], device=self.device)
        real = torch.tensor([[True] * len(a) + [False] * (longest - len(a)) for a in answers], device=self.device)
        told = {"input_ids": ids[:, :-1], "attention_mask": torch.ones_like(ids[:, :-1])}
        batch = batch | {key: torch.cat([batch[key], value], 1) for key, value in told.items()}
        chances = self.model(**batch).logits[:, -longest:].float().log_softmax(-1)
        return chances.gather(2, ids[..., None])[..., 0].masked_fill(~real, 0).sum(1).exp()

    def spellings(self, answer: str) -> list[list[int]]:
        """Token ids of the answer as a model may begin with it: with a space or without, and in lower case; where none
        of them is a single token, of the answer as it is."""
        forms = dict.fromkeys(f"{space}{word}" for word in (answer, answer.lower()) for space in ("", " "))
        ids = [tuple(self.processor.tokenizer(form, add_special_tokens=False).input_ids) for form in forms]
        short = [list(one) for one in dict.fromkeys(ids) if len(one) == 1]
        return short or [list(ids[0])]
