"""How well does the picture match the prompt, as any CLIP or SigLIP of open_clip has it?"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .base import Encodings, PixelEvaluator, centre_crop, normalise, resize
from .checkpoint import HUB_ID, loading


class OpenCLIPTower(nn.Module):
    """A model of open_clip with its own tokenizer and preprocessing. Judges may share one, which then looks only once
    at pictures that they see in turn.

    Args:
        model: as `open_clip.create_model` makes it.
        tokenizer: texts to ids ``(n, length)``.
    """

    def __init__(self, model: Any, tokenizer: Callable[[list[str]], torch.Tensor]) -> None:
        from open_clip import get_model_preprocess_cfg

        super().__init__()
        self.model, self.tokenizer = model.eval(), tokenizer
        self.preprocessing: dict[str, Any] = get_model_preprocess_cfg(model)
        size = self.preprocessing["size"]
        self.size: tuple[int, int] = (size, size) if isinstance(size, int) else tuple(size)
        self._encodings = Encodings()
        self._seen: tuple[torch.Tensor, dict[tuple, torch.Tensor]] = torch.empty(0), {}

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        name: str = "open_clip",
        weights: str | Path | None = None,
        dtype: torch.dtype = torch.float32,
        **preprocessing: Any,
    ) -> "OpenCLIPTower":
        """From ``MODEL/TAG`` (``ViT-B-32/openai``), a hub id with ``hf-hub:`` before it or not, or a folder that holds
        ``open_clip_config.json`` with ``local-dir:`` before it or not.

        Args:
            name: of the evaluator that errors should name.
            weights: the file of a ``MODEL`` that has no tag.
            preprocessing: what differs from the model's own, as `resize_mode`.

        Raises:
            ValueError, OSError: it cannot be loaded.
        """
        import open_clip

        with loading(name, source):
            model, options = resolve(str(source))
            if weights is not None:
                options = {"pretrained": str(weights)}
            made = open_clip.create_model(
                model, **options, force_preprocess_cfg=preprocessing, require_pretrained=True, weights_only=True
            )
            return cls(made.to(dtype), open_clip.get_tokenizer(model))

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def width(self) -> int:
        """Of its embeddings."""
        return self.encode_text([""]).shape[-1]

    def preprocess(self, images: torch.Tensor) -> torch.Tensor:
        """Pictures ``(n, 3, H, W)`` in [0, 1] as the model takes them."""
        chosen, images = self.preprocessing, images.float()
        mode, how, fill = chosen["interpolation"], chosen["resize_mode"], chosen["fill_color"] / 255
        if mode == "random":  # of training
            mode = "bicubic"
        height, width = images.shape[-2:]
        ratios = height / self.size[0], width / self.size[1]
        if how == "squash":
            images = resize(images, self.size, mode)
        elif how == "longest":
            images = resize(images, (round(height / max(ratios)), round(width / max(ratios))), mode)
        elif self.size[0] == self.size[1]:
            images = resize(images, self.size[0], mode)
        else:
            images = resize(images, (round(height / min(ratios)), round(width / min(ratios))))
        return normalise(centre_crop(images, self.size, fill), chosen["mean"], chosen["std"]).to(self.dtype)

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """Unit vectors ``(n, dim)``. Without gradients, those of the last tensor of pictures, or of views on it, are
        remembered until another comes."""
        if torch.is_grad_enabled() or images.is_inference():
            return self.embed(images)
        kept, seen = self._seen
        if kept.untyped_storage().data_ptr() != images.untyped_storage().data_ptr():
            kept, seen = self._seen = images, {}  # the pictures stay alive, so that no others can lie where they do
        where = images.storage_offset(), images.shape, images.stride(), images.dtype, images._version
        key = (*where, self.device, self.dtype)
        if key not in seen:
            seen[key] = self.embed(images)
        return seen[key]

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        return self.model.encode_image(self.preprocess(images), normalize=True)

    def encode_text(self, prompts: list[str]) -> torch.Tensor:
        """Unit vectors ``(n, dim)``, without gradients."""

        def encode(texts: list[str]) -> torch.Tensor:
            return self.model.encode_text(self.tokenizer(texts).to(self.device), normalize=True)

        return torch.stack(self._encodings(encode, prompts, self.device, self.dtype))

    def cosine(self, images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        """``(n,)`` of each picture and its prompt, in [-1, 1]."""
        return (self.encode_image(images).float() * self.encode_text(prompts).float()).sum(-1)


def resolve(source: str) -> tuple[str, dict[str, Any]]:
    """What open_clip calls a source, and the arguments that go with it.

    Raises:
        ValueError: there is nothing of that name.
    """
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    if Path(source).expanduser().is_dir():
        return f"local-dir:{Path(source).expanduser()}", {}
    if source.startswith(("local-dir:", "hf-hub:")) or source in open_clip.list_models():
        return source, {}
    model, _, tag = source.rpartition("/")
    model = model.replace("/", "-")  # ViT-B/32
    if model not in open_clip.list_models():
        if not HUB_ID.fullmatch(source):
            raise ValueError("that is no MODEL/TAG of open_clip, folder or hub id.")
        return f"hf-hub:{source}", {}
    if not (published := get_pretrained_cfg(model, tag)):
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model))
        raise ValueError(f"{model} has no weights {tag!r}; there are {tags}.")
    return model, {"pretrained": tag, "force_quick_gelu": published.get("quick_gelu", False)}


class OpenCLIPScore(PixelEvaluator):
    r"""The scaled cosine of picture and prompt, of any CLIP, SigLIP or CoCa that open_clip knows (CLIP, arXiv
    2103.00020, its figure 3; SigLIP's constant bias is left out, for it is the same for all).

    .. math:: \exp(\text{logit scale}) \cdot \cos(\text{picture}, \text{prompt})

    Within ± the scale, 100 for OpenAI's models. Preprocessing, size and tokenizer are the model's own; for ViT-B-32:
    shorter side to 224 bicubic, centre crop, OpenAI's mean and deviation. Licence of the weights: MIT for OpenAI's
    (default) and LAION's, Apache-2.0 for Google's SigLIP; of others see their cards.
    """

    name = "open_clip"
    shares_tower = True
    DEFAULT_ID = "ViT-B-32/openai"

    def __init__(self, tower: OpenCLIPTower) -> None:
        super().__init__()
        self.tower = tower
        self.resolution = min(tower.size)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path = DEFAULT_ID,
        load_tower: Callable[..., OpenCLIPTower] = OpenCLIPTower.from_pretrained,
        **kwargs: Any,
    ) -> "OpenCLIPScore":
        """From what `OpenCLIPTower.from_pretrained` takes, with these `kwargs`; `load_tower` in its place may share
        towers.

        Raises:
            ValueError, OSError: it cannot be loaded.
        """
        return cls(load_tower(source, **kwargs))

    def judge(self, images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        return self.tower.model.logit_scale.float().exp() * self.tower.cosine(images, prompts)
