"""What Gradio would serve or fetch and a page of ours does not need."""

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
