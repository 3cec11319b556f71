"""What a rater is asked: one question about one pair of pictures."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """A question about a pair.

    Attributes:
        assignment: of this pair to this rater.
        left, right: files, relative to the study's folder.
        check: the side of the spoilt picture in an attention check, `None` for a pair that counts.
        choice: what this rater chose before, `None` for nothing yet.
    """

    assignment: int
    prompt: str
    question: str
    left: str
    right: str
    check: str | None = None
    choice: str | None = None

    @property
    def key(self) -> tuple[int, str]:
        return self.assignment, self.question


@dataclass(frozen=True)
class View:
    """What a rater has before them: a task, `None` after the last; its place among all that they have had; on how many
    pairs they have voted, of at most how many."""

    task: Task | None
    place: int
    done: int
    pairs: int


def is_text(prompt: str) -> bool:
    """Whether `prompt` has words in quotation marks, as those have that ask for writing."""
    return prompt.count('"') >= 2 or any(mark in prompt for mark in "“”«»„")
