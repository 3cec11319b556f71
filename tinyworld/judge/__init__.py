"""Judges a picture against a caption by classical vision alone: nothing here is learned.

Objects are the saturated regions of a nearly grey world, so the judge white-balances the picture, finds regions by
chroma, and compares each with masks drawn from `scenes.SDF`; a word is read by laying letter templates over the ink of
its plate. `regions`, `shapes`, `signs` and `background` find, `verdict` compares with the caption, and `trial` counts
how often the judge is right about scenes whose truth is known, among them what `spoil` spoils.

A picture is *correct* when exactly the objects asked for are there: none missing, none extra, each of the right colour
and shape, on the right side of each other, or the one sign with the exact word. A background named in the caption
counts too: told apart on more than 99.5 % of the clean renders, it is reliable enough.

Command line::

    python -m tinyworld.judge picture.png "two red circles above a blue square" --json
    python -m tinyworld.judge --self-test 200 [--vae FOLDER] --json
"""

from .shapes import FoundObject
from .spoil import degrade, wrong_spec
from .trial import self_test
from .verdict import Verdict, detect, judge, read_sign

__all__ = ["FoundObject", "Verdict", "degrade", "detect", "judge", "read_sign", "self_test", "wrong_spec"]
