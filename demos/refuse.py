"""What Gradio would serve and a page of ours does not need."""

from typing import Any

from starlette.responses import PlainTextResponse


class Refuse:
    """ASGI middleware: requests with one of `parts` in their path, whatever the case, get status 403."""

    def __init__(self, app: Any, parts: tuple[str, ...]) -> None:
        self.app, self.parts = app, parts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope.get("path", "").lower()
        if scope["type"] == "http" and any(part in path for part in self.parts):
            await PlainTextResponse("not served", 403)(scope, receive, send)
        else:
            await self.app(scope, receive, send)
