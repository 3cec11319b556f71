"""Which tokens of a call are visual, and of which image."""

import functools
import inspect
import threading
from typing import Any

import torch

from .modules import VisionLanguageModel

BY_ROW = ("idefics2", "idefics3", "smolvlm")  # whose encoders return the images of a row as one
# The kinds of visual tokens: names of their id in a config, and of what encodes them.
KINDS = (("image_token_id", "get_image_features", "image"), ("video_token_id", "get_video_features", "video"))


def token_id(config: Any, kind: int) -> int | None:
    """The id of visual tokens of a `KINDS` from 1, `None` where a config names none; some call it an index."""
    name = KINDS[kind - 1][0]
    return getattr(config, name, getattr(config, name.replace("_id", "_index"), None))


class Seen(threading.local):
    """Of the call that this thread is in.

    Attributes:
        kind: ``(batch, length)``, 0 for text, else from 1 the place in `KINDS`; `None` where nothing is visual.
        sizes: by name in `KINDS`, how many tokens each image or video has, in order.
    """

    def __init__(self) -> None:
        self.kind: torch.Tensor | None = None
        self.sizes: dict[str, list[int]] = {}


def sizes_of(output: Any) -> list[int] | None:
    """How many tokens each image has, of what a host's encoder returned; `None` where it does not say."""
    features = getattr(output, "pooler_output", output)
    if isinstance(features, torch.Tensor):
        return [features.shape[1]] * len(features) if features.ndim == 3 else None
    if isinstance(features, (list, tuple)) and all(isinstance(f, torch.Tensor) and f.ndim == 2 for f in features):
        return [len(f) for f in features]
    return None


class VisualTokens:
    """Finds the visual tokens in the calls of a host, as the host itself does, and where an image begins: by the sizes
    that its encoder returned, else wherever a visual token follows another token.

    Args:
        host: the vision-language model without its head, whose config names the ids of visual tokens.
    """

    def __init__(self, host: VisionLanguageModel) -> None:
        self.host = host
        self.signature = inspect.signature(host.forward)
        self.ids = {kind: token_id(host.config, kind) for kind in range(1, len(KINDS) + 1)}
        self.seen = Seen()

    def attach(self) -> None:
        for _, encoder, name in KINDS:
            if stock := getattr(self.host, encoder, None):
                self.host.__dict__[encoder] = functools.wraps(stock)(functools.partial(self.encode, stock, name))

    def detach(self) -> None:
        for _, encoder, _ in KINDS:
            self.host.__dict__.pop(encoder, None)

    def encode(self, stock: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        output = stock(*args, **kwargs)
        self.note(name, output)
        return output

    def note(self, name: str, output: Any) -> None:
        if self.host.config.model_type not in BY_ROW and (sizes := sizes_of(output)) is not None:
            self.seen.sizes[name] = sizes

    def begin(self, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
        """A call of the host begins; returns its arguments by name."""
        call = self.signature.bind(*args, **kwargs).arguments
        seen, (ids, embeds) = self.seen, (call.get("input_ids"), call.get("inputs_embeds"))
        seen.kind, seen.sizes = None, {}
        for name, output in (call.get("mm_encoder_outputs") or {}).items():
            self.note(name, output)
        given = ids if ids is not None else embeds
        if given is None or given.shape[1] == 1:
            return call
        seen.kind = torch.zeros(given.shape[:2], dtype=torch.long, device=given.device)
        for kind, token in self.ids.items():
            if token is None:
                continue
            if ids is not None:
                found = ids == token
            else:
                mark = self.host.get_input_embeddings()(torch.tensor(token, device=given.device))
                found = (given == mark.to(given)).all(-1)
            seen.kind = seen.kind.masked_fill(found, kind)
        return call

    def images(self, kind: torch.Tensor, visual: torch.Tensor) -> tuple[torch.Tensor, int]:
        """Of which image of its row each visual token is, ``(batch, length)``, and how many images a row has at most.

        Args:
            kind: `Seen.kind`.
            visual: ``(batch, length)``, the tokens that count.
        """
        starts = torch.zeros_like(visual)
        for number, (_, _, name) in enumerate(KINDS, 1):
            tokens, sizes = visual & (kind == number), self.seen.sizes.get(name, [])
            where = tokens.flatten().nonzero()[:, 0]
            if len(where) and sum(sizes) == len(where):
                begins = torch.tensor([0, *(n for n in sizes if n)][:-1]).cumsum(0)
                starts.view(-1)[where[begins.to(where.device)]] = True
            else:
                starts |= tokens & ~torch.nn.functional.pad(tokens, (1, 0))[:, :-1]
        image = (starts.cumsum(1) - 1).clamp(min=0)
        return image, int(image.max()) + 1
