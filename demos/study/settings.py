"""How a study is asked: of whom, what, and how much of each."""

import dataclasses
import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..manifest import open_database
from . import texts
from .schema import ANSWERS_OF_OLD

VOTES = "votes.sqlite"
CHOICES = ("left", "tie", "bad", "right")


@dataclass(frozen=True)
class Settings:
    """What whoever serves a study next need not say again.

    Attributes:
        questions: asked about each pair, in this order; ``text`` only where the prompt has words in quotation marks.
        check_every: one in about so many pairs is an attention check; 0 for none.
        named: whether only those may vote who come by the link of an invited rater.
        answers: of `CHOICES`; ``bad`` may be left out.
        pairs_per_rater: after so many a rater is done; 0 for no limit.
        votes_per_pair: a pair that so many raters voted on is given to nobody else; 0 for no limit.
        raters_per_address: so many new raters may come from one network address in a day; 0 for no limit. Says nothing
            of the invited.
        texts: of the page, by language, as `texts.read` returns them; empty for English as it is built in.

    Raises:
        ValueError: something is not as said here.
    """

    questions: tuple[str, ...] = ("overall",)
    check_every: int = 12
    named: bool = False
    answers: tuple[str, ...] = CHOICES
    pairs_per_rater: int = 0
    votes_per_pair: int = 0
    raters_per_address: int = 20
    texts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("questions", "answers"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.questions or len(set(self.questions)) != len(self.questions):
            raise ValueError(f"`questions` must be distinct, got {list(self.questions)}.")
        if self.answers not in (CHOICES, ANSWERS_OF_OLD):
            raise ValueError(f"`answers` must be {CHOICES} or {ANSWERS_OF_OLD}, got {self.answers}.")
        texts.whole(self.texts, self.questions)  # raises where a question has no text


def kept(folder: Path) -> dict[str, Any]:
    """What `VoteStore.keep` wrote down in `folder`; nothing where nobody has opened the study for votes."""
    if not (Path(folder) / VOTES).is_file():
        return {}
    with closing(open_database(Path(folder) / VOTES, None)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'settings'").fetchone():
            return {}
        rows = {key: json.loads(value) for key, value in connection.execute("SELECT key, value FROM settings")}
    known = {setting.name for setting in dataclasses.fields(Settings)}
    found = {key: value for key, value in rows.items() if key in known}
    return found if not found else {"answers": ANSWERS_OF_OLD} | found  # an older study goes on as it was
