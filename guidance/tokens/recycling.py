"""Some of what is dropped comes back as a few means of what is alike in it."""

import torch


def density_peaks(tokens: torch.Tensor, count: int) -> torch.Tensor:
    """Density peak clustering with the nearest neighbours of each token (as SparseVLM has it, arXiv 2410.04417).

    A token is dense whose `count` nearest (itself among them) are near; centres are those of the largest density times
    distance from the nearest denser one; each token goes to the nearest centre. Of equals, the earlier is denser.

    Args:
        tokens: ``(n, dim)``.
        count: of clusters, at most n.

    Returns:
        The centre of each, ``(n,)``; a centre's is itself.
    """
    tokens = tokens.float()
    distance = torch.cdist(tokens, tokens, compute_mode="donot_use_mm_for_euclid_dist") / tokens.shape[-1] ** 0.5
    density = distance.topk(count, largest=False).values.square().mean(-1).neg().exp()
    rank = density.argsort(descending=True, stable=True).argsort()
    denser = rank[None] < rank[:, None]
    alone = torch.where(denser, distance, distance.amax()).amin(-1)
    centres = (alone * density).topk(count).indices
    nearest = centres[distance[:, centres].argmin(-1)]
    nearest[centres] = centres
    return nearest


class Recycling:
    """The best tokens stay, and of the others the better ones are clustered: each cluster's centre stays, too, as their
    mean (SparseVLM, arXiv 2410.04417).

    `share` of what is dropped and one more is recycled, into a tenth as many clusters and one more. `keep` is the best
    and the centres together, so that the authors' 300 best of 576 tokens are `keep` 309. Where fewer are to stay than
    there would be clusters, nothing is recycled.

    Args:
        share: of what is dropped; the authors have 0.3.
    """

    def __init__(self, share: float = 0.3) -> None:
        if not 0 <= share < 1:
            raise ValueError(f"`share` must be in [0, 1), got {share!r}.")
        self.share = share

    def recycled(self, dropped: int) -> tuple[int, int]:
        """How many tokens, and in how many clusters."""
        tokens = min(int(dropped * self.share) + 1, dropped)
        return tokens, tokens // 10 + 1

    def best(self, present: int, keep: int) -> int:
        """How many stay for themselves."""
        if keep < present:
            for best in range(keep - 1, -1, -1):
                if best + self.recycled(present - best)[1] == keep:
                    return best
        return keep

    def __call__(
        self, tokens: torch.Tensor, scores: torch.Tensor, valid: torch.Tensor, keep: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        target = torch.arange(tokens.shape[1], device=tokens.device).repeat(len(tokens), 1)
        stays = torch.zeros_like(valid)
        order = scores.masked_fill(~valid, -torch.inf).argsort(dim=1, descending=True, stable=True)
        for row, (present, wanted) in enumerate(zip(valid.sum(1).tolist(), keep.tolist(), strict=True)):
            best = self.best(present, wanted)
            stays[row, order[row, :best]] = True
            if best < wanted:
                count, clusters = self.recycled(present - best)
                again = order[row, best : best + count].sort().values
                target[row, again] = again[density_peaks(tokens[row, again], clusters)]
                stays[row, target[row, again]] = True
        return stays, target
