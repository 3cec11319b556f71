"""The pictures or votes of a study in the layout that others read: evaluators of public benchmarks, or a recipe that
trains on Pick-a-Pic.

    online-guidance export study --layout geneval --prompts evaluation_metadata.jsonl --out geneval
    online-guidance export study --layout t2i_compbench --methods dynamic --out compbench
    online-guidance export study --layout dpg_bench --prompts dpg_bench/prompts --out dpg
    online-guidance export study --layout pickapic --question overall --out pickapic

The first three make a folder for each method, for their evaluator to be pointed at. Nothing in the study is changed.
"""

import argparse
import sqlite3
import sys
from collections import defaultdict
from pathlib import Path

from commands.parser import Parser, stop

from . import layouts
from .manifest import Image, Manifest, inside


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments, with everything checked that can be without reading the study."""
    parser = Parser("export", __doc__)
    parser.add_argument("study", type=Path, help="folder that `online-guidance batch` wrote")
    parser.add_argument("--layout", choices=(*layouts.LAYOUTS, "pickapic"), required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder that is not there yet, or is empty")
    parser.add_argument(
        "--prompts",
        type=Path,
        help="geneval: its evaluation_metadata.jsonl; dpg_bench: its folder of prompts, whose files name the pictures",
    )
    parser.add_argument("--methods", nargs="+", help="default: all of the study")
    parser.add_argument("--question", help="pickapic: whose votes are taken; default: overall")
    args = parser.parse_args(argv)
    args.error = parser.error
    if (args.layout in ("geneval", "dpg_bench")) != (args.prompts is not None):
        how = "is needed for" if args.prompts is None else "does not go with"
        parser.error(f"argument --prompts: {how} --layout {args.layout}")
    if args.question and args.layout != "pickapic":
        parser.error("argument --question: goes with --layout pickapic")
    if args.methods and args.layout == "pickapic":
        parser.error("argument --methods: does not go with --layout pickapic, which has the votes on all")
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        parser.error(f"argument --out: {str(args.out)!r} is there and not empty: an evaluator reads all that is in it")
    return args


def pictures(args: argparse.Namespace) -> tuple[dict[str, layouts.Made], dict[str, str]]:
    """Of each method the pictures of every prompt, by seed; and the prompts' categories, in their order.

    Raises:
        ValueError: there is no study, or no such method in it.
    """
    with Manifest(args.study, read_only=True) as manifest:
        images: list[Image] = [image for image in manifest.images() if (args.study / image.file).is_file()]
        categories = {prompt.text: prompt.category for prompt in manifest.prompts()}
    made: dict[str, layouts.Made] = defaultdict(lambda: defaultdict(list))
    for image in sorted(images, key=lambda image: image.seed):
        made[image.method][image.prompt].append(inside(args.study, image.file))
    if missing := [method for method in args.methods or [] if method not in made]:
        raise ValueError(f"there is no picture by {', '.join(missing)}; there are {', '.join(made) or 'none'}")
    chosen = args.methods or list(made)
    if not chosen:
        raise ValueError(f"{str(args.study)!r} has no pictures")
    return {method: made[method] for method in chosen}, categories


def main(argv: list[str] | None = None) -> None:
    """Exits with one line on stderr, and code 2 where something is wrong, 130 after Ctrl-C."""
    args = parse(argv)
    try:
        if args.layout == "pickapic":
            from .study import pickapic

            print(*pickapic.write(args.study, args.out, args.question or "overall"), sep="\n")
            return
        made, categories = pictures(args)
        plans = {
            method: layouts.LAYOUTS[args.layout](of_prompts, categories, args.prompts)
            for method, of_prompts in made.items()
        }
        for method, (files, note) in plans.items():  # only now that all of them are possible
            folder = args.out / method.replace(":", "-")
            for name, write in files:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                write(folder / name)
            print(folder)
            if note:
                print(f"{method}: {note}", file=sys.stderr)
    except KeyboardInterrupt:
        stop(f"stopped; {str(args.out)!r} is not whole")
    except (OSError, ValueError, sqlite3.DatabaseError) as error:
        args.error(str(error))


if __name__ == "__main__":
    main()
