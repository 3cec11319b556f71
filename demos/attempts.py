"""A growing delay after wrong passwords."""

import time
from dataclasses import dataclass, field

FREE = 3  # wrong ones that cost nothing: people mistype
LONGEST = 900.0  # seconds
MOST = 10_000  # visitors that are remembered


@dataclass
class Attempts:
    """Of each visitor: how many were wrong one after another, and when the last came. The fourth is looked at two
    seconds after the third at the earliest, the fifth four after that, then eight, up to `LONGEST`.

    It is for each visitor by themselves: a delay for all would let anybody lock all others out.
    """

    wrong: dict[str, tuple[int, float]] = field(default_factory=dict)

    def wait(self, who: str) -> float:
        """Seconds until an attempt of `who` is looked at."""
        count, last = self.wrong.get(who, (0, 0.0))
        if count < FREE:
            return 0.0
        return max(0.0, last + min(LONGEST, 2.0 ** min(count - FREE + 1, 30)) - time.monotonic())

    def begin(self, who: str) -> None:
        """Notes an attempt as wrong before it is looked at: many at once are no way around the delay."""
        count, _ = self.wrong.pop(who, (0, 0.0))
        self.wrong[who] = count + 1, time.monotonic()
        while len(self.wrong) > MOST:
            self.wrong.pop(next(iter(self.wrong)))  # who was longest quiet

    def right(self, who: str) -> None:
        """The last attempt of `who` was right."""
        self.wrong.pop(who, None)
