"""Our pages as servers: what stands between Gradio, which serves and takes more than a page of ours needs, and whoever
can reach the machine."""

import ipaddress
import math
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import PlainTextResponse

from .attempts import Attempts

EVERYWHERE = ("0.0.0.0", "::", "[::]")  # hosts to serve at that are no address to go to
MAX_BODY = 10_000_000  # bytes of a request
QUOTA, WINDOW = 100_000_000, 3600.0  # bytes that a visitor may upload in so many seconds
LEAST = 65_536  # bytes that an upload counts at least
# What the login page consists of; Gradio answers on many more without a login.
LOGIN = ("/", "/login", "/login/", "/favicon.ico", "/theme.css", "/gradio_api/theme.css", "/manifest.json")
LOGIN_FOLDERS = ("/static/", "/assets/", "/svelte/")
START = "/gradio_api/startup-events"  # which Gradio asks of itself before anybody can visit
# Gradio's own scripts are inline and evaluate what a page's events do in the browser.
POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "media-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",  # a rater's link is a secret
}


@dataclass
class Access:
    """Who may ask for what.

    Attributes:
        names: hosts that a request may be for, in lower case; addresses always may. Another page in a visitor's browser
            can make a name of its own point to this machine, and not an address.
        refused: parts of paths that get status 403, whatever the case.
        password: whether `LOGIN` alone is for those who have not logged in.
        started: whether the server has; until then it may be asked for `START`.
        uploads: address of a visitor to the times and bytes of what they uploaded.
        attempts: wrong passwords of each visitor.
    """

    names: set[str]
    refused: tuple[str, ...]
    password: bool = False
    started: bool = False
    uploads: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    attempts: Attempts = field(default_factory=Attempts)

    def problem(self, scope: Any) -> tuple[int, str] | None:
        """The status and the text that a request gets instead of an answer."""
        headers, path = dict(scope["headers"]), scope["path"]
        if not self.is_ours(headers.get(b"host", b"").decode("latin-1")):
            return 421, "not served by this name: start with --name NAME to serve it"
        if any(part in path.lower() for part in self.refused):
            return 403, "not served"
        is_free = path in LOGIN or path.startswith(LOGIN_FOLDERS) or (path == START and not self.started)
        if self.password and not is_free and not is_in(scope["app"], headers):
            return 401, "log in first"
        if length_of(scope) > MAX_BODY:
            return 413, "too large"
        # 400 is what Gradio's login shows as a wrong password; of another status it would say nothing.
        if is_login(scope) and (wait := self.attempts.wait(visitor(scope))):
            return 400, f"too many wrong passwords; try again in {math.ceil(wait)} s"
        if is_upload(scope) and self.used(visitor(scope)) + max(length_of(scope), LEAST) > QUOTA:
            return 429, "too many uploads; try again in an hour"
        return None

    def is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            if name.rstrip(".") in self.names:
                return True
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def used(self, who: str) -> int:
        """The bytes that `who` has uploaded of late. What is older is forgotten, of everybody."""
        since = time.monotonic() - WINDOW
        recent = {one: [item for item in items if item[0] > since] for one, items in self.uploads.items()}
        self.uploads = {one: items for one, items in recent.items() if items}
        return sum(count for _, count in self.uploads.get(who, ()))

    def count(self, scope: Any, size: int) -> None:
        """Notes an upload, or what one had besides."""
        if size > 0:
            self.uploads.setdefault(visitor(scope), []).append((time.monotonic(), size))


def is_in(app: Any, headers: dict[bytes, bytes]) -> bool:
    """Whether the request comes with the cookie of a login to `app`, Gradio's."""
    try:
        cookies = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1"))
    except CookieError:
        return False
    names = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
    return any(name in cookies and cookies[name].value in app.tokens for name in names)


def length_of(scope: Any) -> int:
    """The bytes that a request says it has; it may have others."""
    length = dict(scope["headers"]).get(b"content-length", b"")
    return int(length) if length.isdigit() else 0


