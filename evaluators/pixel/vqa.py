"""Does a vision-language model see in the picture what the prompt says?"""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from .base import PixelEvaluator

TEMPLATE = 'Does this figure show "{}"? Please answer Yes or No.'
ALIKE = 0.02  # of probabilities that are computed in another order
Questions = Callable[[str], Sequence[tuple[str, str]]]


def one_question(prompt: str) -> Sequence[tuple[str, str]]:
    """The question of VQAScore and the answer that speaks for the picture."""
    return [(TEMPLATE.format(prompt), "Yes")]


def chance(logits: torch.Tensor, forms: list[list[int]]) -> torch.Tensor:
    """The probability of an answer by the logits at the last token of the question and on ``(tokens, vocabulary)``: of
    all its spellings of one token, or of its only one."""
    at = logits.softmax(-1)
    if len(forms[0]) == 1:
        return at[0, [ids[0] for ids in forms]].sum()
    return at[torch.arange(len(forms[0])), forms[0]].prod()


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
        read_once: whether a picture is read once for all questions about it, which then cost little more than one. Its
            template must have the picture before the question, and nothing may depend on the question before it is
            read: no pruning by a method that reads the text, no positions by the grid of the picture (Qwen-VL). The
            first pictures that are judged are asked both ways, and so are the first after hooks of the model changed,
            as pruning does.

    Raises:
        ValueError: `processor` has no chat template; with `read_once`, one with the question first; and from the first
            call, answers that differ by it.
    """

    name = "vqa"
    resolution = 336
    chunk = 16

    def __init__(
        self, model: Any, processor: Any, questions: Questions = one_question, read_once: bool = False
    ) -> None:
        super().__init__()
        if getattr(processor, "chat_template", None) is None:
            raise ValueError("`processor` must have a chat template.")
        self.model, self.processor, self.questions = model.eval(), processor, questions
        self.processor.tokenizer.padding_side = "left"
        self.read_once = read_once
        self.alike: list[int] | None = None  # the hooks of the model when both ways gave the same answers
        takes = inspect.signature(self.model.forward).parameters  # another name before transformers 5.24
        self.cache_name = "cache" if "cache" in takes else "past_key_values"
        if read_once and processor.image_token not in self.around_question()[0]:
            raise ValueError("`read_once` needs a chat template with the picture before the question.")

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        questions: Questions = one_question,
        dtype: torch.dtype = torch.float32,
        read_once: bool = False,
    ) -> "VQAScore":
        """From a folder or hub id.

        Raises:
            OSError, ValueError: it holds no vision-language model with its processor.
        """
        from transformers import AutoModelForImageTextToText, AutoProcessor

        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype)
        return cls(model, AutoProcessor.from_pretrained(folder), questions, read_once)

    def speaks_of(self, prompt: str) -> bool:
        """Whether there are questions about it."""
        return bool(self.questions(prompt))

    def judge(self, images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        asked = [self.questions(prompt) for prompt in prompts]
        pictures = list((images.float() * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy())
        answers = self.answers_read_once if self.read_once and any(len(pairs) > 1 for pairs in asked) else self.answers
        chances = answers([p for p, pairs in zip(pictures, asked, strict=True) if pairs], list(filter(None, asked)))
        parts = chances.split([len(pairs) for pairs in asked])
        return torch.stack([part.mean() if len(part) else chances.new_zeros(()) for part in parts]).to(images.device)

    def answers(self, pictures: list[Any], asked: Sequence[Sequence[tuple[str, str]]]) -> torch.Tensor:
        """The probability of the right answer to each question ``(questions,)``, those about a picture side by side."""
        rows = [(picture, *pair) for picture, pairs in zip(pictures, asked, strict=True) for pair in pairs]
        parts = [rows[first : first + self.chunk] for first in range(0, len(rows), self.chunk)]
        found = [self.probability(*map(list, zip(*part, strict=True))) for part in parts]
        return torch.cat(found) if found else torch.zeros(0)

    def prompt(self, question: str) -> str:
        """As the chat template has it, with its picture."""
        turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
        return self.processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)

    def around_question(self) -> tuple[str, str]:
        """What the chat template has before the question and after it."""
        before, _, after = self.prompt("QUESTION").rpartition("QUESTION")
        return before, after

    def probability(self, pictures: list[Any], questions: list[str], answers: list[str]) -> torch.Tensor:
        """Of each answer to its question about its picture, ``(n,)``."""
        batch = self.encoded(pictures, [self.prompt(question) for question in questions])
        options = [self.spellings(answer) for answer in answers]
        begun = [forms[0][:-1] for forms in options]
        if longest := max(map(len, begun)):
            padded = [ids + [forms[0][-1]] * (longest - len(ids)) for ids, forms in zip(begun, options, strict=True)]
            told = torch.tensor(padded, device=self.device)
            more = {"input_ids": told, "attention_mask": torch.ones_like(told)}
            more |= {key: torch.zeros_like(told) for key in batch if key.endswith("token_type_ids")}  # 0 is text
            batch = batch | {key: torch.cat([batch[key], value], 1) for key, value in more.items()}
        logits = self.model(**batch).logits[:, -1 - longest :].float()
        return torch.stack([chance(row, forms) for row, forms in zip(logits, options, strict=True)])

    def encoded(self, pictures: list[Any], texts: list[str]) -> dict[str, torch.Tensor]:
        """The model's inputs for pictures with their texts, padded on the left."""
        batch = self.processor(images=pictures, text=texts, padding=True, return_tensors="pt").to(self.device)
        return {k: v.to(self.dtype) if v.is_floating_point() else v for k, v in batch.items()}

    def answers_read_once(self, pictures: list[Any], asked: Sequence[Sequence[tuple[str, str]]]) -> torch.Tensor:
        """As `answers`, each picture being read once: the questions go on from copies of its keys and values.

        Raises:
            ValueError: the answers about the first pictures are not those of `answers`.
        """
        found = [
            self.after_reading(pictures[first : first + self.chunk], asked[first : first + self.chunk])
            for first in range(0, len(pictures), self.chunk)
        ]
        parts = self.model.modules()
        hooks = [number for part in parts for number in (*part._forward_pre_hooks, *part._forward_hooks)]
        if self.alike != hooks:
            apart = self.answers(pictures[: self.chunk], asked[: self.chunk])
            if (difference := float((apart - found[0]).abs().max())) > ALIKE:
                raise ValueError(f"`read_once` changes what the model answers, by {difference:.2g}: leave it off.")
            self.alike = hooks
        return torch.cat(found)

    def after_reading(self, pictures: list[Any], asked: Sequence[Sequence[tuple[str, str]]]) -> torch.Tensor:
        """`answers_read_once` of one chunk."""
        before, after = self.around_question()
        pairs = [pair for about in asked for pair in about]
        tokenizer = self.processor.tokenizer
        begun, asking = tokenizer(before).input_ids, [tokenizer(before + q + after).input_ids for q, _ in pairs]
        questions = [ids[len(begun) :] for ids in asking]
        # A question mark stands in their place meanwhile, and is let go: the last token of all is never pruned.
        read = self.encoded(pictures, [before + "?" + after] * len(pictures))
        length = len(begun) - len(tokenizer(before + "?" + after).input_ids)
        cache = self.model(**read, use_cache=True)[self.cache_name]
        cache.crop(length)
        rows = torch.arange(len(pictures)).repeat_interleave(torch.tensor([len(about) for about in asked]))
        cache.batch_select_indices(rows.to(self.device))
        options = [self.spellings(answer) for _, answer in pairs]
        told = [torch.tensor(ids + forms[0][:-1]) for ids, forms in zip(questions, options, strict=True)]
        ids, real = (
            torch.nn.utils.rnn.pad_sequence(part, batch_first=True).to(self.device)
            for part in (told, [torch.ones_like(one) for one in told])
        )
        mask = torch.cat([read["attention_mask"][rows, :length], real], 1)
        logits = self.model(input_ids=ids, attention_mask=mask, **{self.cache_name: cache}).logits.float()
        begins = [len(question) - 1 for question in questions]
        rated = zip(logits, begins, options, strict=True)
        return torch.stack([chance(row[begin:], forms) for row, begin, forms in rated])

    def spellings(self, answer: str) -> list[list[int]]:
        """Token ids of the answer as a model may begin with it: with a space or without, and in lower case; where none
        of them is a single token, of the answer as it is."""
        forms = dict.fromkeys(f"{space}{word}" for word in (answer, answer.lower()) for space in ("", " "))
        ids = [tuple(self.processor.tokenizer(form, add_special_tokens=False).input_ids) for form in forms]
        short = [list(one) for one in dict.fromkeys(ids) if len(one) == 1]
        return short or [list(ids[0])]
