"""Which tokens of a call are visual, and of which image."""

import functools
import inspect
import threading
from collections.abc import Mapping
from typing import Any

import torch

from evaluators.token.base import Frames

from .modules import VisionLanguageModel

BY_ROW = ("granite_docling", "idefics2", "idefics3", "smolvlm")  # whose encoders return the images of a row as one
BY_FRAME = ("video_llava",)  # whose encoders return the frames of all videos, which have equally many, one by one
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
        frames: how many frames each video had before `generate` repeated any; `None` where its encoder was not told.
        encoding: whether an encoder runs, which may call another for it.
    """

    def __init__(self) -> None:
        self.kind: torch.Tensor | None = None
        self.sizes: dict[str, list[int]] = {}
        self.frames: list[int] | None = None
        self.encoding = False


def sizes_of(output: Any) -> list[int] | None:
    """How many tokens each image has, of what a host's encoder returned; `None` where it does not say."""
    features = getattr(output, "pooler_output", output)
    if isinstance(features, torch.Tensor):
        return [features.shape[1]] * len(features) if features.ndim == 3 else None
    if isinstance(features, (list, tuple)) and all(isinstance(f, torch.Tensor) and f.ndim == 2 for f in features):
        return [len(f) for f in features]
    return None


def frames_of(call: Mapping[str, Any]) -> list[int] | None:
    """How many frames each video has, of the arguments of a host's video encoder; `None` where they do not say."""
    grid, pixels = call.get("video_grid_thw"), call.get("pixel_values_videos")
    if grid is not None:
        return grid[:, 0].tolist()
    return [pixels.shape[1]] * len(pixels) if isinstance(pixels, torch.Tensor) and pixels.ndim == 5 else None


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
        if self.ids[2] == self.ids[1]:  # Molmo 2 has one id for both
            del self.ids[2]
        self.seen = Seen()

    def attach(self) -> None:
        for _, encoder, name in KINDS:
            if stock := getattr(self.host, encoder, None):
                self.host.__dict__[encoder] = functools.wraps(stock)(functools.partial(self.encode, stock, name))

    def detach(self) -> None:
        for _, encoder, _ in KINDS:
            self.host.__dict__.pop(encoder, None)

    def encode(self, stock: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        """An encoder of the host, whose output then also has the `frames` of videos: it may go through `generate`."""
        if self.seen.encoding:
            return stock(*args, **kwargs)
        self.seen.encoding = True
        try:
            output = stock(*args, **kwargs)
        finally:
            self.seen.encoding = False
        if name == "video" and not isinstance(output, (tuple, torch.Tensor)):
            output.frames = frames_of(inspect.signature(stock).bind(*args, **kwargs).arguments)
        self.note(name, output)
        return output

    def note(self, name: str, output: Any) -> None:
        sizes = sizes_of(output)
        if self.host.config.model_type in BY_ROW or sizes is None:
            return
        if name == "video":
            self.seen.frames = frames = getattr(output, "frames", None)
            if self.host.config.model_type in BY_FRAME and frames:
                sizes = [sum(sizes[n : n + frames[0]]) for n in range(0, len(sizes), frames[0])]
        self.seen.sizes[name] = sizes

    def arguments(self, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Of a call of the host, by name."""
        return self.signature.bind(*args, **kwargs).arguments if args else kwargs

    def begin(self, call: Mapping[str, Any], kinds: torch.Tensor | None) -> None:
        """A call with these arguments begins.

        Args:
            kinds: what the caller says of each token, as `Seen.kind`; asked for where there are no ids.

        Raises:
            ValueError: it has embeddings of which nobody says whether images are among them: nothing would be pruned.
        """
        seen, (ids, embeds) = self.seen, (call.get("input_ids"), call.get("inputs_embeds"))
        seen.kind, seen.sizes, seen.frames = None, {}, None
        for name, output in (call.get("mm_encoder_outputs") or {}).items():
            self.note(name, output)
        given = ids if ids is not None else embeds
        if given is None or given.shape[1] == 1:
            return
        if kinds is not None:
            seen.kind = kinds.to(given.device).long().masked_fill(kinds.to(given.device) > len(KINDS), 0)
            return
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
        if ids is None and not seen.kind.any():
            seen.kind = None
            raise ValueError(
                "`inputs_embeds` do not show which tokens are visual: give `mm_token_type_ids` (batch, tokens) while "
                "pruning, 1 at images, 2 at videos and 0 at text."
            )

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

    def frames(self, kind: torch.Tensor, visual: torch.Tensor, image: torch.Tensor) -> Frames:
        """See `TokenContext.frames`.

        Args:
            kind: `Seen.kind`.
            visual: ``(batch, length)``, the tokens that count.
            image: what `images` found.

        Raises:
            ValueError: there are videos, whose tokens or whose frames `model` does not tell.
        """
        known, sizes = self.seen.frames, self.seen.sizes.get("video", [])
        videos = [name for _, _, name in KINDS].index("video") + 1
        if sizes and not bool((kind == videos).any()):
            raise ValueError(
                "`frames` of a video are read, and `model` gives its tokens the id of images (GLM-V, Molmo 2)."
            )
        repeats = max(1, len(sizes) // len(known)) if known else 1  # of rows, one after the other
        most, first = int(visual.sum(1).max()), 0
        found = torch.zeros(4, len(visual), most, dtype=torch.long, device=visual.device)
        for row, (tokens, kinds, images) in enumerate(zip(visual, kind, image, strict=True)):
            of, video, place, count = images[tokens], kinds[tokens] == videos, 0, 0
            for number in range(int(of.max()) + 1 if len(of) else 0):
                own = of == number
                length, frames = int(own.sum()), 1
                if bool(video[own].any()):
                    if not known:
                        raise ValueError("`frames` of a video are read, and `model` does not say how many it has.")
                    frames, count = known[(first + count) % len(known)], count + 1
                size = length // frames
                frame = torch.arange(length, device=of.device) // max(size, 1)
                values = (own.new_full((length,), number, dtype=torch.long), frame.where(frame < frames, -1))
                found[:2, row, place : place + length] = torch.stack(values)
                found[2:, row, place : place + length] = torch.tensor([[frames], [size]], device=of.device)
                place += length
            if (row + 1) % repeats == 0:
                first += count
        return Frames(*found)
