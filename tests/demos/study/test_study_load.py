"""A hundred raters at once over HTTP, in the protocol that the page speaks: no vote is lost, doubled or mixed up."""

import asyncio
import json
import random
import re
import sqlite3
from collections import Counter
from contextlib import closing

import httpx
import pytest
from study_folder import make

from demos.study.votes import CHOICES, VOTES

RATERS, VOTES_EACH = 100, 20
pytestmark = pytest.mark.slow


@pytest.fixture
def folder(ram):
    return make(ram / "study", methods=("dynamic", "static:4", "interval:5", "linear:5"))  # 36 pairs


@pytest.fixture
def address(folder, serve):
    return serve(folder, check_every=0, show_report=False)


class Page:
    """What the page in one browser asks of the server."""

    def __init__(self, client: httpx.AsyncClient, config: dict, session: str) -> None:
        self.client, self.session = client, session
        self.functions = {
            component["props"].get("elem_id"): dependency["id"]
            for component in config["components"]
            for dependency in config["dependencies"]
            if [component["id"], "click"] in [list(target) for target in dependency["targets"]]
        }
        loads = [d for d in config["dependencies"] if d["backend_fn"] and d["targets"][0][1] == "load"]
        (self.functions["load"],) = [dependency["id"] for dependency in loads]

    async def call(self, name: str, data: list) -> list:
        """The outputs of one event; the queue answers in a stream."""
        job = {"data": data, "fn_index": self.functions[name], "session_hash": self.session}
        (await self.client.post("/gradio_api/queue/join", json=job)).raise_for_status()
        stream = self.client.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.session})
        async with stream as answer:
            async for line in answer.aiter_lines():
                message = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
                if message.get("msg") == "process_completed":
                    assert message["success"], message
                    return message["output"]["data"]
        raise AssertionError("the stream ended without an answer")


async def rate(client: httpx.AsyncClient, config: dict, number: int) -> dict[str, str]:
    """One rater's votes: what was on the screen, and what they chose."""
    page, rng, given = Page(client, config, f"rater{number}"), random.Random(number), {}
    text = (await page.call("load", [None]))[2]
    for _ in range(VOTES_EACH):
        shown = re.search(r'data-shown="([^"]*)"', text)[1]
        given[shown] = rng.choice(CHOICES)
        text = (await page.call(f"study-{given[shown]}", [None, shown]))[1]
    return given


async def everybody(address: str) -> list[dict[str, str]]:
    limits = httpx.Limits(max_connections=2 * RATERS, max_keepalive_connections=0)  # an idle one may be closed
    async with httpx.AsyncClient(base_url=address, trust_env=False, timeout=300, limits=limits) as client:
        config = (await client.get("/config")).json()
        return await asyncio.gather(*(rate(client, config, number) for number in range(RATERS)))


def test_a_hundred_raters_at_once(folder, address):
    given = asyncio.run(everybody(address))
    assert [len(votes) for votes in given] == [VOTES_EACH] * RATERS
    expected = {shown: choice for votes in given for shown, choice in votes.items()}
    assert len(expected) == RATERS * VOTES_EACH  # nobody was shown the pair of another
    with closing(sqlite3.connect(folder / VOTES)) as connection:
        kept = connection.execute(
            "SELECT assignment || ':' || question, choice, rater, pair FROM votes "
            "JOIN assignments ON assignments.id = assignment"
        ).fetchall()
    assert len(kept) == len(expected) and {shown: choice for shown, choice, _, _ in kept} == expected
    raters = {shown: rater for shown, _, rater, _ in kept}
    assert all(len({raters[shown] for shown in votes}) == 1 for votes in given)
    assert set(Counter(rater for _, _, rater, _ in kept).values()) == {VOTES_EACH}
    assert len({(rater, pair) for _, _, rater, pair in kept}) == len(kept)
    shares = Counter(pair for *_, pair in kept).values()
    assert len(shares) == 36 and max(shares) - min(shares) <= 6  # pairs get about as many votes
