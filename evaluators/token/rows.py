"""Cosine similarities of tokens, of which on a CPU only the rows that are asked for are computed."""

import torch
import torch.nn.functional as F

BLOCK = 64  # rows at a time
LIMIT = 2**28  # numbers in a matrix that is made whole


def whole_pays(device: torch.device, numbers: int) -> bool:
    """Whether to make the whole matrix of so many numbers: a GPU does it in less time than it takes to ask it which
    rows are missing."""
    return device.type != "cpu" and numbers <= LIMIT


class CosineRows:
    """The matrix of cosine similarities ``(batch, tokens, tokens)`` of `tokens` ``(batch, tokens, dim)``, row by row.

    A greedy choice reads the rows of what it takes. One row at a time would read all tokens for each of them; so with a
    row that is missing those of `BLOCK` tokens that are likely to be next are computed. Where `whole_pays`, all are.

    Args:
        weight: ``(batch, tokens)``; each similarity is multiplied by those of both tokens.
        apart: whether rows are of cosine distances instead, of a token from itself minus infinity.
    """

    def __init__(self, tokens: torch.Tensor, weight: torch.Tensor | None = None, apart: bool = False) -> None:
        self.unit = F.normalize(tokens.float(), dim=-1)
        if weight is not None:
            self.unit = self.unit * weight[..., None]
        self.apart = apart
        batch, self.count, _ = tokens.shape
        self.each = torch.arange(batch, device=tokens.device)
        self.slot = torch.full((batch, self.count), -1, device=tokens.device)  # which computed row is a token's
        self.blocks: list[torch.Tensor] = []
        self.whole: torch.Tensor | None = None
        if whole_pays(tokens.device, batch * self.count**2):
            self.whole = self.between(self.unit, torch.arange(self.count, device=tokens.device).expand(batch, -1))

    def between(self, unit: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """The rows of the tokens at `index` ``(batch, rows)``, which are `unit`; under autocast, too, of float32."""
        with torch.autocast(unit.device.type, enabled=False):
            similarity = unit @ self.unit.transpose(1, 2)
        return (1 - similarity).scatter_(2, index[..., None], -torch.inf) if self.apart else similarity

    @property
    def known(self) -> torch.Tensor:
        """Whose rows are computed, ``(batch, tokens)`` bool."""
        return self.slot >= 0

    def compute(self, likely: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Computes the rows of the tokens with the largest `likely` ``(batch, tokens)`` of those not known.

        Returns:
            Which these are ``(batch, rows)``, and their rows ``(batch, rows, tokens)``.
        """
        size = min(BLOCK, self.count)
        index = likely.masked_fill(self.known, -torch.inf).topk(size, dim=1).indices
        rows = self.between(self.unit.gather(1, index[..., None].expand(-1, -1, self.unit.shape[-1])), index)
        place = len(self.blocks) * BLOCK + torch.arange(size, device=index.device)
        self.slot.scatter_(1, index, place.expand_as(index))
        self.blocks.append(rows)
        return index, rows

    def of(self, taken: torch.Tensor, likely: torch.Tensor) -> torch.Tensor:
        """The rows of `taken` ``(batch,)``, one of each row of the batch: ``(batch, tokens)``.

        Args:
            likely: ``(batch, tokens)``, the larger the sooner a token may be asked for; largest at `taken`.
        """
        if self.whole is not None:
            return self.whole.gather(1, taken[:, None, None].expand(-1, 1, self.count))[:, 0]
        slot = self.slot[self.each, taken]
        if bool((slot < 0).any()):
            self.compute(likely)
            slot = self.slot[self.each, taken]
        block, row = slot // BLOCK, slot % BLOCK
        if bool((block == block[0]).all()):
            return self.blocks[int(block[0])][self.each, row]
        return torch.stack([self.blocks[int(b)][i, r] for i, (b, r) in enumerate(zip(block, row, strict=True))])
