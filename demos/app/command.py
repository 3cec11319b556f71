"""The app: see what the search chose and why, over many prompts too, ask about pictures, run a preference study.

    online-guidance app
    online-guidance app --model stabilityai/stable-diffusion-xl-base-1.0 --lvlm my_llava

Serves this machine alone unless ``--host`` says otherwise. Visitors share one model and take turns at it.
"""

import argparse
import os
import socket
import tempfile
from pathlib import Path
from typing import Any

import tinyworld
from commands import arguments
from commands.parser import Parser

from .. import generate
from ..ask import folder

MAX_UPLOAD = "8mb"
# Gradio would fetch any public address for whoever asks for ``file=https://…``.
NOT_SERVED = ("file=http:", "file=https:", "/proxy=")
QUEUE = 32  # visitors waiting, at most
TITLE = """# Online guidance
Evaluators look at the noisy latents while a picture is made, and a search picks the guidance scale of every step."""


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments, with everything checked that can be without loading anything heavy."""
    parser = Parser("app", __doc__)
    parser.add_argument("--model", type=arguments.model, help="pipeline folder or hub id; default: the embedded model")
    parser.add_argument(
        "--evaluators",
        type=arguments.evaluators,
        metavar="NAME[=SOURCE],…",
        help="default: the embedded model's, with --model open_clip,aesthetic",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="DIR",
        help="of the evaluators, as `online-guidance calibrate --out` makes it",
    )
    parser.add_argument("--lvlm", type=folder, metavar="FOLDER", help="of the Ask tab; default: the embedded model")
    parser.add_argument(
        "--study", type=Path, metavar="FOLDER", help="a study of `online-guidance batch`, for the Study tab"
    )
    parser.add_argument("--device", help="default: cuda where there is one, else cpu")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve at; default: this machine alone")
    parser.add_argument("--port", type=arguments.port, default=7860)
    parser.add_argument("--name", nargs="+", help="by which visitors reach this machine besides its own, as by a proxy")
    args = parser.parse_args(argv)
    args.error = parser.error
    if args.model is None and not (tinyworld.WEIGHTS / "text_to_image" / "model_index.json").is_file():
        parser.error(f"argument --model: there is no embedded model at {tinyworld.WEIGHTS}; give another")
    return args


def check_address(args: argparse.Namespace) -> None:
    """Whether the app can be served where it is to be."""
    family = socket.AF_INET6 if ":" in args.host else socket.AF_INET
    try:
        socket.create_server((args.host, args.port), family=family).close()
    except OSError as error:
        args.error(f"argument --host, --port: cannot serve at {args.host} port {args.port}: {error}")


def load_host(args: argparse.Namespace) -> Any:
    """The pipeline, and the search that the controls start from."""
    from .host import Host
    from .side_by_side import Decoder

    settings = argparse.Namespace(**vars(args), guidance="dynamic", scales=None)
    try:
        pipe, search = generate.load(settings)
    except (OSError, ValueError) as error:
        args.error(f"argument --model, --evaluators: cannot be loaded: {error}")
    pipe.set_progress_bar_config(disable=True)
    return Host(pipe, search, args.model is None, Decoder(pipe))


def load_reader(args: argparse.Namespace) -> Any:
    """The vision-language model of the Ask tab."""
    from tinyworld import lvlm

    from .ask_page import Reader

    try:
        model, processor = lvlm.load(args.lvlm)
    except Exception as error:  # a broken file raises whatever its reader does
        args.error(f"argument --lvlm: {str(args.lvlm or 'the embedded model')!r} cannot be loaded: {error}")
    longest = {} if args.lvlm else {"max_new_tokens": lvlm.MAX_NEW_TOKENS}
    return Reader(model.to(args.device), processor, **longest)


def load_study(args: argparse.Namespace) -> Any:
    """The page of the study, `None` where none is given. It asks what it asked before, and those whom it asked: a study
    for the invited is theirs in the app too, and shows them no results."""
    if args.study is None:
        return None
    from ..study import page as study_page
    from ..study import votes

    try:
        kept = votes.kept(args.study)
        return study_page.build(args.study, **kept, show_report=not kept.get("named", False))
    except ValueError as error:
        args.error(f"argument --study: {error}")


def build(host: Any, reader: Any, study: Any = None) -> Any:
    """The page, as `gr.Blocks`. `study` is another page, built before this one."""
    import gradio as gr

    from . import ask_page, explorer, playground

    with gr.Blocks(title="Online guidance", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.Markdown(TITLE, elem_id="title")
        with gr.Tab("Playground"):
            playground.tab(host)
        with gr.Tab("Explorer"):
            explorer.tab(host)
        with gr.Tab("Ask"):
            ask_page.tab(reader)
        if study is not None:
            with gr.Tab("Study"):
                study.render()
    return page.queue(max_size=QUEUE)


def serve(page: Any, host: str, number: int | None, names: list[str] | None = None, quiet: bool = True) -> str:
    """Serves `page` in threads of its own at a port, any free one for `None`; returns its address. `names` are those by
    which it is reached besides that of the host."""
    from .. import guard
    from .looks import CSS, THEME
    from .playground import POINT

    access = guard.Access(guard.names_of(host, names), NOT_SERVED)
    look = {"theme": THEME, "css": CSS, "head": POINT}
    return guard.serve(page, host, number, access, quiet=quiet, share=False, max_file_size=MAX_UPLOAD, **look)[0]


def main(argv: list[str] | None = None) -> None:
    """Exits with code 2 and one line on stderr where an argument is wrong."""
    args = parse(argv)
    check_address(args)
    generate.check_late(args)
    with tempfile.TemporaryDirectory(prefix="online-guidance-") as cache:
        # Gradio serves whatever is in here; the default is a folder that all Gradio apps of a machine share.
        os.environ["GRADIO_TEMP_DIR"] = cache
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        study = load_study(args)
        page = build(load_host(args), load_reader(args), study)
        serve(page, args.host, args.port or None, args.name, quiet=False)
        page.block_thread()


if __name__ == "__main__":
    main()
