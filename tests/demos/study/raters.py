"""Raters of a study at once, as one program that speaks to it over HTTP as the page does; says how long they waited.

    online-guidance study study --raters-per-address 0 --no-checks --port 7860
    python tests/demos/study/raters.py http://127.0.0.1:7860 --raters 100 --votes 20

A rater votes again as soon as the next pair is there, with both pictures: nobody thinks. The last line is JSON.
"""

import argparse
import asyncio
import json
import os
import random
import resource
import time
from urllib.parse import urlsplit

CHOICES = ("left", "tie", "bad", "right")


class Browser:
    """One connection, which is kept."""

    def __init__(self, address: str) -> None:
        self.address = urlsplit(address)
        self.writer = None

    async def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection(self.address.hostname, self.address.port)
        head = f"{method} /{path} HTTP/1.1\r\nhost: {self.address.netloc}\r\ncontent-type: application/json\r\n"
        self.writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        status, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines if line)
        data = await self.reader.readexactly(int(headers["content-length"]))
        assert " 200 " in status, (status, data)
        return data

    async def ask(self, what: str, **said) -> dict:
        return json.loads(await self.request("POST", f"study/{what}", json.dumps(said).encode()))


async def rate(address: str, number: int, votes: int, waited: dict[str, list[float]]) -> dict[str, str]:
    """One rater's votes: what was on the screen, and what they chose."""
    browser, rng, given = Browser(address), random.Random(number), {}

    async def timed(what, call):
        begun = time.perf_counter()
        answer = await call
        waited[what].append(time.perf_counter() - begun)
        return answer

    assert (await timed("enter", browser.ask("enter", rater=None)))["screen"] == "intro"
    screen = await timed("enter", browser.ask("start", rater=None, language="en"))
    while len(given) < votes:
        for side in ("left", "right"):
            picture = await timed("picture", browser.request("GET", screen[side]))
            assert picture.startswith(b"\x89PNG")
        shown = screen["shown"]
        given[shown] = rng.choice(CHOICES)
        said = {"rater": screen["rater"], "shown": shown, "choice": given[shown]}
        screen = await timed("vote", browser.ask("vote", **said))
    browser.writer.close()
    return given


async def everybody(address: str, raters: int, votes: int) -> tuple[list[dict[str, str]], dict[str, list[float]]]:
    waited: dict[str, list[float]] = {"enter": [], "vote": [], "picture": []}
    given = await asyncio.gather(*(rate(address, number, votes, waited) for number in range(raters)))
    return given, waited


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("address")
    parser.add_argument("--raters", type=int, default=100)
    parser.add_argument("--votes", type=int, default=20)
    args = parser.parse_args()
    load, begun = os.getloadavg()[0], time.perf_counter()
    given, waited = asyncio.run(everybody(args.address, args.raters, args.votes))
    seconds, used = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF)
    cpu = used.ru_utime + used.ru_stime
    print(f"{seconds:.1f} s, of which the raters' own program took {cpu:.1f} s of a core; load before: {load:.1f}")
    shares = {}
    for what, times in waited.items():
        times.sort()
        shares[what] = {f"p{q}": round(1000 * times[min(len(times) - 1, len(times) * q // 100)]) for q in (50, 95, 100)}
        print(f"{what}: {len(times)}, ms: {shares[what]}")
    print(json.dumps({"given": given, "seconds": seconds, "cpu": cpu, "load": load, "ms": shares}))


if __name__ == "__main__":
    main()
