"""The tinyworld `CLIPTokenizer`: one token per word of the caption grammar, single letters for anything else."""

from tokenizers import AddedToken
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from ..captions import BACKGROUNDS, COLORS, NUMBERS, SHAPES

MAX_LENGTH = 24
# "a", "an", "on" and "to" stay spelled: two letters may also be the word on a sign.
_WORDS = "and with left right of above below the single picture image photo sign saying that says word over background"


def build_tokenizer() -> CLIPTokenizer:
    """A byte-level BPE without merges, so that a drawn word is read letter by letter, plus the grammar's words."""
    letters = sorted(ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(letters + [f"{c}</w>" for c in letters])}
    vocab |= {token: len(vocab) + i for i, token in enumerate(("<|startoftext|>", "<|endoftext|>"))}
    tokenizer = CLIPTokenizer(vocab=vocab, merges=[], model_max_length=MAX_LENGTH)
    plurals = [shape + ("es" if shape == "cross" else "s") for shape in SHAPES]
    words = [*_WORDS.split(), *COLORS, *SHAPES, *plurals, *NUMBERS, *BACKGROUNDS]
    tokenizer.add_tokens([AddedToken(word, single_word=True, normalized=True) for word in words])
    return tokenizer
