"""A blind preference study on the pictures of a batch: the page to vote on, and the report.

online-guidance study study
online-guidance study study --questions overall alignment text --raters ann bob --host 0.0.0.0 --password
online-guidance study study --report
online-guidance study --votes-for 53.8
"""

import argparse
import os
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from commands.arguments import port, positive
from commands.parser import Parser

from .. import password as passwords
from . import texts
from .settings import CHOICES, Settings, kept

PASSWORD = "STUDY_PASSWORD"  # environment variable
# Gradio would serve files, take uploads, and fetch any address for ``file=https://…``. This page needs none of it.
NOT_SERVED = ("/file=", "/file/", "/upload", "/proxy=", "/stream/")


def rate(text: str) -> float:
    """Percent."""
    try:
        value = float(text.strip().removesuffix("%"))
    except ValueError:
        value = 50.0
    if not 0 < value < 100 or abs(value - 50) < 0.5:
        raise argparse.ArgumentTypeError(f"must be percent from 0 to 100, at least 0.5 away from 50, got {text!r}")
    return value


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments, with everything checked that can be without loading anything heavy."""
    parser = Parser("study", __doc__)
    parser.add_argument("study", nargs="?", type=Path, help="folder that `online-guidance batch` wrote")
    own = "default: as the study was served before, at first"
    names = ", ".join(texts.QUESTIONS)
    parser.add_argument("--questions", nargs="+", metavar="NAME", help=f"{names}, or of --texts; {own} overall")
    parser.add_argument("--texts", type=Path, metavar="FILE", help="YAML of the page's texts, own questions, languages")
    parser.add_argument("--check-every", type=positive, metavar="N", help=f"pairs to an attention check; {own} 12")
    parser.add_argument("--no-checks", action="store_true", help="ask no attention checks")
    parser.add_argument(
        "--raters", nargs="+", metavar="NAME", help=f"only the invited vote, each by a link; {own} anyone"
    )
    parser.add_argument("--anyone", action="store_true", help="opens a study to all that was for the invited")
    parser.add_argument("--no-bad", action="store_true", help="ask without the answer that both pictures are bad")
    limit = "0 for no limit"
    parser.add_argument(
        "--pairs-per-rater", type=whole, metavar="N", help=f"after which a rater is done; {limit}; {own} 0"
    )
    parser.add_argument(
        "--votes-per-pair", type=whole, metavar="N", help=f"raters that a pair is given to; {limit}; {own} 0"
    )
    parser.add_argument(
        "--raters-per-address", type=whole, metavar="N", help=f"who are not invited, a day; {limit}; {own} 20"
    )
    parser.add_argument("--show-report", action="store_true", help="a tab with the results, for whoever opens the page")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve at; default: this machine alone")
    parser.add_argument("--port", type=port, default=7860)
    parser.add_argument("--name", nargs="+", help="by which visitors reach this machine besides its own, as by a proxy")
    parser.add_argument("--share", action="store_true", help="a public link through Gradio's servers")
    parser.add_argument("--password", action="store_true", help=f"ask visitors for one: {PASSWORD}, or typed in here")
    parser.add_argument("--report", action="store_true", help="write the report and the votes into the folder, and end")
    parser.add_argument("--votes-for", type=rate, metavar="PERCENT", help="say how many votes find such a preference")
    args = parser.parse_args(argv)
    args.error = parser.error
    if (args.study is None) == (args.votes_for is None):
        parser.error("give either a study's folder or --votes-for PERCENT")
    try:
        args.texts = texts.read(args.texts) if args.texts else None
    except ValueError as error:
        parser.error(f"argument --texts: {error}")
    if args.questions and len(set(args.questions)) != len(args.questions):
        parser.error(f"argument --questions: must be distinct, got {args.questions}")
    if args.raters and args.anyone:
        parser.error("argument --anyone: does not go with --raters")
    if not all(name.strip() for name in args.raters or []):
        parser.error(f"argument --raters: must not be blank, got {args.raters}")
    return args


def whole(text: str) -> int:
    """A whole number."""
    if not text.strip().isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}")
    return int(text)


def asked(args: argparse.Namespace, before: dict[str, Any]) -> dict[str, Any]:
    """The settings that this study is served with: those of the arguments, else those of `before`.

    Raises:
        ValueError: they do not go together.
    """
    own: dict[str, Any] = {} if args.texts is None else {"texts": args.texts}
    if args.texts and (names := tuple(next(iter(args.texts.values())).get("questions", ()))):
        own["questions"] = names
    own |= {"questions": tuple(args.questions)} if args.questions else {}
    own |= {"answers": tuple(name for name in CHOICES if name != "bad")} if args.no_bad else {}
    limits = ("check_every", "pairs_per_rater", "votes_per_pair", "raters_per_address")
    own |= {name: getattr(args, name) for name in limits if getattr(args, name) is not None}
    own |= {"check_every": 0} if args.no_checks else {}
    return before | own | {"named": not args.anyone and bool(args.raters or before.get("named"))}


def serve(page, args: argparse.Namespace, password: str | None, quiet: bool = False) -> str:
    """Serves the page in threads of its own; returns the address that visitors reach it at."""
    from .. import guard
    from ..theme import CSS, THEME

    local, shared = guard.serve(
        page.queue(max_size=256),
        args.host,
        args.port or None,
        guard.Access(guard.names_of(args.host, args.name), NOT_SERVED, password is not None),
        share=args.share,
        auth=None if password is None else passwords.check(password),
        auth_message=passwords.MESSAGE,
        quiet=quiet,
        max_file_size="1kb",  # there is nothing to upload
        theme=THEME,
        css=CSS,
    )
    if args.share and not shared:  # Gradio goes on at an address of this machine, which nobody who has a link can open
        page.close()
        args.error("argument --share: there is no public link, as said above; nothing is served")
    return (shared or local).rstrip("/")


def links(address: str, host: str, invited: dict[str, str], key: str) -> str:
    """A line for each rater with their link, after one with the owner's. `address` is what `serve` returned, `invited`
    holds the raters' ids, `key` is that of the board."""
    lines = []
    from ..guard import EVERYWHERE
    from .server import BOARD

    url = urlsplit(address)
    if host in EVERYWHERE and url.hostname in ("localhost", "0.0.0.0", "::"):  # else it is shared
        here = network_address()
        address = f"{url.scheme}://{here}:{url.port}"
        lines = [f"The links call this machine {here}; put another name there if raters reach it by another."]
    lines.append(f"board, for you alone: {address}{BOARD}?key={key}")
    return "\n".join(lines + [f"{name}: {address}/?rater={rater}" for name, rater in invited.items()])


