"""What a visitor should know of a prompt before they blame the guidance."""

import html
import re

from tinyworld.captions import BACKGROUNDS, COLORS, LETTERS, NUMBERS, RELATIONS, SHAPES, parse_caption

PLURALS = {f"{shape}s" for shape in SHAPES} | {f"{shape}es" for shape in SHAPES}
GRAMMAR = "a an single and with in at is are there to the on over background picture image photo of"
SIGN = "sign saying that says word"
WORDS = {
    *COLORS,
    *SHAPES,
    *PLURALS,
    *NUMBERS,
    *BACKGROUNDS,
    *GRAMMAR.split(),
    *SIGN.split(),
    *" ".join(RELATIONS).split(),
}
LONGEST = 3  # letters of a sign


def of_world(text: object) -> str:
    """What the embedded model does not know of a prompt, in words; empty where it knows it all."""
    if not isinstance(text, str) or not text.strip():
        return ""
    try:
        spec = parse_caption(text)
    except ValueError:
        unknown = list(dict.fromkeys(w for w in re.findall(r"[^\W\d_]+", _unquoted(text.lower())) if w not in WORDS))
        never = f" Words that it never saw: {', '.join(unknown[:6])}." if unknown else ""
        return f"The embedded model draws one or two kinds of coloured shapes, and signs.{never} Try an example below."
    if spec.text and (len(spec.text) > LONGEST or not set(spec.text) <= set(LETTERS)):
        return f"The embedded model knows signs of two or three of the letters {LETTERS}."
    return ""


def _unquoted(text: str) -> str:
    """What is on signs is left out."""
    return re.sub(r'"[^"]*"', " ", text)


def shown(*lines: str) -> str:
    """Advice as HTML; nothing for nothing."""
    told = " ".join(line for line in lines if line)
    return f'<div class="advice" role="note">{html.escape(told)}</div>' if told else ""


def of_lost(words: str) -> str:
    """That the text encoder leaves words out."""
    return f"Longer than the text encoder reads; left out: “{words}”." if words else ""
