"""Asks a vision-language model about pictures and counts what that costs: the embedded one, or any with a chat
template."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel
from transformers.cache_utils import Cache

import tinyworld

MAX_NEW_TOKENS = 8  # the longest answer is a word boundary, three letters and the end


def load(folder: str | Path | None = None) -> tuple[PreTrainedModel, Any]:
    """Model in eval mode (float32) and processor from a folder, by default the embedded ones.

    Raises:
        OSError, ValueError: the folder holds no vision-language model with its processor.
    """
    folder = tinyworld.WEIGHTS / "lvlm" if folder is None else folder
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    if getattr(processor, "chat_template", None) is None:
        raise ValueError(f"the processor in {str(folder)!r} has no chat template")
    processor.tokenizer.padding_side = "left"
    return model, processor


def encode(processor: Any, images: Sequence[Image.Image | Sequence[Image.Image]], questions: Sequence[str]) -> Any:
    """One question per image, or per several of them, to the model's inputs, padded on the left: ``input_ids``
    ``(n, length)`` and so on."""
    turns = []
    for shown, question in zip(images, questions, strict=True):
        slots = [{"type": "image"}] * (1 if isinstance(shown, Image.Image) else len(shown))
        turns.append([{"role": "user", "content": [*slots, {"type": "text", "text": question}]}])
    prompts = [processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False) for turn in turns]
    return processor(images=list(images), text=prompts, padding=True, return_tensors="pt")


@torch.inference_mode()
def answer(
    model: PreTrainedModel,
    processor: Any,
    images: Sequence[Image.Image],
    questions: Sequence[str],
    batch_size: int = 32,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> list[str]:
    """Greedy answers, one for each image and question."""
    answers: list[str] = []
    for i in range(0, len(questions), batch_size):
        batch = encode(processor, images[i : i + batch_size], questions[i : i + batch_size]).to(model.device)
        ids = model.generate(**batch, max_new_tokens=max_new_tokens, do_sample=False)
        written = ids[:, batch["input_ids"].shape[1] :]
        answers += [text.strip() for text in processor.batch_decode(written, skip_special_tokens=True)]
    return answers


@torch.inference_mode()
def prefill_flops(model: Any, batch: Any) -> int:
    """FLOPs of one forward over the prompt: two for every multiply–add of its products, convolutions and attentions.

    All of it counts: the vision encoder, the decoder, and what a pruning method computes to decide. Attention is
    counted as eager, which every device counts alike.
    """
    stock = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        with FlopCounterMode(display=False) as counter:
            model(**batch, use_cache=False)
    finally:
        model.set_attn_implementation(stock)
    return counter.get_total_flops()


def kv_bytes(cache: Cache) -> int:
    """Bytes of the keys and values that a cache holds."""
    return sum(part.numel() * part.element_size() for layer in cache.layers for part in (layer.keys, layer.values))
