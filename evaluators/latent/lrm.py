"""Which noisy latent would people choose for the prompt, as a denoiser's own features tell it?"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..base import Calibration, Context
from ..pixel.base import Encodings
from ..pixel.checkpoint import fill, loaded_whole, loading, read
from ..pixel.preview import family_of

TIMESTEPS = tuple(range(1, 1000, 50))  # that it was trained at
# A VAE's family -> the folder of the published repository whose LRM reads its latents. Its authors give the one of
# Stable Diffusion 1.5 to 2.1 as well, which has the same latents.
PUBLISHED = {(4, 0.18215, 0.0): "lrm_sd15", (4, 0.13025, 0.0): "lrm_sdxl"}
GUIDANCE_SCALE = 7.5  # of its own, between the features of the middle block with the prompt and without


class LRM(nn.Module):
    r"""The Latent Reward Model of LPO (arXiv 2502.01051, its section 4): the down and middle blocks of Stable Diffusion
    1.5 or XL read the noisy latents, and a projection of their pooled features is compared with the prompt's.

    .. math:: \exp(\text{logit scale}) \cdot \cos(W [\bar d_1, …, \bar d_n, \bar m_\emptyset + 7.5 (\bar m - \bar
        m_\emptyset)], \text{prompt})

    The bars are means over the area: of the last layer of each down block, before it halves the size, and of the middle
    block with the prompt and without. Trained on Pick-a-Pic at the timesteps 1, 51, …, 951, of which the nearest by
    noise is told to it. Latents of Stable Diffusion 1.5's VAE, or XL's. For each candidate it costs 0.33 (XL: 0.43) of
    the FLOPs of a step of that denoiser, so it is asked at every fifth. Weights: ``casiatao/LRM`` on the hub; its code
    is MIT, the licence of the weights is on its card. The layout of its folders and their names are those of the
    authors' code (``Kwai-Kolors/LPO``), the hub itself was not looked at.

    Args:
        unet: a diffusers ``UNet2DConditionModel``; its other half is dropped.
        text_encoder, text_encoder_2: as of the pipelines, the second of XL alone.
        tokenizer: CLIP's.
        state: what ``state_dict.pt`` holds.
    """

    name = "lrm"
    space = "noisy"
    needs_prompt = True
    calibration: Calibration | None = None
    every, start, stop = 5, 0.0, 1.0
    chunk = 16
    DEFAULT_ID = "casiatao/LRM"
    TOKENIZER_ID = "openai/clip-vit-large-patch14"

    def __init__(self, unet: Any, text_encoder: Any, text_encoder_2: Any, tokenizer: Any, state: Any) -> None:
        super().__init__()
        unet.up_blocks, unet.conv_norm_out, unet.conv_out = nn.ModuleList(), None, None
        self.unet, self.text_encoder, self.text_encoder_2 = unet, text_encoder, text_encoder_2
        self.tokenizer, self.in_channels = tokenizer, int(unet.config.in_channels)
        self.visual_projection = projection(state["visual_projection"])
        self.text_projection = None if text_encoder_2 is not None else projection(state["text_projection"])
        self.logit_scale = nn.Parameter(torch.as_tensor(state["logit_scale"]).float().reshape(()))
        channels = unet.config.block_out_channels
        if (found := self.visual_projection.in_features) != (wanted := sum(channels) + channels[-1]):
            raise ValueError(f"its visual projection reads {found} features, and its UNet makes {wanted}.")
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2  # of Stable Diffusion
        self.levels = (1 - (1 - betas).cumprod(0)).sqrt()[list(TIMESTEPS)].tolist()
        self._encodings = Encodings()
        self.eval()

    @classmethod
    def from_pretrained(
        cls, source: str | Path = DEFAULT_ID, tokenizer: str | Path | None = None, dtype: torch.dtype = torch.float32
    ) -> "LRM":
        """From a folder with ``unet``, ``text_encoder`` (of XL also ``text_encoder_2``) and ``state_dict.pt``, or a hub
        id, with the folder in its repository after it: ``casiatao/LRM/lrm_sdxl``, by default ``lrm_sd15``.

        Args:
            tokenizer: folder or hub id of CLIP's; by default ``tokenizer`` in that folder, else `TOKENIZER_ID`.

        Raises:
            ValueError, OSError: it cannot be loaded.
        """
        from diffusers import UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

        with loading(cls.name, source):
            folder = fetch(str(source))
            parts: dict[str, Any] = {"text_encoder_2": None}
            kinds: dict[str, Any] = {"unet": UNet2DConditionModel, "text_encoder": CLIPTextModel}
            if (folder / "text_encoder_2").is_dir():
                kinds["text_encoder_2"] = CLIPTextModelWithProjection
            for part, kind in kinds.items():
                made: Any = kind.from_pretrained(folder / part, torch_dtype=dtype, output_loading_info=True)
                parts[part], report = made
                loaded_whole(report)
            state = read(folder / "state_dict.pt")
        own = folder / "tokenizer"
        tokenizer = tokenizer or (own if own.is_dir() else cls.TOKENIZER_ID)
        with loading(cls.name, tokenizer):
            parts["tokenizer"] = CLIPTokenizer.from_pretrained(tokenizer)
        with loading(cls.name, source):
            return cls(**parts, state=state).to(dtype)

    @classmethod
    def published_for(cls, vae: Any) -> str:
        """What `from_pretrained` takes for the latents of this VAE.

        Raises:
            ValueError: none was published for them.
        """
        folder = None if vae is None else PUBLISHED.get(family_of(vae))
        if folder is None:
            raise ValueError(
                f"evaluator {cls.name!r} was published for the latents of Stable Diffusion 1, 2 and XL, and those of "
                f"this {type(vae).__name__} are others: give {cls.name}=FOLDER."
            )
        return f"{cls.DEFAULT_ID}/{folder}"

    @property
    def device(self) -> torch.device:
        return self.logit_scale.device

    @property
    def dtype(self) -> torch.dtype:
        return self.logit_scale.dtype

    def encode(self, texts: list[str]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """States ``(length, dim)`` for the UNet, and the pooled one ``(dim,)``, of each text."""
        length = self.text_encoder.config.max_position_embeddings
        options = {"padding": "max_length", "truncation": True, "max_length": length, "return_tensors": "pt"}
        read = self.tokenizer(texts, **options)
        ids = read.input_ids.to(self.device)
        if self.text_encoder_2 is None:
            told = self.text_encoder(ids)
            return list(zip(told.last_hidden_state, told.pooler_output, strict=True))
        first = self.text_encoder(ids, output_hidden_states=True).hidden_states[-2]
        ids = ids * read.attention_mask.to(self.device)  # the second tokenizer differs in its padding, 0
        told = self.text_encoder_2(ids, output_hidden_states=True)
        return list(zip(torch.cat([first, told.hidden_states[-2]], -1), told.text_embeds, strict=True))

    def features(
        self, latents: torch.Tensor, timestep: int, states: torch.Tensor, pooled: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Means over the area of the down blocks ``(n, channels)``, side by side, and of the middle one."""
        unet, added = self.unet, {}
        if self.text_encoder_2 is not None:
            side = unet.config.sample_size * 8
            times = torch.tensor([side, side, 0, 0, side, side], device=latents.device, dtype=latents.dtype)
            added = {"text_embeds": pooled, "time_ids": times.expand(len(latents), -1)}
        step = torch.full((len(latents),), timestep, device=latents.device)
        time = unet.time_embedding(unet.get_time_embed(latents, step))
        if added:
            time = time + unet.get_aug_embed(time, states, added)
        x, found = unet.conv_in(latents), []
        for block in unet.down_blocks:
            context = {"encoder_hidden_states": states} if getattr(block, "has_cross_attention", False) else {}
            x, layers = block(x, time, **context)
            found.append(layers[len(block.resnets) - 1].mean((2, 3)))
        return torch.cat(found, -1), unet.mid_block(x, time, encoder_hidden_states=states).mean((2, 3))

    def judge(self, latents: torch.Tensor, prompts: list[str], noise_level: float) -> torch.Tensor:
        """Scores ``(n,)`` of latents ``(n, C, H, W)`` of unit variance at that share of noise, each for its prompt."""
        place = min(range(len(TIMESTEPS)), key=lambda i: abs(self.levels[i] - noise_level))
        rows = self._encodings(self.encode, [*prompts, *[""] * len(prompts)], self.device, self.dtype)
        states, pooled = (torch.stack(part) for part in zip(*rows, strict=True))
        down, middle = self.features(torch.cat([latents] * 2), TIMESTEPS[place], states, pooled)
        (down, _), (middle, without) = down.chunk(2), middle.chunk(2)
        seen = self.visual_projection(torch.cat([down, without + GUIDANCE_SCALE * (middle - without)], -1))
        wanted = pooled[: len(prompts)]
        wanted = wanted if self.text_projection is None else self.text_projection(wanted)
        return self.logit_scale.float().exp() * F.cosine_similarity(seen.float(), wanted.float(), dim=-1)

    @torch.no_grad()
    def forward(self, candidates: torch.Tensor, context: Context) -> torch.Tensor:
        """Scores ``(batch, candidates)`` of latents ``(batch, candidates, C, H, W)``."""
        assert context.prompt is not None  # `needs_prompt`
        prompts = [text for text in context.prompt for _ in range(candidates.shape[1])]
        latents = candidates.flatten(0, 1).to(self.device, self.dtype)
        scores = [
            self.judge(latents[i : i + self.chunk], prompts[i : i + self.chunk], context.noise_level)
            for i in range(0, len(latents), self.chunk)
        ]
        return torch.cat(scores).to(candidates.device).view(candidates.shape[:2])


def projection(state: dict[str, torch.Tensor]) -> nn.Linear:
    """The linear layer without bias that has these weights."""
    outputs, inputs = state["weight"].shape
    layer = nn.Linear(inputs, outputs, bias=False)
    fill(layer, state)
    return layer


def fetch(source: str) -> Path:
    """The folder `source`, or that of a hub id and the folder in its repository."""
    from huggingface_hub import snapshot_download

    if (folder := Path(source).expanduser()).is_dir():
        inside = folder / "state_dict.pt"
        if not inside.is_file():
            raise FileNotFoundError("there is no state_dict.pt in it.")
        return folder
    owner, repository, *within = source.split("/")
    subfolder = "/".join(within) or "lrm_sd15"
    folder = Path(snapshot_download(f"{owner}/{repository}", allow_patterns=[f"{subfolder}/*"])) / subfolder
    if not (folder / "state_dict.pt").is_file():
        raise FileNotFoundError(f"there is no {subfolder}/state_dict.pt in it.")
    return folder
