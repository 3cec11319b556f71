"""How evaluators of public benchmarks want pictures: folders, names and metadata, as their code reads them.

A layout takes the pictures of one method, the categories of the prompts, and what the benchmark says of its prompts. It
returns the files, each with what writes it, and a note on what was left out.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from commands.prompts import lines

Made = dict[str, list[Path]]  # pictures of each prompt, by seed
Files = list[tuple[str, Callable[[Path], object]]]
TILES = 4  # pictures of one prompt in a picture of DPG-Bench
LONGEST = 255  # bytes of a file's name


def geneval(made: Made, categories: dict[str, str], prompts: Path) -> tuple[Files, str]:
    """GenEval: ``00000/metadata.jsonl``, a line of evaluation_metadata.jsonl, and ``00000/samples/00000.png``
    (github.com/djghosh13/geneval, ``generation/diffusers_generate.py``; ``evaluation/evaluate_images.py`` reads them).

    Raises:
        ValueError: `prompts` are not as they are there, or the study has none of them.
    """
    rows: list[dict] = []
    for number, line in enumerate(lines(prompts), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{str(prompts)!r} line {number} is no JSON: {error}") from None
        if not isinstance(row, dict) or not {"tag", "prompt"} <= set(row):
            raise ValueError(f"{str(prompts)!r} line {number} must be an object with tag and prompt, as GenEval's are")
        rows.append(row)
    there = [(number, row) for number, row in enumerate(rows) if row["prompt"].strip() in made]
    note = _known(made, {row["prompt"].strip() for row in rows}, len(there), len(rows), prompts)
    files: Files = []
    for number, row in there:
        files.append((f"{number:05}/metadata.jsonl", partial(_write, json.dumps(row))))
        for sample, picture in enumerate(made[row["prompt"].strip()]):
            files.append((f"{number:05}/samples/{sample:05}.png", partial(shutil.copyfile, picture)))
    return files, note


def t2i_compbench(made: Made, categories: dict[str, str], prompts: None) -> tuple[Files, str]:
    """T2I-CompBench++: ``samples/a green bench and a blue bowl_000000.png``, numbers running on over the prompts, in
    their order, in a folder for each category where there are some, as every category has its own evaluator
    (github.com/Karine-Huang/T2I-CompBench, ``GORS_finetune/inference_eval.py``). Its evaluators take the prompt from
    the name, up to the first ``_``, and the number from behind the last; nothing else may lie in ``samples``.

    Raises:
        ValueError: a prompt cannot be such a name.
    """
    numbers: dict[str, Iterator[int]] = {}
    files: Files = []
    for prompt, category in categories.items():
        if prompt not in made:
            continue
        group = category.replace("/", "-").replace("; ", "+")
        if wrong := next((mark for mark in ("_", "/", "\0", "\n") if mark in prompt), None):
            raise ValueError(f"T2I-CompBench++ takes prompts from file names, which have no {wrong!r}: {prompt!r}")
        count = numbers.setdefault(group, iter(range(10**9)))
        for picture in made[prompt]:
            name = f"{prompt}_{next(count):06}.png"
            if len(name.encode()) > LONGEST:
                raise ValueError(f"T2I-CompBench++ takes prompts from file names, and this is too long: {prompt!r}")
            files.append((f"{group}/samples/{name}" if group else f"samples/{name}", partial(shutil.copyfile, picture)))
    each = {len(made[prompt]) for prompt in made}
    ten = "its 3-in-1 evaluator takes ten pictures of each prompt; here are " + ", ".join(map(str, sorted(each)))
    return files, "" if each == {10} else ten


def dpg_bench(made: Made, categories: dict[str, str], prompts: Path) -> tuple[Files, str]:
    """DPG-Bench: ``COCOval2014000000002389.png``, named as the file of its prompt, four pictures in two rows
    (github.com/TencentQQGYLab/ELLA, ``dpg_bench/compute_dpg_bench.py``, which takes a resolution and ``--pic-num``; of
    one picture or more, but the rest of the square is black).

    Raises:
        ValueError: `prompts` is no folder of texts, pictures are not square or of several sizes, or the study has none
            of its prompts.
    """
    from PIL import Image

    items: dict[str, list[str]] = {}
    for path in sorted(prompts.glob("*.txt")) if prompts.is_dir() else []:
        items.setdefault(path.read_text(encoding="utf-8-sig").strip(), []).append(path.stem)
    if not items:
        raise ValueError(f"{str(prompts)!r} is no folder of .txt files, as dpg_bench/prompts is")
    there = {prompt: names for prompt, names in items.items() if prompt in made}
    note = _known(made, set(items), len(there), len(items), prompts)
    sizes = set()
    for prompt in there:
        for picture in made[prompt][:TILES]:
            with Image.open(picture) as image:
                sizes.add(image.size)
    if len(sizes) != 1 or len(set(*sizes)) != 1:
        found = ", ".join(f"{width}x{height}" for width, height in sorted(sizes))
        raise ValueError(f"DPG-Bench cuts squares of one size out of its pictures; these are {found}")
    counts = {len(made[prompt]) for prompt in there}
    if len({min(count, TILES) for count in counts}) != 1:
        raise ValueError(f"DPG-Bench takes as many pictures of every prompt; here are {sorted(counts)}")
    if max(counts) > TILES:
        note += f"; of each prompt the first {TILES} of {max(counts)} pictures are taken"
    side, pictures = next(iter(sizes))[0], min(TILES, max(counts))
    note += f"; evaluate with PIC_NUM={pictures} and the resolution {side}"
    return [
        (f"{name}.png", partial(_tile, made[prompt][:TILES], side)) for prompt, names in there.items() for name in names
    ], note.removeprefix("; ")


LAYOUTS = {"geneval": geneval, "t2i_compbench": t2i_compbench, "dpg_bench": dpg_bench}


def _known(made: Made, benchmark: set[str], there: int, of: int, prompts: Path) -> str:
    """What is missing on either side.

    Raises:
        ValueError: everything.
    """
    if not there:
        raise ValueError(f"the study has none of the prompts of {str(prompts)!r}")
    notes = [f"{there} of {of} prompts of the benchmark"] if there < of else []
    if others := set(made) - benchmark:
        notes.append(f"{len(others)} prompts of the study are not the benchmark's and left out")
    return "; ".join(notes)


def _write(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")


def _tile(pictures: list[Path], side: int, path: Path) -> None:
    """The pictures in two columns; a single one as it is."""
    from PIL import Image

    if len(pictures) == 1:
        shutil.copyfile(pictures[0], path)
        return
    grid = Image.new("RGB", (2 * side, 2 * side))
    for place, picture in enumerate(pictures):
        with Image.open(picture) as image:
            grid.paste(image.convert("RGB"), (place % 2 * side, place // 2 * side))
    grid.save(path)
