"""How would people rate the picture for the prompt, as ImageReward learned it from their rankings?"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .aesthetic import mlp
from .base import Encodings, PixelEvaluator, centre_crop, normalise, resize
from .checkpoint import fill, loading, locate, read

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
# BLIP's names of the vision tower's weights, and transformers'.
NAMES = (
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^norm\.", "post_layernorm."),
    (r"^blocks\.", "encoder.layers."),
    (r"\.attn\.proj\.", ".self_attn.projection."),
    (r"\.attn\.", ".self_attn."),
    (r"\.norm(\d)\.", r".layer_norm\1."),
)
# What of med_config.json transformers wants to know.
TEXT_CONFIG = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act"),
    *("max_position_embeddings", "layer_norm_eps", "pad_token_id"),
)
HEAD_DIM = 64  # of BLIP's vision towers, base and large


class ImageReward(PixelEvaluator):
    r"""ImageReward (arXiv 2304.05977): BLIP-large reads the prompt with cross attention on the picture, and a network
    768-1024-128-64-16-1 of linear layers turns its first state into a reward, standardised over the training pictures.

    .. math:: \frac{\text{MLP}(\text{BLIP}(\text{picture}, \text{prompt})_0) - 0.1672}{1.0333}

    Unbounded, in practice -2 to 2. Trained on 137 thousand comparisons. Preprocessing: shorter side to 224 bicubic,
    centre crop, OpenAI's mean and deviation; the prompt's first 35 tokens. Weights: ``ImageReward.pt`` and
    ``med_config.json`` of ``THUDM/ImageReward`` on the hub, Apache-2.0.

    Args:
        vision, text: a transformers ``BlipVisionModel``, and a ``BlipTextModel`` with cross attention on it.
        head: ``(n, dim)`` to ``(n, 1)``.
        tokenizer: BERT's, with BLIP's two tokens.
    """

    name = "image_reward"
    DEFAULT_ID = "THUDM/ImageReward"
    TOKENIZER_ID = "google-bert/bert-base-uncased"
    REWARD_MEAN, REWARD_STD = 0.16717362830052426, 1.0333394966054072  # of the rewards of the training pictures
    LENGTH = 35

    def __init__(self, vision: Any, text: Any, head: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        self.vision, self.text, self.head, self.tokenizer = vision.eval(), text.eval(), head.eval(), tokenizer
        self.resolution = vision.config.image_size
        self._ids = Encodings()

    @classmethod
    def from_pretrained(
        cls, source: str | Path = DEFAULT_ID, tokenizer: str | Path | None = None, dtype: torch.dtype = torch.float32
    ) -> "ImageReward":
        """From a folder or hub id.

        Args:
            tokenizer: folder or hub id of BERT's; by default `source`, if it is a folder that holds one, else
                `TOKENIZER_ID`.

        Raises:
            ValueError, OSError: it cannot be loaded.
        """
        with loading(cls.name, source):
            text_config = json.loads(locate(source, "med_config.json").read_text())
            state = read(locate(source, "ImageReward.safetensors", "ImageReward.pt"))
            vision, text, head = build(state, text_config)
        files = ("tokenizer.json", "vocab.txt")
        own = any((Path(source).expanduser() / file).is_file() for file in files)
        tokenizer = tokenizer or (source if own else cls.TOKENIZER_ID)
        with loading(cls.name, tokenizer):
            return cls(vision.to(dtype), text.to(dtype), head.to(dtype), load_tokenizer(tokenizer))

    def preprocess(self, images: torch.Tensor) -> torch.Tensor:
        """Pictures ``(n, 3, H, W)`` in [0, 1] as the model takes them."""
        return normalise(centre_crop(resize(images.float(), self.resolution), self.resolution), MEAN, STD)

    def tokens(self, texts: list[str]) -> torch.Tensor:
        """Ids and mask ``(texts, 2, length)``."""
        options = {"padding": "max_length", "truncation": True, "max_length": self.LENGTH, "return_tensors": "pt"}
        read = self.tokenizer(texts, **options)
        return torch.stack([read.input_ids, read.attention_mask], 1).to(self.device)

    def judge(self, images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        ids, mask = torch.stack(self._ids(self.tokens, prompts, self.device)).unbind(1)
        seen = self.vision(self.preprocess(images).to(self.dtype)).last_hidden_state
        read = self.text(ids, attention_mask=mask, encoder_hidden_states=seen).last_hidden_state[:, 0]
        return (self.head(read)[:, 0].float() - self.REWARD_MEAN) / self.REWARD_STD


def build(state: Mapping[str, torch.Tensor], text_config: Mapping[str, Any]) -> tuple[Any, Any, nn.Module]:
    """Vision tower, text tower and head from the weights under their published names; the vision tower's shape is that
    of its weights.

    Raises:
        ValueError: they are not of an ImageReward.
    """
    from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

    def under(prefix: str) -> dict[str, torch.Tensor]:
        return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}

    seen, read = under("blip.visual_encoder."), under("blip.text_encoder.")
    read.pop("embeddings.position_ids", None)
    if not {"patch_embed.proj.weight", "pos_embed", "blocks.0.mlp.fc1.weight"} <= seen.keys():
        raise ValueError("it holds no weights of a BLIP.")
    width, _, patch, _ = seen["patch_embed.proj.weight"].shape
    side = round((seen["pos_embed"].shape[1] - 1) ** 0.5)
    vision = BlipVisionModel(
        BlipVisionConfig(
            hidden_size=width,
            intermediate_size=len(seen["blocks.0.mlp.fc1.weight"]),
            num_hidden_layers=len({key.split(".")[1] for key in seen if key.startswith("blocks.")}),
            num_attention_heads=max(1, width // HEAD_DIM),
            image_size=side * patch,
            patch_size=patch,
            layer_norm_eps=1e-6,
        )
    )
    shape = {key: text_config[key] for key in TEXT_CONFIG}
    text = BlipTextModel(BlipTextConfig(**shape, encoder_hidden_size=width, is_decoder=True), add_pooling_layer=False)
    head = mlp(text_config["hidden_size"])
    for old, new in NAMES:
        seen = {re.sub(old, new, key): value for key, value in seen.items()}
    fill(vision, seen)
    fill(text, read)
    fill(head, under("mlp.layers."))
    return vision, text, head


def load_tokenizer(source: str | Path) -> Any:
    """BERT's from a folder or hub id, with the tokens that BLIP adds."""
    from transformers import BertTokenizer

    tokenizer = BertTokenizer.from_pretrained(source)
    tokenizer.add_tokens(["[DEC]", "[ENC]"], special_tokens=True)
    return tokenizer
