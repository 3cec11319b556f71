"""A question about a picture, answered by a vision-language model with most of its visual tokens pruned.

    online-guidance ask picture.png "how many red circles are there?"
    online-guidance ask picture.png "what does the sign say?" --prune transprune --keep 0.25 --show kept.png
    online-guidance ask picture.png "what shape is it?" --prune random --keep 2:0.5,4:32 --model my_llava

Prints the answer, how many visual tokens are left after each pruning, and the FLOPs of reading the prompt over those of
the model without pruning. ``--show`` draws which part of the picture is left.
"""

import argparse
import logging
from pathlib import Path
from typing import Any

import tinyworld
from commands.parser import Parser

PANEL = 256  # pixels of one panel of --show


def number(text: str) -> float | int:
    """A share (0.25, 25%) in (0, 1] or a count of at least 1 (``1`` is one token, ``1.0`` is all)."""
    try:
        if text.strip().isdecimal() and int(text) >= 1:
            return int(text)
        share = float(text.strip().removesuffix("%")) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"must be a share in (0, 1] or a whole number of tokens, got {text!r}")
    return share


def keep(text: str) -> float | int | dict[int, float | int]:
    """A `number`, or ``layers:number`` between commas."""
    if ":" not in text:
        return number(text)
    schedule: dict[int, float | int] = {}
    for part in text.split(","):
        layer, _, value = part.partition(":")
        if not layer.strip().isdecimal() or int(layer) in schedule:
            raise argparse.ArgumentTypeError(f"must be LAYERS:NUMBER with distinct whole layers, got {text!r}")
        schedule[int(layer)] = number(value)
    return schedule