def is_upload(scope: Any) -> bool:
    return scope["method"] == "POST" and scope["path"].rstrip("/").endswith("/upload")


def is_login(scope: Any) -> bool:
    return scope["method"] == "POST" and scope["path"].rstrip("/") == "/login"


def visitor(scope: Any) -> str:
    return (scope.get("client") or ("",))[0]


class Guard:
    """ASGI middleware that answers only what `access` allows, with bodies of at most `MAX_BODY` bytes."""

    def __init__(self, app: Any, access: Access) -> None:
        self.app, self.access = app, access

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def safe(message: Any) -> None:
            if message["type"] == "http.response.start":
                if is_login(scope) and message["status"] == 200:
                    self.access.attempts.right(visitor(scope))
                more = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        if problem := self.access.problem(scope):
            await PlainTextResponse(problem[1], problem[0])(scope, receive, safe)
            return
        if is_login(scope):
            self.access.attempts.begin(visitor(scope))
        size, said, begun = 0, max(length_of(scope), LEAST), False
        if is_upload(scope):
            self.access.count(scope, said)  # before it comes: others may come meanwhile

        async def counted() -> Any:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            return {"type": "http.disconnect"} if size > MAX_BODY else message  # a body may come without its length

        async def answered(message: Any) -> None:
            nonlocal begun
            if size <= MAX_BODY or begun:
                begun = True
                await safe(message)

        try:
            await self.app(scope, counted, answered)
        except Exception:  # what was cut off is no request
            if size <= MAX_BODY:
                raise
        finally:
            if is_upload(scope):
                self.access.count(scope, size - said)
        if size > MAX_BODY and not begun:
            await PlainTextResponse("too large", 413)(scope, receive, safe)


def serve(page: Any, host: str, port: int | None, access: Access, **options: Any) -> tuple[str, str | None]:
    """Serves `page`, a `gr.Blocks`, in threads of its own at `port`, any free one for `None`; `options` are those of
    Gradio's ``launch``. A component of it may have ``routes`` of its own, Starlette's. Returns its address and the
    public one, if it is shared and could be.

    Raises:
        OSError: it cannot be served there.
    """
    from starlette.middleware import Middleware

    refuse_addresses(page)
    routes = [route for part in page.blocks.values() for route in getattr(part, "routes", ())]
    _, local, shared = page.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        ssr_mode=False,
        run_history=False,
        enable_monitoring=False,
        footer_links=[],
        app_kwargs={"middleware": [Middleware(Guard, access=access)], "openapi_url": None, "routes": routes},
        **options,
    )
    access.started = True
    if shared:
        access.names.add(urlsplit(shared).hostname or "")
    return local, shared


def names_of(host: str, more: Iterable[str] | None) -> set[str]:
    """The names by which a server at `host` is reached, and those that its owner says."""
    own = {"localhost", host.strip("[]"), *(more or ())}
    if host in EVERYWHERE:
        own |= {socket.gethostname(), f"{socket.gethostname()}.local"}
    return {name.lower().rstrip(".") for name in own}


def refuse_addresses(page: Any) -> None:
    """Makes `page`, a `gr.Blocks`, refuse events with a file at an address, whatever component they are for.

    Gradio would download it, as large as it is, before any code of ours sees the event.
    """
    import gradio as gr

    preprocess = page.preprocess_data

    async def checked(block_fn: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if has_address(inputs):
            raise gr.Error("Files must be uploaded, addresses are not fetched.", print_exception=False)
        return await preprocess(block_fn, inputs, *args, **kwargs)

    page.preprocess_data = checked


def has_address(data: Any) -> bool:
    """Whether there is a file in `data` whose path is an address."""
    if isinstance(data, dict):
        path = data.get("path")
        return (isinstance(path, str) and "://" in path) or any(map(has_address, data.values()))
    return isinstance(data, list | tuple) and any(map(has_address, data))
