"""Token transition variation: how much a layer's blocks change a token, and in which direction."""

import torch

from .base import TokenContext, TokenEvaluator


def token_transition(x: torch.Tensor, y: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """``‖y‖ / ‖x‖ · softmax(1 - cos(x, y))`` of one block (TransPrune, arXiv 2507.20630).

    The softmax is over the whole sequence, text included, as in the authors' code: its denominator weighs the blocks
    and layers that are summed against one another.

    Args:
        x: the block's input after its layer norm, ``(batch, length, dim)``.
        y: the block's output before the residual is added, likewise.
        valid: ``(batch, length)``; the softmax is over these.

    Returns:
        ``(batch, length)`` float32, zero where not valid.
    """
    x, y, absent = x.float(), y.float(), ~valid
    before, after = x.norm(dim=-1).clamp(min=1e-12), y.norm(dim=-1).clamp(min=1e-12)
    turn = (1 - (x * y).sum(-1) / (before * after)).masked_fill(absent, -torch.inf)
    return (turn.softmax(-1) * after / before).masked_fill(absent, 0.0)


class TokenTransition(TokenEvaluator):
    """TTV: `token_transition` of the attention block plus that of the MLP block, summed over layers.

    Needs no attention weights.

    Args:
        layers: first and last layer that count, from 1, both included. The paper: 7 and 12 of 32.

    Raises:
        ValueError: unless ``1 <= first <= last``.
    """

    name = "transition"

    def __init__(self, layers: tuple[int, int] = (7, 12)) -> None:
        first, last = layers
        if not 1 <= first <= last:
            raise ValueError(f"`layers` must satisfy 1 <= first <= last, got {layers}.")
        self.layers = (first, last)

    def observe(self, x: torch.Tensor, y: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        return token_transition(x, y, valid)

    def __call__(self, candidates: torch.Tensor, context: TokenContext) -> torch.Tensor:
        if self.name not in context.accumulated:
            raise ValueError(
                f"evaluator {self.name!r} begins at layer {self.layers[0]}, so it cannot decide after {context.layer} "
                "layers: prune later or let `layers` begin earlier."
            )
        return context.accumulated[self.name]
