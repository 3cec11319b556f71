"""Which picture would people choose for the prompt, as PickScore learned it from their choices?"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from .base import Encodings, PixelEvaluator, centre_crop, normalise, resize
from .checkpoint import loaded_whole, loading

MODES = {2: "bilinear", 3: "bicubic"}  # of PIL


class PickScore(PixelEvaluator):
    r"""PickScore (arXiv 2305.01569, its equation 1): a CLIP ViT-H/14 fine-tuned on 584 thousand choices of Pick-a-Pic.

    .. math:: \exp(\text{logit scale}) \cdot \cos(\text{picture}, \text{prompt})

    Within ±100, in practice 15 to 25; a difference d of two pictures means that the better one is chosen with
    probability ``sigmoid(d)``. Preprocessing: shorter side to 224 bicubic, centre crop, OpenAI's mean and deviation, as
    the processor's files say. Weights: ``yuvalkirstain/PickScore_v1`` on the hub; the code is MIT, and so is the CLIP
    from which they were trained.

    Args:
        model: a transformers ``CLIPModel``.
        processor: a transformers ``CLIPProcessor``.
    """

    name = "pickscore"
    DEFAULT_ID = "yuvalkirstain/PickScore_v1"
    PROCESSOR_ID = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__()
        self.model, self.processor = model.eval(), processor
        crop = processor.image_processor.crop_size
        self.size = crop["height"], crop["width"]
        self.resolution = min(self.size)
        self._encodings = Encodings()

    @classmethod
    def from_pretrained(
        cls, source: str | Path = DEFAULT_ID, processor: str | Path | None = None, dtype: torch.dtype = torch.float32
    ) -> "PickScore":
        """From a folder or hub id.

        Args:
            processor: folder or hub id; by default `source`, if it is a folder that holds one, else `PROCESSOR_ID`.

        Raises:
            ValueError, OSError: it cannot be loaded.
        """
        from transformers import AutoConfig, CLIPModel, CLIPProcessor

        files = ("processor_config.json", "preprocessor_config.json")
        own = any((Path(source).expanduser() / file).is_file() for file in files)
        with loading(cls.name, source):
            if (kind := AutoConfig.from_pretrained(source).model_type) != "clip":
                raise ValueError(f"it holds a model of type {kind!r}, no CLIP.")
            model: Any = CLIPModel.from_pretrained(source, dtype=dtype, output_loading_info=True)
            model, report = model
            loaded_whole(report)
        processor = processor or (source if own else cls.PROCESSOR_ID)
        with loading(cls.name, processor):
            return cls(model, CLIPProcessor.from_pretrained(processor))

    def preprocess(self, images: torch.Tensor) -> torch.Tensor:
        """Pictures ``(n, 3, H, W)`` in [0, 1] as the model takes them."""
        said = self.processor.image_processor
        shorter = said.size.get("shortest_edge")
        size = shorter or (said.size["height"], said.size["width"])
        images = centre_crop(resize(images.float(), size, MODES[int(said.resample)]), self.size)
        return normalise(images, said.image_mean, said.image_std).to(self.dtype)

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """Unit vectors ``(n, dim)``."""
        return unit(self.model.get_image_features(pixel_values=self.preprocess(images)))

    def encode_text(self, prompts: list[str]) -> torch.Tensor:
        """Unit vectors ``(n, dim)``, without gradients."""

        def encode(texts: list[str]) -> torch.Tensor:
            longest = self.model.config.text_config.max_position_embeddings
            options = {"padding": True, "truncation": True, "max_length": longest, "return_tensors": "pt"}
            return unit(self.model.get_text_features(**self.processor.tokenizer(texts, **options).to(self.device)))

        return torch.stack(self._encodings(encode, prompts, self.device, self.dtype))

    def judge(self, images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        cosine = (self.encode_image(images) * self.encode_text(prompts)).sum(-1)
        return self.model.logit_scale.float().exp() * cosine


def unit(features: Any) -> torch.Tensor:
    """What transformers returns, of length 1 in float32; an object since version 5."""
    return F.normalize(getattr(features, "pooler_output", features).float(), dim=-1)
