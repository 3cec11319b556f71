"""Prompts with their categories, from a file or a data set of the hub."""

import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Case does not matter. PartiPrompts has Prompt, Category, Challenge, Note; DrawBench has Prompts, Category; GenAI-Bench
# has Prompt and Tags.
TEXT_COLUMNS = ("prompt", "prompts", "caption", "text")
CATEGORY_COLUMNS = ("category", "categories", "tags", "challenge")
TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
ENDINGS = (".txt", *TABLES)


@dataclass(frozen=True)
class Prompt:
    """What is made, and its category: empty where there is none, ``"; "`` between several."""

    text: str
    category: str = ""


def read(source: str) -> list[Prompt]:
    """The prompts of a file (`ENDINGS`) or of a data set ``owner/name`` or ``owner/name:split``, each once, in order.

    Raises:
        ValueError: it is neither, cannot be read, has no column of prompts, or holds none.
    """
    path = Path(source).expanduser()
    if path.is_file() and path.suffix.lower() not in ENDINGS:
        raise ValueError(f"{source!r} must end in one of {', '.join(ENDINGS)}")
    if not path.is_file() and not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+(:[\w.]+)?", source):
        raise ValueError(f"{source!r} is neither a file nor the id of a data set (owner/name or owner/name:split)")
    try:
        if path.suffix.lower() == ".txt" and path.is_file():
            rows = [(line, "") for line in lines(path)]
        else:
            rows = _rows(_table(path) if path.is_file() else _data_set(source), source)
    except (OSError, ValueError) as error:
        raise ValueError(f"{source!r} cannot be read: {error}") from None
    prompts: dict[str, Prompt] = {}
    for text, category in rows:
        if isinstance(text, str) and text.strip():
            prompts.setdefault(text.strip(), Prompt(text.strip(), _category(category)))
    if not prompts:
        raise ValueError(f"{source!r} holds no prompt")
    return list(prompts.values())


def lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text. A line ends where one ends in an editor: `str.splitlines` would also split at U+0085
    and U+2028, which stand inside of text that was copied from elsewhere.

    Raises:
        OSError, ValueError: it cannot be read as such.
    """
    return path.read_text(encoding="utf-8-sig").split("\n")


def _table(path: Path) -> Any:
    import pandas as pd

    kind = path.suffix.lower()
    if kind == ".parquet":
        return pd.read_parquet(path)
    if kind == ".jsonl":
        return pd.read_json(path, lines=True, dtype=False)
    (_, header), *rows = _cells(path, kind) or [(1, [])]
    for line, row in rows:
        if len(row) != len(header):  # pandas would take the first cells of a longer row for its name
            hint = ""
            if kind == ".csv":
                hint = "; a cell with a comma stands in quotation marks, and one of these is doubled there (RFC 4180)"
            raise ValueError(f"line {line} has {len(row)} cells and the header {len(header)}{hint}")
    return pd.DataFrame([row for _, row in rows], columns=header, dtype=str)


def _cells(path: Path, kind: str) -> list[tuple[int, list[str]]]:
    """The rows of a table that are not empty, each with the line that it begins on."""
    # Tabs need no quotation marks, and PartiPrompts has cells that begin with a quoted word.
    options: dict[str, Any] = {"quoting": csv.QUOTE_NONE, "delimiter": "\t"} if kind == ".tsv" else {"strict": True}
    rows, line = [], 1
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, **options)
        try:
            for row in reader:
                if row:
                    rows.append((line, [_unquoted(cell) for cell in row] if kind == ".tsv" else row))
                line = reader.line_num + 1
        except csv.Error as error:
            raise ValueError(f"line {line}: {error}; quotation marks inside a cell are doubled (RFC 4180)") from None
    return rows


def _unquoted(cell: str) -> str:
    """A cell that some program put into quotation marks as a whole, without them."""
    whole = re.fullmatch(r'"((?:[^"]|"")*)"', cell)
    return whole[1].replace('""', '"') if whole else cell


def _data_set(source: str) -> Any:
    try:
        from datasets import load_dataset
    except ImportError:
        raise ValueError('a data set takes the package datasets: pip install "online-guidance[datasets]"') from None
    name, _, split = source.partition(":")
    loaded = load_dataset(name, split=split or None)
    if not split:
        if len(loaded) > 1:
            raise ValueError(f"it has several splits, give one as {name}:SPLIT: {', '.join(loaded)}")
        (loaded,) = loaded.values()
    names = TEXT_COLUMNS + CATEGORY_COLUMNS
    # Only these: some hold pictures, which would be decoded.
    return loaded.select_columns([c for c in loaded.column_names if c.lower() in names]).to_pandas()


def _rows(table: Any, source: str) -> list[tuple[Any, Any]]:
    columns = {str(column).strip().lower(): column for column in table.columns}
    text = next((columns[name] for name in TEXT_COLUMNS if name in columns), None)
    if text is None:
        raise ValueError(f"it needs a column {' or '.join(TEXT_COLUMNS)}, there are {', '.join(columns) or 'none'}")
    category = next((columns[name] for name in CATEGORY_COLUMNS if name in columns), None)
    return list(zip(table[text], [""] * len(table) if category is None else table[category], strict=True))


def _category(value: Any) -> str:
    if hasattr(value, "tolist"):  # parquet gives lists as arrays
        value = value.tolist()
    if isinstance(value, dict):
        value = [part for part in map(_category, value.values()) if part]
    parts = value if isinstance(value, list) else [value]
    return "; ".join(dict.fromkeys(part.strip() for part in parts if isinstance(part, str) and part.strip()))
