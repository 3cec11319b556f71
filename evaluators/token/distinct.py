"""Tokens of videos that stand out from their frame and from the whole."""

import torch
import torch.nn.functional as F

from .base import TokenContext, TokenEvaluator

WIDTHS = (0.125, 0.25, 0.5, 1.0, 2.0)  # of the Gaussians
TEMPERATURE = 0.01


def commonness(tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How alike tokens of a video are to its mean and to their frame's (VidCom2, arXiv 2505.14454).

    On the half of the channels that varies least, normalised: sums of Gaussians of the squared distance.

    Args:
        tokens: ``(frames, tokens, dim)``.

    Returns:
        To the video and to the frame, both ``(frames, tokens)`` float32.
    """
    variance = tokens.float().flatten(0, 1).var(0, correction=0)
    quiet = variance.topk(int(len(variance) * 0.5), largest=False).indices
    unit = F.normalize(tokens.float()[..., quiet], dim=-1)

    def alike(centre: torch.Tensor) -> torch.Tensor:
        distance = (unit - centre).square().sum(-1)
        return torch.stack([(-distance / (2 * width)).exp() for width in WIDTHS]).sum(0)

    return alike(unit.mean((0, 1))), alike(unit.mean(1, keepdim=True))


class VideoDistinctness(TokenEvaluator):
    """How soon a token is taken where each frame keeps more the more it stands out, and of it the least common tokens
    (VidCom2, arXiv 2505.14454).

    A frame's budget is ``share · tokens · (1 + p - mean p)``, at most all and at least 1, where ``p`` is a softmax over
    frames of how little their tokens resemble the video. Its tokens are ordered from the least `commonness`; the score
    is ``1 / (1 + q)``, where ``q`` is a token's place in that order as a share of the budget: those within it are above
    1/2. What is in no frame is above all. An image is a video of one frame.
    """

    name = "distinctness"

    def __call__(self, candidates: torch.Tensor, context: TokenContext) -> torch.Tensor:
        frames, tokens = context.need("frames", self.name)(), context.need("embeddings", self.name)().tokens
        present = torch.zeros_like(frames.frame).scatter_add(1, context.ordinal, context.valid.long()) > 0
        scores = torch.zeros(frames.frame.shape, device=tokens.device)
        for row, keep in enumerate(context.keep.tolist()):
            for image, wanted in enumerate(keep):
                own = (frames.image[row] == image).nonzero()[:, 0][: None if wanted else 0]
                if not len(own):
                    continue
                count, size = int(frames.length[row, own[0]]), int(frames.size[row, own[0]])
                inside, after = own[: count * size], own[count * size :]
                scores[row, after] = 3.0
                share = max(wanted - len(after), 1) / len(inside)
                here = present[row, inside].view(count, size)
                scores[row, inside] = self.of(tokens[row, inside].view(count, size, -1), here, share).flatten()
        return scores.gather(1, context.ordinal)

    @staticmethod
    def of(tokens: torch.Tensor, here: torch.Tensor, share: float) -> torch.Tensor:
        """Scores of a video.

        Args:
            tokens: ``(frames, tokens, dim)``.
            here: ``(frames, tokens)``, those that are left.
            share: of the tokens that stay.

        Returns:
            ``(frames, tokens)``.
        """
        video, frame = commonness(tokens)
        chance = (-video.mean(-1) / TEMPERATURE).softmax(0)
        budget = (share * (1 + chance - chance.mean())).clamp(max=1.0) * tokens.shape[1]
        order = (video + frame).masked_fill(~here, torch.inf).argsort(dim=1, stable=True).argsort(dim=1)
        score = 1 / (1 + (order + 0.5) / budget[:, None])
        return torch.where(order == 0, 2.0, score)
