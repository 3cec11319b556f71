"""Token evaluators: the evaluator interface on visual tokens inside a language model or a vision encoder.

Candidates are the visual tokens ``(batch, tokens, dim)`` as they are at one depth; rows with fewer visual tokens are
padded, `TokenContext.valid` says where. Scores are ``(batch, tokens)``, higher is better kept. See `base`.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, TypeGuard, overload

import torch

from ..base import Calibration, Evaluator, FunctionEvaluator
from .images import Images


class Received(Protocol):
    """``(queries, previous=False, unrotated=False)``: see `TokenContext.attention`."""

    def __call__(self, queries: torch.Tensor, previous: bool = False, unrotated: bool = False) -> torch.Tensor: ...


class Embeddings(NamedTuple):
    """What the first layer was given, before anything was dropped.

    Attributes:
        tokens, valid: all visual tokens of each row ``(batch, n, dim)``, and which are no padding ``(batch, n)``.
        words, spoken: the instruction of each row ``(batch, m, dim)``, and which are no padding ``(batch, m)``.
    """

    tokens: torch.Tensor
    valid: torch.Tensor
    words: torch.Tensor
    spoken: torch.Tensor


class Frames(NamedTuple):
    """Where the visual tokens of a row stand in videos; all ``(batch, n)``, aligned with `Embeddings.tokens`.

    Attributes:
        image: of which image or video of its row a token is.
        frame: of which frame of it, from 0; -1 for what belongs to none, as a newline after a video.
        length, size: how many frames it has, and how many tokens each of them; an image has 1.
    """

    image: torch.Tensor
    frame: torch.Tensor
    length: torch.Tensor
    size: torch.Tensor


@dataclass(frozen=True)
class TokenContext:
    """What the host knows about the visual tokens at one depth. Everything costly is a function, called if needed.

    Attributes:
        layer: layers that have run; 0 is before the first.
        valid: ``(batch, tokens)``, False where a row is padded.
        keep: ``(batch, images)``, how many tokens of each image of a row will stay; 0 where a row has fewer images.
        ordinal: ``(batch, tokens)``, the index of a token among all visual tokens that its row began with.
        image: ``(batch, tokens)``, of which image, tile or video of its row a token is; of the only one where `None`.
        needed: ``(batch, tokens)``, those that the model reads out from and that stay whatever their scores; none where
            `None`.
        states: ``(batch, length, dim)``, the whole sequence as it is now.
        place: ``(batch, tokens)``, where in `states` each token is.
        instruction: ``(batch, length)``, True at what is asked: the text after the last visual token, less what is
            drafted or answered.
        last: ``(batch, length)``, True at the last token of the prompt.
        embeddings: `Embeddings`. Its words are those of `instruction`, in order.
        frames: `Frames` of what `embeddings` has.
        accumulated: by evaluator name, what its `observe` returned, summed over the layers run ``(batch, tokens)``.
        attention: given a mask of queries ``(batch, length)``, the attention weight that each token receives, averaged
            over these queries, ``(batch, heads, tokens)``; zero in a row without queries. The layer is the one that
            runs next, with ``previous=True`` the one that has just run. With ``unrotated=True`` each weight is divided
            by what the rotary embeddings alone would give its distance.
        attention_matrix: of the layer that has just run, among the candidates only, ``(batch, heads, tokens, tokens)``,
            rows are queries. Vision encoders only.
        keys: of the layer that runs next, before any rotation, ``(batch, tokens, heads · head dim)``.
        rotated_keys: of the layer that has just run, of the whole sequence, as if no row were padded on the left,
            ``(batch, length, key heads · head dim)``.
        read_out: `states` after the norm that follows the last layer.
        encoder_attention: attention of the vision encoder's class token to each token, summed over heads, or of all its
            patches, mean over heads, as `TokenEvaluator.reads_encoder` says, ``(batch, tokens)``; where the encoder
            itself is pruned, of the class token in the layer that has just run.
        encoder_keys: keys of that layer of the vision encoder, mean over heads, ``(batch, tokens, head dim)``.
        encoder_states: what the vision encoder made of each token, before it was projected for the language model,
            ``(batch, tokens, encoder dim)``.
        patches: ``(batch, tokens)``, which are patches of an image, not separators (LLaVA-NeXT's newlines), of which
            the vision encoder knows nothing.
    """

    layer: int
    valid: torch.Tensor
    keep: torch.Tensor
    ordinal: torch.Tensor
    image: torch.Tensor | None = None
    needed: torch.Tensor | None = None
    states: torch.Tensor | None = None
    place: torch.Tensor | None = None
    instruction: torch.Tensor | None = None
    last: torch.Tensor | None = None
    embeddings: Callable[[], Embeddings] | None = None
    frames: Callable[[], Frames] | None = None
    accumulated: Mapping[str, torch.Tensor] = field(default_factory=dict)
    attention: Received | None = None
    attention_matrix: Callable[[], torch.Tensor] | None = None
    keys: Callable[[], torch.Tensor] | None = None
    rotated_keys: Callable[[], torch.Tensor] | None = None
    read_out: Callable[[], torch.Tensor] | None = None
    encoder_attention: Callable[[], torch.Tensor] | None = None
    encoder_keys: Callable[[], torch.Tensor] | None = None
    encoder_states: Callable[[], torch.Tensor] | None = None
    patches: Callable[[], torch.Tensor] | None = None

    @functools.cached_property
    def images(self) -> Images:
        """The images of each row, apart."""
        image = torch.zeros_like(self.ordinal) if self.image is None else self.image
        return Images(image, self.valid, self.keep.shape[1])

    @overload
    def need(self, attribute: Literal["states", "place", "instruction", "last"], reader: str) -> torch.Tensor: ...
    @overload
    def need(self, attribute: Literal["embeddings"], reader: str) -> Callable[[], Embeddings]: ...
    @overload
    def need(self, attribute: Literal["frames"], reader: str) -> Callable[[], Frames]: ...
    @overload
    def need(self, attribute: Literal["attention"], reader: str) -> Received: ...
    @overload
    def need(
        self,
        attribute: Literal[
            "attention_matrix",
            "keys",
            "rotated_keys",
            "read_out",
            "encoder_attention",
            "encoder_keys",
            "encoder_states",
            "patches",
        ],
        reader: str,
    ) -> Callable[[], torch.Tensor]: ...

    def need(self, attribute: str, reader: str) -> Callable | torch.Tensor:
        """The attribute, which this host may lack.

        Raises:
            ValueError: it does.
        """
        value = getattr(self, attribute)
        if value is None:
            raise ValueError(f"{reader!r} reads `{attribute}`, which this model does not provide.")
        return value


class TokenEvaluator:
    """What every evaluator of this package that scores tokens shares. Subclasses give `name` and `__call__`.

    One that follows tokens through layers also gives ``layers = (first, last)``, counted from 1, and
    ``observe(x, y, valid) -> (batch, length)``: the host calls it after the attention block and after the MLP block of
    each of these layers with the block's input (normalised) and output ``(batch, length, dim)``, of the whole sequence
    as it is there, text and all, and ``valid`` ``(batch, length)``, False at padding and behind the prompt. What it
    returns for visual tokens is summed in `TokenContext.accumulated`.

    One that reads `TokenContext.encoder_attention` sets `reads_encoder` to "class_token" or "columns".
    """

    name: str
    space = "tokens"
    needs_prompt = False
    in_channels: int | None = None
    calibration: Calibration | None = None

    def __call__(self, candidates: torch.Tensor, context: TokenContext) -> torch.Tensor:
        raise NotImplementedError


class LayerObserver(Evaluator, Protocol):
    """An evaluator that follows tokens through layers, see `TokenEvaluator`."""

    @property
    def layers(self) -> tuple[int, int]: ...

    def observe(self, x: torch.Tensor, y: torch.Tensor, valid: torch.Tensor) -> torch.Tensor: ...


def observes(evaluator: Evaluator) -> TypeGuard[LayerObserver]:
    """Whether it follows tokens through layers."""
    return hasattr(evaluator, "observe")


def as_token_evaluator(evaluator: Evaluator | Callable) -> Evaluator:
    """Passes a token evaluator through and wraps a plain ``function(tokens, context) -> scores``.

    Raises:
        TypeError: `evaluator` is not callable.
        ValueError: it declares another `space` than "tokens".
    """
    if not isinstance(evaluator, Evaluator):
        if not callable(evaluator):
            raise TypeError(f"`evaluators` must hold evaluators or functions, got {type(evaluator).__name__}.")
        name = getattr(evaluator, "__name__", type(evaluator).__name__)
        evaluator = FunctionEvaluator(evaluator, name, getattr(evaluator, "space", "tokens"))
    if evaluator.space != "tokens":
        raise ValueError(f"`space` of evaluator {evaluator.name!r} must be 'tokens', got {evaluator.space!r}.")
    return evaluator
