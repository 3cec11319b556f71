"""The processor of the embedded vision-language model: a generative tokenizer and CLIP's image processor."""

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerFast

from ..questions import WORDS
from ..scenes import SIZE

PATCH = 4  # pixels: 16 × 16 visual tokens
SPECIALS = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
# The image comes first, as in LLaVA: methods that let the instruction choose among visual tokens read what follows it.
CHAT = (
    "{% for message in messages %}"
    "{% for part in message['content'] if part['type'] == 'image' %}<image>{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endfor %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word of the grammar of questions, ``▁`` and then letters for any other word, such as one on a sign.

    Case and punctuation other than the question mark are dropped. Pads on the left, for `generate`.
    """
    pieces = [*SPECIALS, "▁", "▁?", *"abcdefghijklmnopqrstuvwxyz0123456789?", *(f"▁{word}" for word in WORDS)]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    # Without merges and ignoring them: a word is either whole in the vocabulary or spelled.
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", ignore_merges=True))
    backend.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            normalizers.Replace(Regex("[^a-z0-9?]+"), " "),
            normalizers.Replace(Regex(r" *\? *"), " ? "),
            normalizers.Strip(),
        ]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    backend.decoder = decoders.Sequence([decoders.Metaspace(prepend_scheme="always"), decoders.Replace(" ?", "?")])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", vocab["<s>"])])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
        model_max_length=1024,
    )


def build_processor() -> LlavaProcessor:
    """Pictures of any size to 64×64 in [-1, 1], and a prompt's ``<image>`` to as many tokens as there are patches."""
    image_processor = CLIPImageProcessor(
        size={"shortest_edge": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=build_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # the class token, which the strategy drops again
        chat_template=CHAT,
    )
