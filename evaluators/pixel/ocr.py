"""Can the text that the prompt quotes be read in the picture?"""

import difflib
import re
from typing import Any

import torch

from .base import PixelEvaluator, resize

# In straight or curly quotation marks; an apostrophe within a word is none.
QUOTED = re.compile(r"\"([^\"]+)\"|“([^”]+)”|(?<!\w)'([^']+)'(?!\w)|‘([^’]+)’(?!\w)")


def quoted_texts(prompt: str) -> list[str]:
    """What `prompt` quotes, in order."""
    return [next(filter(None, found.groups())).strip() for found in QUOTED.finditer(prompt)]


def plain(text: str) -> str:
    """Letters and digits alone, in one case: reading tells neither case nor spaces apart."""
    return "".join(c for c in text.casefold() if c.isalnum())


class OCRScore(PixelEvaluator):
    r"""How much of the quoted text is read, in [0, 1]: the mean over quoted texts of the best match among all runs of
    lines that are read, ``2 · matching / (wanted + read)`` (Ratcliff–Obershelp). Silent, with 0 for every picture,
    where the prompt quotes nothing.

    `rapidocr` carries its models (PP-OCR, Apache-2.0) in its wheel, so nothing is downloaded: extra ``[ocr]``.

    Args:
        texts: what of a prompt should be read; `quoted_texts` by default.
        least: pictures are enlarged to a shorter side of so many pixels: the detector misses small letters.
    """

    name = "ocr"
    resolution = 512
    every, start = 5, 0.3

    def __init__(self, texts: Any = quoted_texts, least: int = 256) -> None:
        super().__init__()
        try:
            from rapidocr import RapidOCR
        except ImportError as error:
            raise ValueError("`ocr` needs the extra of this name: pip install 'online-guidance[ocr]'.") from error
        self.texts, self.least = texts, least
        self.reader = RapidOCR(params={"Global.log_level": "critical"})

    @classmethod
    def from_pretrained(cls, folder: None = None) -> "OCRScore":
        """Its models come with `rapidocr`."""
        if folder is not None:
            raise ValueError(f"`ocr` takes no folder, its models come with rapidocr, got {str(folder)!r}.")
        return cls()

    def speaks_of(self, prompt: str) -> bool:
        """Whether it quotes a text."""
        return bool(self.texts(prompt))

    def judge(self, images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        wanted = [[plain(text) for text in self.texts(prompt)] for prompt in prompts]
        scores = [self.match(image, texts) if texts else 0.0 for image, texts in zip(images, wanted, strict=True)]
        return torch.tensor(scores, device=images.device)

    def match(self, image: torch.Tensor, texts: list[str]) -> float:
        """The score of one picture ``(3, H, W)``."""
        if min(image.shape[-2:]) < self.least:
            image = resize(image[None], self.least)[0]
        picture = (image * 255).round().byte().permute(1, 2, 0).cpu().numpy()[..., ::-1]  # it takes BGR
        read = getattr(self.reader(picture), "txts", None)
        lines = [plain(line) for line in read or ()]
        runs = ["".join(lines[i:j]) for i in range(len(lines)) for j in range(i + 1, len(lines) + 1)]
        best = [max((similarity(text, run) for run in runs), default=0.0) for text in texts]
        return sum(best) / len(best)


def similarity(wanted: str, read: str) -> float:
    """In [0, 1], 1 for the same."""
    return difflib.SequenceMatcher(None, wanted, read, autojunk=False).ratio()