def network_address() -> str:
    """This machine's address in its network, its name where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent: it only asks for the route to the outside
            return probe.getsockname()[0]
        except OSError:
            return socket.gethostname()


def main(argv: list[str] | None = None) -> None:
    """Exits with code 2 and one line on stderr where an argument is wrong."""
    args = parse(argv)
    if args.votes_for is not None:
        from .preference import votes_needed

        print(votes_needed(args.votes_for / 100))
        return
    if args.report:
        from . import report, report_page

        try:
            summary, paths = report.write(args.study)
        except (OSError, ValueError) as error:
            args.error(f"argument study: {error}")
        print(report_page.text(summary), *paths, sep="\n")
        return
    password = passwords.ask(args, PASSWORD) if args.password else None
    with tempfile.TemporaryDirectory(prefix="study-") as cache:
        os.environ["GRADIO_TEMP_DIR"] = cache  # the default is a folder that all Gradio apps of a machine share
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

        from . import page as study_page
        from . import server, votes

        try:
            settings = asked(args, kept(args.study))
            try:
                Settings(**settings)
            except ValueError as error:
                args.error(f"argument --questions: {error}")
            page = study_page.build(args.study, args.show_report, **settings)
            store = votes.VoteStore(args.study, Settings(**settings))
            store.keep()
            for name in args.raters or []:
                store.invite(name)
            invited = store.invited() if settings["named"] else {}
            key = server.board_key(store)
            store.close()
        except (OSError, ValueError) as error:
            args.error(f"argument study: {error}")
        if args.share and password is None:
            print("warning: --share without --password: whoever has the link gets in", file=sys.stderr)
        try:
            address = serve(page, args, password)
        except OSError as error:
            args.error(f"argument --host, --port: cannot serve at {args.host}:{args.port}: {error}")
        print(links(address, args.host, invited, key), flush=True)  # only now is it known where they lead to
        page.block_thread()


if __name__ == "__main__":
    main()
