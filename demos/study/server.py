"""What the page of a study asks the server: plain routes, one request for a vote and the pair that follows it.

Every answer is a screen: ``{"screen": "intro" | "pair" | "end" | "invited" | "full", …}``.
"""

import asyncio
import hmac
import ipaddress
import json
import time
from collections.abc import Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from ..attempts import Attempts
from ..guard import visitor
from ..manifest import inside
from . import board, pictures, texts
from .tasks import View
from .votes import VoteStore

PATH = "/study"
BOARD = f"{PATH}/board"
LONGEST = 10_000  # bytes of a request
DAY = 86_400.0  # seconds
KEEP = {"cache-control": "private, max-age=86400, immutable"}


class Desk:
    """Answers what came while the last answers were written, all in one transaction.

    It works in the thread of the event loop: in one of its own, every statement would have to wait for the
    interpreter's lock, which the loop holds while a hundred requests are read.
    """

    def __init__(self, store: VoteStore) -> None:
        self.store = store
        self._waiting: list[tuple[Callable[[], Any], asyncio.Future]] = []

    async def ask(self, call: Callable[[], Any]) -> Any:
        """What `call` on the store returns, once it is on the disk."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._waiting.append((call, future))
        if len(self._waiting) == 1:
            loop.call_soon(self._answer)
        return await future

    def _answer(self) -> None:
        waiting, self._waiting = self._waiting, []
        try:
            results = self.store.together([call for call, _ in waiting])
        except Exception as error:  # a full disk: nothing was written
            results = [error] * len(waiting)
        for (_, future), result in zip(waiting, results, strict=True):
            if future.done():  # its rater has gone
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)


class Sitting:
    """What raters do, on one store."""

    def __init__(self, store: VoteStore) -> None:
        self.store, self.settings = store, store.settings
        self.texts = texts.whole(self.settings.texts, self.settings.questions)
        self.begun: dict[str, list[float]] = {}  # addresses, and when new raters came from them; kept nowhere else

    def who(self, said: dict[str, Any]) -> str | None:
        """Who comes: by the link that they were sent, or where it leads to nobody, whom their browser has kept."""
        given = (said.get("rater"), said.get("kept"))
        return next((rater for rater in given if isinstance(rater, str) and self.store.knows(rater)), None)

    def enter(self, said: dict[str, Any]) -> dict[str, Any]:
        """A rater comes, perhaps again."""
        rater = self.who(said)
        if rater is None:
            return {"screen": "invited"} if self.settings.named else self.introduction(None)
        return self.screen(rater, self.store.view(rater)) if self.store.agreed(rater) else self.introduction(rater)

    def introduction(self, rater: str | None) -> dict[str, Any]:
        pairs = self.store.pairs
        minutes = round(pairs * len(self.settings.questions) * self.store.pace() / 60)
        return {"screen": "intro", "pairs": pairs, "minutes": max(1, minutes), "consent": self.asked(rater)}

    def asked(self, rater: str | None) -> str:
        """Which text this rater agrees to."""
        return "consent_named" if self.store.has_name(rater) else "consent"

    def start(self, said: dict[str, Any], address: str) -> dict[str, Any]:
        """A rater agrees; somebody new becomes one."""
        rater, language = self.who(said), said.get("language")
        if language not in self.texts:
            raise ValueError(f"`language` must be one of {', '.join(self.texts)}.")
        if rater is None:
            if self.settings.named:
                return {"screen": "invited"}
            if self.is_full(address):
                return {"screen": "full"}
            rater = self.store.new_rater()
        self.store.consent(rater, self.texts[language][self.asked(rater)], language)
        return self.screen(rater, self.store.view(rater))

    def is_full(self, address: str) -> bool:
        """Whether as many as may have begun at `address` today; counts one more if not."""
        now, most = time.time(), self.settings.raters_per_address
        recent = {one: [at for at in times if at > now - DAY] for one, times in self.begun.items()}
        self.begun = {one: times for one, times in recent.items() if times}
        if most and len(self.begun.get(address, ())) >= most:
            return True
        self.begun.setdefault(address, []).append(now)
        return False

    def vote(self, said: dict[str, Any]) -> dict[str, Any]:
        """Keeps a vote and goes on. A vote says what it is on, so that one that comes twice is one."""
        rater, shown = self.known(said)
        if shown is None:
            raise ValueError("`shown` must say what is voted on.")
        self.store.vote(rater, *shown, said.get("choice"))
        return self.screen(rater, self.store.view(rater, shown, 1))

    def back(self, said: dict[str, Any]) -> dict[str, Any]:
        """The question before, with what was chosen."""
        rater, shown = self.known(said)
        return self.screen(rater, self.store.view(rater, shown, -1))

    def known(self, said: dict[str, Any]) -> tuple[str, tuple[int, str] | None]:
        """Who asks, and what they have before them."""
        rater, shown = said.get("rater"), said.get("shown")
        if not isinstance(rater, str) or not self.store.knows(rater) or not self.store.agreed(rater):
            raise ValueError("this rater has not begun.")
        number, _, question = shown.partition(":") if isinstance(shown, str) else ("", "", "")
        return rater, (int(number), question) if number.isdecimal() else None

    def screen(self, rater: str, view: View) -> dict[str, Any]:
        common = {"rater": rater, "done": view.done, "pairs": view.pairs, "back": view.place > 0}
        if (task := view.task) is None:
            return common | {"screen": "end"}
        sides = {
            side: f"{PATH[1:]}/picture/{task.assignment}/{side}/{self.store.signature(task.assignment, side)}"
            for side in ("left", "right")
        }
        shown = {"shown": f"{task.assignment}:{task.question}", "question": task.question, "prompt": task.prompt}
        return common | {"screen": "pair", "choice": task.choice} | shown | sides


def routes(store: VoteStore) -> list[BaseRoute]:
    """The routes of a study's page."""
    sitting, desk, album = Sitting(store), Desk(store), pictures.Album()

    def post(path: str, answer: Callable[..., dict[str, Any]], with_address: bool = False) -> Route:
        async def handle(request: Request) -> Response:
            if int(request.headers.get("content-length") or LONGEST + 1) > LONGEST:
                return PlainTextResponse("too large", 413)
            try:
                said = json.loads(await request.body())
                if not isinstance(said, dict):
                    raise ValueError("must be an object")
                more = (network(visitor(request.scope)),) if with_address else ()
                return JSONResponse(await desk.ask(lambda: answer(said, *more)))
            except ValueError as error:
                return PlainTextResponse(str(error), 400)

        return Route(f"{PATH}/{path}", handle, methods=["POST"])

    async def picture(request: Request) -> Response:
        assignment, side = request.path_params["assignment"], request.path_params["side"]
        if not hmac.compare_digest(
            request.path_params["signature"].encode(), store.signature(assignment, side).encode()
        ):
            return PlainTextResponse("not found", 404)
        try:
            file, spoilt = store.picture(assignment, side)
            path = store.folder / file
            if (data := album.find(path, spoilt)) is None:
                data = await run_in_threadpool(pictures.served, inside(store.folder, file), spoilt)
                album.keep(path, spoilt, data)
        except (OSError, ValueError):
            return PlainTextResponse("not found", 404)
        return Response(data, media_type="image/png", headers=KEEP)

    attempts, seen = Attempts(), [0.0, ""]

    async def show_board(request: Request) -> Response:
        who = visitor(request.scope)
        if attempts.wait(who):
            return PlainTextResponse("too many wrong keys; try again later", 429)
        attempts.begin(who)
        if not hmac.compare_digest(request.query_params.get("key", "").encode(), board_key(store).encode()):
            return PlainTextResponse("the command that serves the study says the link to its board", 403)
        attempts.right(who)
        if time.monotonic() - seen[0] > board.EVERY / 3:
            seen[:] = time.monotonic(), await run_in_threadpool(board.page, store.folder)
        return HTMLResponse(seen[1], headers={"cache-control": "no-store"})

    return [
        Route(BOARD, show_board),
        post("enter", sitting.enter),
        post("start", sitting.start, with_address=True),
        post("vote", sitting.vote),
        post("back", sitting.back),
        Route(f"{PATH}/picture/{{assignment:int}}/{{side}}/{{signature}}", picture),
    ]


def board_key(store: VoteStore) -> str:
    """What the owner's link to the board has and nobody else."""
    return store.signature("board")


def network(address: str) -> str:
    """What counts as one visitor's: an address, of IPv6 the network of 64 bits that a household has."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((found, 64), strict=False)) if found.version == 6 else address
