"""Which words of a prompt a pipeline's text encoders do not read: each reads so many tokens, and drops the rest."""

import inspect
from collections.abc import Iterable
from typing import Any

SHOWN = 3  # prompts of a warning


def lost(pipe: Any, prompts: Iterable[str]) -> dict[str, str]:
    """The prompts that no text encoder of `pipe` reads to their end, each with what the most patient one leaves."""
    readers = [(tokenizer, limit) for tokenizer in tokenizers(pipe) if (limit := room(pipe, tokenizer)) is not None]
    if not readers or len(readers) < len(tokenizers(pipe)):  # one without a limit reads it all
        return {}
    found = {prompt: min((rest(*reader, prompt) for reader in readers), key=len) for prompt in dict.fromkeys(prompts)}
    return {prompt: words for prompt, words in found.items() if words}


def tokenizers(pipe: Any) -> list[Any]:
    """Those whose text encoder is there; a pipeline may be loaded without one of several."""
    from transformers import PreTrainedTokenizerBase

    parts = getattr(pipe, "components", {})
    return [
        part
        for name, part in parts.items()
        if isinstance(part, PreTrainedTokenizerBase)
        and parts.get(name.replace("tokenizer", "text_encoder"), part) is not None
    ]


def room(pipe: Any, tokenizer: Any) -> int | None:
    """How many tokens of a prompt are read, without those that are added to each; `None` where it is not known."""
    limit = tokenizer.model_max_length
    asked = inspect.signature(pipe.__call__).parameters.get("max_sequence_length")
    if asked is not None and isinstance(asked.default, int):
        limit = min(limit, asked.default)
    return None if limit > 1e9 else int(limit) - len(tokenizer("").input_ids)


def rest(tokenizer: Any, room: int, prompt: str) -> str:
    """What is left of `prompt` after `room` tokens."""
    read = tokenizer(prompt, add_special_tokens=False, verbose=False, return_offsets_mapping=tokenizer.is_fast)
    if len(read.input_ids) <= room:
        return ""
    if tokenizer.is_fast:
        return prompt[read.offset_mapping[room][0] :].strip()
    return tokenizer.decode(read.input_ids[room:]).strip()


def warning(pipe: Any, prompts: Iterable[str]) -> str:
    """One line that names the words that are lost; empty where none are."""
    found = lost(pipe, prompts)
    if not found:
        return ""
    cases = [f"{words!r} of {prompt[:40] + '…' * (len(prompt) > 40)!r}" for prompt, words in found.items()]
    more = [f"and of {len(cases) - SHOWN} more prompts"] if len(cases) > SHOWN else []
    return f"warning: longer than the text encoder reads, these words are lost: {'; '.join(cases[:SHOWN] + more)}"