def folder(text: str) -> Path:
    """A folder with a model in it."""
    path = Path(text).expanduser()
    if not (path / "config.json").is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is no model folder: there is no config.json in it")
    return path


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments, with everything checked that can be without loading anything heavy."""
    parser = Parser("ask", __doc__)
    parser.add_argument("image", type=Path)
    parser.add_argument("question")
    parser.add_argument("--prune", metavar="METHOD", help="a name in guidance.TOKEN_PRESETS; default: no pruning")
    parser.add_argument("--keep", type=keep, metavar="SHARE", help="replaces the method's own schedule")
    parser.add_argument("--show", type=Path, metavar="PNG", help="draw what is left of the picture after each pruning")
    parser.add_argument("--model", type=folder, metavar="FOLDER", help="a LLaVA; default: the embedded model")
    args = parser.parse_args(argv)
    args.error = parser.error
    if not args.question.strip():
        parser.error(f"argument question: must not be blank, got {args.question!r}")
    if args.prune is None and (args.keep is not None or args.show is not None):
        parser.error("argument --keep, --show: are of a pruning, name one by --prune")
    if args.show is not None and args.show.suffix.lower() != ".png":
        parser.error(f"argument --show: must end in .png, got {str(args.show)!r}")
    if args.show is not None and not args.show.parent.is_dir():
        parser.error(f"argument --show: there is no folder {str(args.show.parent)!r}")
    if args.model is None:
        args.model = tinyworld.WEIGHTS / "lvlm"
        if not (args.model / "config.json").is_file():
            parser.error(f"argument --model: there is no embedded model at {args.model}; give another")
    return args


def open_image(args: argparse.Namespace) -> Any:
    """The picture, RGB."""
    from PIL import Image

    try:
        return Image.open(args.image).convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        args.error(f"argument image: {str(args.image)!r} cannot be read as a picture: {error}")


def asked(question: str) -> str:
    """As in training: with a question mark, unless it is a sentence of another kind."""
    question = question.strip()
    return question if question.endswith((".", "!")) else question.rstrip("?").rstrip() + "?"


def ask(
    model: Any, processor: Any, image: Any, question: str, method: str, keep: Any, max_new_tokens: int
) -> tuple[str, float, Any, Any]:
    """The answer of the pruned model, its prefill FLOPs over those of the whole model, its `PruningTrace`, and the
    inputs it was given.

    Raises:
        ValueError: as `pipelines.prune`.
    """
    from pipelines.prune.pruner import prune
    from tinyworld import lvlm

    batch = lvlm.encode(processor, [image], [question]).to(model.device)
    whole = lvlm.prefill_flops(model, batch)
    with prune(model, method, keep=keep) as pruner:
        pruned = lvlm.prefill_flops(model, batch)
        trace = pruner.last
        (answer,) = lvlm.answer(model, processor, [image], [question], max_new_tokens=max_new_tokens)
    return answer, pruned / whole, trace, batch


def view(config: Any, batch: Any, image: Any, tokens: int) -> tuple[Any, slice, int, int]:
    """What can be drawn of one picture: as the model sees it (PIL), which of its visual `tokens` lie on it row by row,
    and how many rows and columns they make. Of a picture read in tiles it is the view of the whole.

    Raises:
        ValueError: the visual tokens are no grid.
    """
    from PIL import Image

    kind = config.model_type
    if "image_grid_thw" in batch:  # Qwen-VL: the picture whole, resized
        _, rows, columns = batch["image_grid_thw"][0].tolist()
        merge = config.vision_config.spatial_merge_size
        return image, slice(0, tokens), rows // merge, columns // merge
    pixels = batch["pixel_values"].flatten(0, -4)[-1 if kind in ("idefics3", "smolvlm") else 0]
    low, high = pixels.min(), pixels.max()
    array = ((pixels - low) / (high - low).clamp(min=1e-6) * 255).byte().permute(1, 2, 0).cpu().numpy()
    side = int(tokens**0.5)
    if kind != "llava":
        side = config.vision_config.image_size // config.vision_config.patch_size // getattr(config, "scale_factor", 1)
    if side * side > tokens or (kind == "llava" and side * side != tokens):
        raise ValueError(f"{tokens} visual tokens are no square that could be shown")
    where = slice(tokens - side * side, tokens) if kind in ("idefics3", "smolvlm") else slice(0, side * side)
    return Image.fromarray(array), where, side, side


def stages(config: Any, batch: Any, image: Any, trace: Any) -> list[tuple[str, int, Any]]:
    """Before and after each pruning: a name, how many visual tokens there are, and the picture with the dropped ones
    darkened.

    Raises:
        ValueError: the visual tokens are no grid.
    """
    from PIL import Image

    picture, where, rows, columns = view(config, batch, image, int(trace.visual.sum()))
    picture = picture.resize((PANEL, PANEL), Image.Resampling.NEAREST)
    dark = Image.blend(picture, Image.new("RGB", picture.size), 0.85)
    out = []
    for name, kept in {"whole": trace.visual, **{f"after layer {n}": kept for n, kept in trace.kept.items()}}.items():
        grid = kept[trace.visual][where].view(rows, columns).byte().cpu().numpy() * 255
        mask = Image.fromarray(grid).resize((PANEL, PANEL), Image.Resampling.NEAREST)
        out.append((name, int(kept.sum()), Image.composite(picture, dark, mask)))
    return out


def panels(shown: list[tuple[str, int, Any]]) -> Any:
    """`stages` side by side."""
    from PIL import Image, ImageDraw

    sheet = Image.new("RGB", (len(shown) * (PANEL + 4) - 4, PANEL + 16), "white")
    for column, (name, count, picture) in enumerate(shown):
        sheet.paste(picture, (column * (PANEL + 4), 16))
        text = f"{name}: {count} of {shown[0][1]}"
        ImageDraw.Draw(sheet).text((column * (PANEL + 4) + 4, 2), text, fill="black")
    return sheet


def main(argv: list[str] | None = None) -> None:
    """Exits with code 2 and one line on stderr where an argument is wrong."""
    args = parse(argv)
    image = open_image(args)

    import torch
    import transformers

    from guidance import TOKEN_PRESETS
    from tinyworld import lvlm

    if args.prune is not None and args.prune not in TOKEN_PRESETS:
        args.error(f"argument --prune: must be one of {', '.join(TOKEN_PRESETS)}, got {args.prune!r}")
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity(logging.CRITICAL)  # what fails is said once, by us
    try:
        model, processor = lvlm.load(args.model)
    except Exception as error:  # a broken file raises whatever its reader does
        args.error(f"argument --model: {str(args.model)!r} cannot be loaded: {error}")
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    question = asked(args.question)
    if args.prune is None:
        print(lvlm.answer(model, processor, [image], [question])[0])
        return
    try:
        answer, ratio, trace, batch = ask(model, processor, image, question, args.prune, args.keep, lvlm.MAX_NEW_TOKENS)
    except ValueError as error:
        args.error(f"argument --prune, --keep: {error}")
    print(answer)
    print(f"visual tokens: {int(trace.visual.sum())}")
    for layer, kept in trace.kept.items():
        print(f"after layer {layer}: {int(kept.sum())}")
    print(f"prefill FLOPs, pruned / whole: {ratio:.3f}")
    if args.show is not None:
        try:
            panels(stages(model.config, batch, image, trace)).save(args.show)
        except (OSError, ValueError) as error:
            args.error(f"argument --show: {error}")
        print(args.show)


if __name__ == "__main__":
    main()
