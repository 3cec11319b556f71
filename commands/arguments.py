"""Command-line arguments that say in one line what is wrong with them, before anything heavy is imported."""

import argparse
import math
import re
from pathlib import Path

# What the fixed schedules take, the first of it always; `guidance` itself is heavy to import.
SCHEDULES = {
    "static": ("SCALE",),
    "interval": ("SCALE", "START", "STOP"),
    "linear": ("SCALE",),
    "cosine": ("SCALE",),
    "exponential": ("SCALE", "RATE"),
}
SEARCHES = {"dynamic": (), "budget": ("TOLERANCE",), "noise": ("DRAWS",), "halving": ("SCALE",)}


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def seed(text: str) -> int:
    """A whole number that a torch generator takes, with room for the images after the first."""
    if not text.strip().isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to 2^63 - 1, got {text!r}")
    return int(text)


def scale(text: str) -> float:
    """A finite number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise argparse.ArgumentTypeError(f"must be a finite number of at least 0, got {text!r}")
    return value


def scales(text: str) -> list[float]:
    """Distinct scales between commas."""
    values = [scale(part) for part in text.split(",")]
    if len(set(values)) != len(values):
        raise argparse.ArgumentTypeError(f"must be distinct, got {text!r}")
    return values


def evaluators(text: str) -> dict[str, str | None]:
    """``name`` or ``name=folder, file or hub id`` between commas; `None` for what the name stands for by itself."""
    parts = [part.strip().partition("=") for part in text.split(",")]
    sources = {name: source.strip() if equals else None for name, equals, source in parts}
    if len(sources) != len(parts):
        raise argparse.ArgumentTypeError(f"must be distinct, got {text!r}")
    for name, source in sources.items():
        path = None if source is None else Path(source).expanduser()
        if path is not None and path.exists():
            sources[name] = str(path)
        elif source is not None and (not source or source.startswith(("/", ".", "~"))):
            raise argparse.ArgumentTypeError(f"{source!r} does not exist")
    return sources


def model(text: str) -> str:
    """A pipeline folder, or what may be a hub id."""
    folder = Path(text).expanduser()
    if folder.exists() and not (folder / "model_index.json").is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is no pipeline folder: there is no model_index.json in it")
    if not folder.exists() and not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is neither an existing folder nor a hub id (owner/name)")
    return str(folder) if folder.exists() else text


def draws(text: str) -> int:
    """How many draws of noise a search chooses among, at least 2."""
    if positive(text) < 2:
        raise argparse.ArgumentTypeError(f"must have at least 2 draws, got {text!r}")
    return int(text)


def method(text: str) -> str:
    """``dynamic``, ``budget`` or ``budget:TOLERANCE``, ``noise`` or ``noise:DRAWS``, ``halving`` or ``halving:SCALE``,
    or a fixed schedule with its scale and what else it takes (``static:7.5``, ``interval:5:0.2:0.8``), spelt in one
    way."""
    name, *values = text.strip().split(":")
    takes = (SEARCHES | SCHEDULES).get(name)
    if takes is None or not (name in SCHEDULES) <= len(values) <= len(takes):
        known = [*SEARCHES, *(f"{name}:{value}" for name, values in SEARCHES.items() for value in values)]
        known += [*(f"{name}:SCALE" for name in SCHEDULES), "interval:SCALE:START:STOP", "exponential:SCALE:RATE"]
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(known)}, got {text!r}")
    if name == "noise" and values:
        draws(values[0])
    return ":".join([name, *(f"{scale(value):g}" for value in values)])


def seeds(text: str) -> range:
    """One seed, or ``first:stop`` without the last, as in Python."""
    first, colon, stop = text.partition(":")
    found = range(seed(first), seed(stop) if colon else seed(first) + 1)
    if not found:
        raise argparse.ArgumentTypeError(f"must be a seed or FIRST:STOP with FIRST below STOP, got {text!r}")
    return found


def size(text: str) -> int:
    """Bytes, from a number with a unit (``500MB``, ``1.5 GB``)."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]B)", text.strip(), re.IGNORECASE)
    if not found or not float(found[1]):
        raise argparse.ArgumentTypeError(f"must be a number above 0 with KB, MB, GB or TB, got {text!r}")
    return int(float(found[1]) * 1000 ** (1 + "KMGT".index(found[2][0].upper())))


def port(text: str) -> int:
    """A port, 0 for any free one."""
    if not text.strip().isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to 65535, got {text!r}")
    return int(text)
