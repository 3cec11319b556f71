"""Docstrings are read in a terminal, with formulas and examples as Sphinx has them; the site reads Markdown."""

import re
import textwrap
from typing import Any

from griffe import Extension, Object
from latex2mathml.converter import convert

FORMULA = re.compile(r"^\.\. math:: (.+(?:\n +.+)*)", re.M)
EXAMPLE = re.compile(r"^(\w.*):\n\n((?:(?: {4}.*)?\n)+)", re.M)


def formula(found: re.Match) -> str:
    return convert(" ".join(found[1].split()).replace(r"\arg", r"\mathrm{arg}\,"), display="block")


def example(found: re.Match) -> str:
    return f"{found[1]}\n\n```python\n{textwrap.dedent(found[2]).strip()}\n```\n\n"


class Markdown(Extension):
    """Turns ``.. math::`` into MathML and ``Example::`` into a block of Python."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            text = FORMULA.sub(formula, obj.docstring.value + "\n")
            obj.docstring.value = EXAMPLE.sub(example, text.replace("::\n", ":\n")).strip()
