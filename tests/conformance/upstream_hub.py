"""What diffusers' own pipeline tests load from the hub, made here: tokenizers and configurations under the ids that the
tests name, so that they run without a network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from parts_flow import CHAT_TEMPLATE, CHAT_TOKENS, TEXT
from tiny import t5
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    CLIPTokenizer,
    Gemma2Config,
    GemmaTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Tokenizer,
    Qwen2VLConfig,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    RobertaTokenizer,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from tinyworld.recipes.tokenizer import build_tokenizer

# What the vision-language models of the tests take the special tokens for, from a vocabulary of the published size.
CHAT_IDS = dict(zip(CHAT_TOKENS, (151644, 151645, 151652, 151653, 151655, 151656), strict=True))


def clip() -> CLIPTokenizer:
    """Of fewer than 1000 tokens, 77 of a prompt."""
    words = build_tokenizer()
    words.model_max_length = 77
    return words


def qwen() -> Qwen2Tokenizer:
    """A token per byte, and those of chats where models expect them."""
    vocab = {token: i for i, token in enumerate(sorted(ByteLevel.alphabet()))} | {"<|endoftext|>": 151643} | CHAT_IDS
    words = Qwen2Tokenizer(vocab=vocab, merges=[], chat_template=CHAT_TEMPLATE)
    words.add_special_tokens({"additional_special_tokens": CHAT_TOKENS})
    return words


def qwen_processor() -> Qwen2VLProcessor:
    sizes = {"size": {"shortest_edge": 56 * 56, "longest_edge": 56 * 56}}
    pictures, videos = Qwen2VLImageProcessor(**sizes), Qwen2VLVideoProcessor(**sizes)
    return Qwen2VLProcessor(pictures, qwen(), videos, chat_template=CHAT_TEMPLATE)


def gemma() -> GemmaTokenizer:
    """Of eight tokens."""
    return GemmaTokenizer(vocab={t: i for i, t in enumerate(("<pad>", "<eos>", "<bos>", "<unk>", "▁", "a", "e", "n"))})


def bert() -> tuple[Any, ...]:
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789,.-"]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    words = BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)})
    small = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
    return BertModel(BertConfig(vocab_size=1124, **small)), words


def roberta() -> RobertaTokenizer:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    vocab = {token: i for i, token in enumerate([*special, *sorted(ByteLevel.alphabet())])}
    return RobertaTokenizer(vocab=vocab, merges=[], model_max_length=77)


def t5_like(config: type, model: type) -> tuple[Any, ...]:
    """A model of width 32 and its tokenizer."""
    small = {"d_model": 32, "d_kv": 8, "d_ff": 37, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
    words = t5(32)[1]
    words.model_max_length = 512
    return model(config(vocab_size=1103, tie_word_embeddings=False, **small)), words


def llama() -> tuple[Any, ...]:
    small = TEXT | {"hidden_size": 16, "intermediate_size": 16, "vocab_size": 40, "bos_token_id": 0, "eos_token_id": 1}
    return LlamaForCausalLM(LlamaConfig(**small)), t5(32)[1]


def siglip() -> SiglipVisionModel:
    small = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
    return SiglipVisionModel(SiglipVisionConfig(**small, image_size=30, patch_size=2))


MADE: dict[str, Callable[[], Any]] = {
    "hf-internal-testing/tiny-random-clip": clip,
    "hf-internal-testing/tiny-random-t5": lambda: t5_like(T5Config, T5EncoderModel),
    "hf-internal-testing/tiny-random-umt5": lambda: t5_like(UMT5Config, UMT5EncoderModel),
    "hf-internal-testing/tiny-random-Qwen2VLForConditionalGeneration": lambda: (Qwen2VLConfig(), qwen_processor()),
    "hf-internal-testing/dummy-gemma": lambda: (Gemma2Config(), gemma()),
    "hf-internal-testing/tiny-random-BertModel": bert,
    "hf-internal-testing/tiny-random-roberta": roberta,
    "hf-internal-testing/tiny-random-LlamaForCausalLM": llama,
    "hf-internal-testing/tiny-random-SiglipVisionModel": siglip,
}


def write(cache: Path) -> None:
    """Into an empty cache of the hub's client."""
    for repository, make in MADE.items():
        place = cache / f"models--{repository.replace('/', '--')}"
        made = make()
        for part in made if isinstance(made, tuple) else (made,):
            part.save_pretrained(place / "snapshots" / ("0" * 40))
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text("0" * 40)
