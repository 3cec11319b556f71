"""The one password of a page that is served."""

import argparse
import getpass
import os
import secrets
import sys
from collections.abc import Callable

MESSAGE = "Any name, and the password that you were given. After three wrong ones, wait: longer each time."


def ask(args: argparse.Namespace, variable: str) -> str:
    """From the environment or the terminal: one on the command line would be seen by every user of the machine."""
    password = os.environ.get(variable) or (getpass.getpass("Password for visitors: ") if sys.stdin.isatty() else "")
    if not password:
        args.error(f"argument --password: set {variable}, there is no terminal to ask for it")
    return password


def check(password: str) -> Callable[[str, str], bool]:
    """Whether what a visitor gives, under any name, is `password`; in a time that tells nothing of how near it is."""

    def is_right(user: str, given: str) -> bool:
        return secrets.compare_digest(given.encode(), password.encode())

    return is_right
