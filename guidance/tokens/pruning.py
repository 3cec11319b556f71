"""Which visual tokens stay: how many after each layer, the best of them, and what becomes of the others."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F

from evaluators.base import Evaluator, score
from evaluators.combine import by_share, combine
from evaluators.token.base import TokenContext, as_token_evaluator
from evaluators.token.baselines import UniformTokens


def check_keep(keep: Mapping[int, float | int]) -> dict[int, float | int]:
    """Layer to share (float) or count (int), sorted by layer.

    Raises:
        ValueError: empty; a layer that is not an integer of at least 0; a share outside (0, 1] or a count below 1; more
            kept after a later layer than after an earlier one.
    """
    if not isinstance(keep, Mapping) or not keep:
        raise ValueError(f"`keep` must map layers to a share or a count, at least one, got {keep!r}.")
    for layer, value in keep.items():
        if isinstance(layer, bool) or not isinstance(layer, int) or layer < 0:
            raise ValueError(f"`keep` must have layers of at least 0, got {layer!r}.")
        share = isinstance(value, float) and 0 < value <= 1
        count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if not share and not count:
            raise ValueError(f"`keep` must be a share in (0, 1] or a whole number of tokens, got {value!r}.")
    ordered = dict(sorted(keep.items()))
    for kind in (float, int):
        values = [v for v in ordered.values() if isinstance(v, kind)]
        if values != sorted(values, reverse=True):
            raise ValueError(f"`keep` must not grow with depth, for dropped tokens do not come back, got {ordered}.")
    return ordered


def keep_count(keep: float | int, total: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """How many tokens of each image stay ``(batch, images)``, at most those present.

    Args:
        keep: a share of `total` of each image, rounded half up and at least 1 where there is any; or a count for the
            row, divided among its images in proportion to `total` (by the odd divisors 1, 3, 5, …; of equals, the
            earlier has more).
        total: visual tokens that each image began with, ``(batch, images)``.
        present: those that are left, ``(batch, images)``.
    """
    if isinstance(keep, float):
        wanted = (total.float() * keep + 0.5).long().clamp(min=1)
    elif total.shape[1] == 1:
        wanted = torch.full_like(total, keep)
    else:
        seats = torch.arange(int(total.max()), device=total.device)
        claims = (total[..., None] / (2 * seats + 1)).masked_fill(seats >= total[..., None], 0.0)
        granted = top_k(claims.flatten(1), (claims > 0).flatten(1), torch.full_like(total[:, 0], keep))
        wanted = granted.view(claims.shape).sum(-1)
    return torch.minimum(wanted, present)


def top_k(scores: torch.Tensor, valid: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """The `keep` ``(batch,)`` best valid tokens of each row as a mask ``(batch, tokens)``; of equals, the earlier."""
    order = scores.masked_fill(~valid, -torch.inf).argsort(dim=1, descending=True, stable=True)
    return (order.argsort(dim=1) < keep[:, None]) & valid


def drop_similar(scores: torch.Tensor, features: torch.Tensor, valid: torch.Tensor, drop: torch.Tensor) -> torch.Tensor:
    """The S-stage (Zero-TPrune, arXiv 2305.17328): drops tokens that another one already says.

    Tokens ordered by score are split alternately into two groups; each token of the group that begins with the second
    best is matched with the most similar one (cosine) of the other, and the `drop` most similar of them go.

    Args:
        scores: importance ``(batch, tokens)``.
        features: what is compared, ``(batch, tokens, dim)``; the paper takes the keys.
        valid: ``(batch, tokens)``.
        drop: how many go, ``(batch,)``; no more than half of the valid ones can.

    Returns:
        What stays, ``(batch, tokens)`` bool.
    """
    rank = scores.masked_fill(~valid, -torch.inf).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    kept_group, other = valid & (rank % 2 == 0), valid & (rank % 2 == 1)
    unit = F.normalize(features.float(), dim=-1)
    closest = (unit @ unit.transpose(1, 2)).masked_fill(~kept_group[:, None], -torch.inf).amax(-1)
    return valid & ~top_k(closest, other, torch.minimum(drop, other.sum(1)))


def evenly(valid: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """`count` ``(batch,)`` of the valid tokens of each row, in equal steps from the first, ``(batch, tokens)`` bool."""
    step = (valid.sum(1) // count.clamp(min=1)).clamp(min=1)[:, None]
    rank = valid.cumsum(1) - 1
    return valid & (rank % step == 0) & (rank // step < count[:, None])


def merge_dropped(
    tokens: torch.Tensor,
    dropped: torch.Tensor,
    into: torch.Tensor,
    features: torch.Tensor | None = None,
    add: bool = False,
) -> torch.Tensor:
    """Each dropped token joins the one of `into` most similar to it (cosine), which becomes the mean of those it has.

    Args:
        tokens: ``(batch, tokens, dim)``.
        dropped: ``(batch, tokens)``, those that join another.
        into: ``(batch, tokens)``, those that can be joined; a row without any is left as it is.
        features: what is compared, ``(batch, tokens, any)``; the tokens themselves by default.
        add: the one becomes the sum of itself and the mean of those that join it (VisionZip, arXiv 2412.04467).

    Returns:
        ``(batch, tokens, dim)``, changed only where `into` is true.
    """
    unit = F.normalize((tokens if features is None else features).float(), dim=-1)
    target = (unit @ unit.transpose(1, 2)).masked_fill(~into[:, None], -torch.inf).argmax(-1)
    joins = (dropped & into.any(1, keepdim=True)).float()
    own = tokens.float()
    joined = torch.zeros_like(own).scatter_add(1, target[..., None].expand_as(own), own * joins[..., None])
    count = torch.zeros_like(joins).scatter_add(1, target, joins)[..., None]
    merged = own + joined / count.clamp(min=1) if add else (own + joined) / (1 + count)
    return torch.where(count > 0, merged, own).to(tokens.dtype)


class Selection(Protocol):
    """What stays, and what takes up what is dropped, by another rule than the best scores.

    ``(tokens, scores, valid, keep)`` of images apart, ``(images, tokens, dim)``, twice ``(images, tokens)`` and
    ``(images,)``, to what stays, ``(images, tokens)`` bool, and which token each becomes part of, ``(images, tokens)``:
    itself, where it joins no other. No more than `keep` may stay. One with an attribute `reads` is given that of
    `TokenContext` in the place of the tokens.
    """

    def __call__(
        self, tokens: torch.Tensor, scores: torch.Tensor, valid: torch.Tensor, keep: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]: ...


def join(tokens: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """Each token ``(batch, tokens, dim)`` becomes the mean of those whose `target` ``(batch, tokens)`` it is, by
    `weight` ``(batch, tokens)``, equal by default."""
    own, index = tokens.float(), target[..., None].expand_as(tokens)
    share = torch.ones_like(own[..., :1]) if weight is None else weight[..., None].float()
    several = torch.zeros_like(target).scatter_add(1, target, torch.ones_like(target))[..., None] > 1
    total = torch.zeros_like(share).scatter_add(1, target[..., None], share)
    mean = torch.zeros_like(own).scatter_add(1, index, own * share) / total.clamp(min=1)
    return torch.where(several, mean, own).to(tokens.dtype)


@dataclass(frozen=True)
class Decision:
    """What `TokenPruning.decide` says of tokens ``(batch, tokens)``.

    Attributes:
        stays: which stay.
        into: which of them take up the dropped (`merge_dropped`); `None` where nothing is merged.
        target: of which token each becomes part (`join`), where a `Selection` said so; itself, where of no other.
        scores: name to scores of each evaluator.
        total: what they were chosen by, which sums up to 1 for each evaluator and image.
    """

    stays: torch.Tensor
    into: torch.Tensor | None
    scores: dict[str, torch.Tensor]
    total: torch.Tensor
    target: torch.Tensor | None = None


class TokenPruning:
    """What is dropped, and when.

    Args:
        evaluators: token evaluators or plain functions (`evaluators.token.base`), with distinct names.
        keep: after how many layers, which share (float, of the visual tokens that an image began with) or number (int,
            of a row, divided among its images) of visual tokens stays; 0 is before the first layer. See `keep_count`.
        weights: factor of an evaluator by name; 1 where absent. See `evaluators.combine`.
        similar: share in [0, 1] of what is dropped that goes because a better token says the same, before the rest goes
            by score (`drop_similar`).
        merge: whether dropped tokens are averaged into the kept ones most similar to them (`merge_dropped`).
        contextual: share in [0, 1) of the kept tokens that are not the best ones but evenly spaced among the others,
            and take up all that is dropped (VisionZip, arXiv 2412.04467).
        select: chooses by another rule than the best scores; not with `similar`, `merge` or `contextual`.
        least: a number of tokens of a row below which no share falls.

    Raises:
        ValueError: an argument outside what is said here. TypeError: an evaluator that is none.
    """

    def __init__(
        self,
        evaluators: Sequence[Evaluator | Callable],
        keep: Mapping[int, float | int],
        weights: Mapping[str, float] | None = None,
        similar: float = 0.0,
        merge: bool = False,
        contextual: float = 0.0,
        select: Selection | None = None,
        least: int = 0,
    ) -> None:
        panel = [as_token_evaluator(e) for e in evaluators]
        self.evaluators = {e.name: e for e in panel}
        self.keep, self.weights = check_keep(keep), dict(weights or {})
        self.similar, self.merge, self.contextual, self.select, self.least = similar, merge, contextual, select, least
        if not panel or len(self.evaluators) != len(panel):
            raise ValueError(f"`evaluators` must be at least one, with distinct names, got {[e.name for e in panel]}.")
        if unknown := set(self.weights) - set(self.evaluators):
            raise ValueError(f"`weights` names no evaluator: {sorted(unknown)}; there are {sorted(self.evaluators)}.")
        if bad := {k: v for k, v in self.weights.items() if not 0 <= v < float("inf")}:
            raise ValueError(f"`weights` must be finite and at least 0, got {bad}.")
        if not 0 <= similar <= 1:
            raise ValueError(f"`similar` must be a share in [0, 1], got {similar!r}.")
        if not 0 <= contextual < 1:
            raise ValueError(f"`contextual` must be a share in [0, 1), got {contextual!r}.")
        if select is not None and (similar or merge or contextual):
            raise ValueError("`select` has a rule of its own: give it without `similar`, `merge` and `contextual`.")
        if isinstance(least, bool) or not isinstance(least, int) or least < 0:
            raise ValueError(f"`least` must be a whole number of tokens, at least 0, got {least!r}.")

    def with_keep(self, keep: Mapping[int, float | int], least: int | None = None) -> "TokenPruning":
        """The same with another schedule and, unless `None`, another `least`."""
        panel, least = list(self.evaluators.values()), self.least if least is None else least
        return TokenPruning(panel, keep, self.weights, self.similar, self.merge, self.contextual, self.select, least)

    def count(self, layer: int, total: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """How many tokens of each image stay after `layer` layers, a key of `keep`; see `keep_count`."""
        wanted = keep_count(self.keep[layer], total, present)
        return torch.maximum(wanted, keep_count(self.least, total, present)) if self.least else wanted

    def decide(self, tokens: torch.Tensor, context: TokenContext) -> Decision:
        """What stays of `tokens` ``(batch, tokens, dim)``, of each image for itself: `TokenContext.needed` and the best
        others. A score that is not finite counts as the lowest. Of an image of which no evaluator says anything, evenly
        spaced tokens stay."""
        images, absent = context.images, ~context.valid
        scores = {}
        for name, evaluator in self.evaluators.items():
            values = score(evaluator, tokens, context).masked_fill(absent, 0.0)
            finite = values.isfinite()
            least = values.where(finite, torch.inf).amin(1, keepdim=True).nan_to_num(posinf=0.0)
            scores[name] = values.where(finite, least)
        split = {name: images.split(values) for name, values in scores.items()}
        total, _ = combine(split, self.weights, by_share(images.valid))
        told = total.any(1, keepdim=True)
        if not bool(told.all()):
            total = total.where(told, images.split(UniformTokens()(tokens, context)))
        left, keep, ranked, needed = images.valid, context.keep.flatten(), total, None
        if context.needed is not None:
            needed = images.split(context.needed)
            ranked = total.masked_fill(needed, torch.inf)
        if self.select is not None:
            compared = tokens
            if (reads := getattr(self.select, "reads", None)) is not None:
                compared = context.need(reads, "select")()
            stays, target = self.select(images.split(compared), ranked, left, keep)
            stays = stays if needed is None else stays | needed
            place = torch.arange(tokens.shape[1], device=target.device).expand(len(tokens), -1)
            target = images.join(images.split(place).gather(1, target)).where(context.valid, place)
            return Decision(images.join(stays), None, scores, images.join(total), target)
        if self.similar:
            drop = ((left.sum(1) - keep).float() * self.similar + 0.5).long()
            left = drop_similar(ranked, images.split(context.need("keys", "similar")()), left, drop)
        spaced = (keep.float() * self.contextual + 0.5).long() if self.contextual else None
        stays = top_k(ranked, left, keep if spaced is None else keep - spaced)
        if needed is not None:
            stays = stays | needed
        into = stays if self.merge else None
        if spaced is not None:
            free = left & ~stays
            if context.patches is not None:
                free = free & images.split(context.patches())
            into = evenly(free, spaced)
            stays = stays | into
        into = None if into is None else images.join(into)
        return Decision(images.join(stays), into, scores, images.join(total))
