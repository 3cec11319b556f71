"""The images of a row apart: each is scored against itself and keeps its own share."""

import torch


class Images:
    """Splits tokens of rows ``(batch, tokens)`` into one row for each image, and joins what was found of them.

    Args:
        image: ``(batch, tokens)``, of which image of its row a token is.
        valid: ``(batch, tokens)``, False where a row is padded.
        count: how many images a row has at most.

    Attributes:
        valid: ``(batch * count, most)``, False where an image has fewer tokens than the largest.
    """

    def __init__(self, image: torch.Tensor, valid: torch.Tensor, count: int) -> None:
        self.batch, self.count, self.valid = len(image), count, valid
        if count == 1:
            return
        own = valid[..., None] & (image[..., None] == torch.arange(count, device=image.device))
        rank = (own.cumsum(1) - 1).gather(2, image[..., None])[..., 0]
        sizes = own.sum(1)
        most = int(sizes.max())
        self.slot = (image * most + rank).where(valid, count * most)  # where a token goes
        place = torch.arange(image.shape[1], device=image.device).expand_as(image)
        source = image.new_zeros(self.batch, count * most + 1).scatter(1, self.slot, place)
        self.source = source[:, :-1]
        self.valid = (torch.arange(most, device=image.device) < sizes[..., None]).flatten(0, 1)

    def split(self, values: torch.Tensor) -> torch.Tensor:
        """``(batch, tokens, ...)`` to ``(batch * count, most, ...)``; zero or False where padded."""
        if self.count == 1:
            return values
        index = self.source.to(values.device).view(*self.source.shape, *[1] * (values.ndim - 2))
        split = values.gather(1, index.expand(-1, -1, *values.shape[2:])).unflatten(1, (self.count, -1)).flatten(0, 1)
        absent = ~self.valid.to(values.device)
        return split.masked_fill(absent.view(*absent.shape, *[1] * (values.ndim - 2)), 0)

    def join(self, values: torch.Tensor) -> torch.Tensor:
        """``(batch * count, most, ...)`` back to ``(batch, tokens, ...)``; zero or False where padded."""
        if self.count == 1:
            return values
        flat = values.unflatten(0, (self.batch, self.count)).flatten(1, 2)
        flat = torch.cat([flat, flat.new_zeros(self.batch, 1, *flat.shape[2:])], 1)
        slot = self.slot.to(values.device).view(*self.slot.shape, *[1] * (values.ndim - 2))
        return flat.gather(1, slot.expand(-1, -1, *values.shape[2:]))
