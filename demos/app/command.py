"""The app: see what the search chose and why, over many prompts too, ask about pictures, run a preference study.

    online-guidance app
    online-guidance app --model stabilityai/stable-diffusion-xl-base-1.0 --lvlm my_llava
    online-guidance app --host 0.0.0.0 --password

Serves this machine alone unless ``--host`` says otherwise. Visitors share one model and take turns at it.
"""

import argparse
import os
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import tinyworld
from commands import arguments
from commands.parser import Parser

from .. import generate, searches
from ..ask import folder

MAX_UPLOAD = "8mb"
# Gradio would fetch any public address for whoever asks for ``file=https://…``.
NOT_SERVED = ("file=http:", "file=https:", "/proxy=")
QUEUE = 256  # events, at most; how many visitors may wait for a model is in `turns`
THREADS = 80  # a visitor who waits for a model keeps one
TIDY = 600.0  # seconds until it is looked for what nobody comes back for
PASSWORD = "APP_PASSWORD"  # environment variable
TITLE = """# Online guidance
Evaluators look at a picture while it is made, and a search picks the noise, or the guidance scale, of every step."""


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
    parser.add_argument("--share", action="store_true", help="a public link through Gradio's servers")
    parser.add_argument("--password", action="store_true", help=f"ask visitors for one: {PASSWORD}, or typed in here")
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
    from .previews import Decoder

    settings = argparse.Namespace(**vars(args), guidance="dynamic", scales=None)
    try:
        pipe, search = generate.load(settings)
        judges = () if args.model or args.evaluators else (searches.embedded_keeper(args.device),)
    except (OSError, ValueError) as error:
        args.error(f"argument --model, --evaluators: cannot be loaded: {error}")
    pipe.set_progress_bar_config(disable=True)
    return Host(pipe, search, args.model is None, Decoder(pipe), str(args.model or "embedded"), judges)


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
        visitor = gr.BrowserState(storage_key="online-guidance-visitor", secret="online-guidance")
        entered = page.load(host.visits.enter, visitor, visitor, api_visibility="private", show_progress="hidden")
        gr.Markdown(TITLE, elem_id="title")
        with gr.Tab("Playground"):
            playground.tab(host, visitor, entered)
        with gr.Tab("Explorer"):
            explorer.tab(host, visitor, entered)
        with gr.Tab("Ask"):
            ask_page.tab(reader, host.visits, visitor, entered)
        if study is not None:
            with gr.Tab("Study"):
                study.render()
    return page.queue(max_size=QUEUE, default_concurrency_limit=None)


def serve(
    page: Any,
    host: str,
    number: int | None,
    names: list[str] | None = None,
    password: str | None = None,
    share: bool = False,
) -> tuple[str, str | None]:
    """Serves `page` in threads of its own at a port, any free one for `None`; returns its address, and the public one
    if it is shared and could be. `names` are those by which it is reached besides that of the host."""
    from .. import guard
    from .. import password as passwords
    from .looks import CSS, HEAD, THEME

    access = guard.Access(guard.names_of(host, names), NOT_SERVED, password is not None)
    return guard.serve(
        page,
        host,
        number,
        access,
        quiet=True,
        share=share,
        auth=None if password is None else passwords.check(password),
        auth_message=passwords.MESSAGE,
        max_file_size=MAX_UPLOAD,
        max_threads=THREADS,
        theme=THEME,
        css=CSS,
        head=HEAD,
    )


def banner(args: argparse.Namespace, local: str, shared: str | None) -> str:
    """What is said once the app can be visited."""
    lines = [
        "Online guidance, with "
        + (f"the model {args.model}" if args.model else "its embedded model")
        + f" on {args.device}",
        f"  open      {local}",
    ]
    if shared:
        lines.append(f"  public    {shared}")
    if args.host not in ("127.0.0.1", "localhost", "::1") or shared:
        lines.append("  password  " + ("asked" if args.password else "none: whoever reaches it gets in"))
    return "\n".join([*lines, "  end       Ctrl+C"])


def main(argv: list[str] | None = None) -> None:
    """Exits with code 2 and one line on stderr where an argument is wrong."""
    from .. import password as passwords

    args = parse(argv)
    check_address(args)
    password = passwords.ask(args, PASSWORD) if args.password else None
    generate.check_late(args)
    with tempfile.TemporaryDirectory(prefix="online-guidance-") as cache:
        # Gradio serves whatever is in here; the default is a folder that all Gradio apps of a machine share.
        os.environ["GRADIO_TEMP_DIR"] = cache
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        study = load_study(args)
        host = load_host(args)
        page = build(host, load_reader(args), study)
        if args.share and password is None:
            print("warning: --share without --password: whoever has the link gets in", file=sys.stderr)
        local, shared = serve(page, args.host, args.port or None, args.name, password, args.share)
        if args.share and not shared:
            page.close(verbose=False)
            args.error("argument --share: there is no public link, as said above; nothing is served")
        print(banner(args, local, shared), flush=True)
        try:
            while not threading.Event().wait(TIDY):
                host.visits.tidy()
        except KeyboardInterrupt:
            print("\nended", file=sys.stderr)
        page.close(verbose=False)


if __name__ == "__main__":
    main()
