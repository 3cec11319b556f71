"""Visual-token pruning for stock transformers vision-language models."""

from collections.abc import Mapping
from typing import Any
from weakref import WeakSet

from torch import nn

from guidance.tokens.presets import TOKEN_PRESETS
from guidance.tokens.pruning import TokenPruning, check_keep

from .columns import MergedColumnReader
from .decoder import DecoderPruner
from .encoder import ENCODERS, EncoderPruner
from .hosts import find_host
from .modules import VisionLanguageModel
from .prompt import PromptReader
from .reader import EncoderReader, LayerReader
from .run import PruningTrace

ENCODER_KINDS = ("clip", "clip_vision_model", "siglip", "siglip_vision_model", "vit")
POSITIONS = ("original", "renumbered")
_PRUNED: WeakSet[nn.Module] = WeakSet()


def prune(
    model: nn.Module,
    method: str | TokenPruning = "transprune",
    keep: Mapping[int, float | int] | float | int | None = None,
    positions: str = "original",
) -> "Pruner":
    """Prunes visual tokens in every forward of `model`, from now on or in a ``with`` block: they leave the sequence, so
    prefill FLOPs, KV cache and time all drop. A vision encoder on its own can be pruned too.

    Example::

        with prune(model, "transprune") as pruner:
            model.generate(**inputs)
        print(pruner.last.kept)

    Any batch size, left or right padding, several images, rows of text only, with or without KV cache (a
    ``DynamicCache``), beam search, a cache reused over turns, any attention implementation ("sdpa" or "eager" where
    windows, chunks or images read in both directions make a mask of their own). Rows that keep fewer tokens are padded
    and masked. ``last_hidden_state`` and logits keep the length of the input: at dropped tokens the state is zero. A
    cache made while pruning can be continued only while pruning. Layers spread over several devices are not supported.

    Methods that read the text see the prompt alone: inside `generate` what it was given, not what it writes or drafts;
    in training what comes before the first label that counts. Where an answer is part of the input without `labels`,
    say what is asked by ``model(..., instruction_mask=mask)`` ``(batch, tokens)``. A row's last token always stays, and
    so does every token whose next label counts. Which tokens are visual where images are already merged into
    ``inputs_embeds`` is said by ``mm_token_type_ids`` ``(batch, tokens)``: 1 at images, 2 at videos, 0 at text.

    Threads may share a pruned model. It cannot be copied or pickled.

    Args:
        model: a vision-language model whose decoder is like Llama's and has the images in its sequence (LLaVA, Qwen-VL,
            InternVL, Idefics3, …), with its head or without, see `find_host`; or CLIP, SigLIP or ViT, see
            `EncoderPruner`.
        method: a name in `TOKEN_PRESETS` or a `TokenPruning`.
        keep: replaces the method's schedule: layers run to share or count, see `TokenPruning`; or one share or count
            for its last stage, where earlier stages keep no smaller share.
        positions: "original", every token keeps its position, or "renumbered", positions are made contiguous after each
            pruning (TransPrune, arXiv 2507.20630); the latter is not for Qwen-VL, models with sliding windows, nor
            vision encoders.

    Returns:
        The `Pruner`, in force: its `disable`, or the end of a ``with`` block of it, leaves the model as it was.

    Raises:
        ValueError: `model` has no visual tokens or is not supported; `method` is unknown or reads what `model` does not
            have; a share outside (0, 1]; a layer outside the model; `model` is already pruned; from the model's forward
            or `generate`, a cache or mask of another kind, a prompt in chunks, embeddings that do not show what is
            visual.
        TypeError: `model` is no module; `method` is neither a name nor a `TokenPruning`.
    """
    kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    if positions not in POSITIONS:
        raise ValueError(f"`positions` must be one of {POSITIONS}, got {positions!r}.")
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch module, got {type(model).__name__}.")
    encoder: Any = next((m for m in model.modules() if type(m).__name__ in ENCODERS), None)
    if encoder is not None and kind in ENCODER_KINDS:
        if positions != "original":
            raise ValueError("`positions` must be 'original' for a vision encoder.")
        depth = encoder.config.num_hidden_layers
        return Pruner(encoder, EncoderPruner(encoder, _method(method, keep, depth))).enable()
    host, language_model = find_host(model, kind)
    pruning = _method(method, keep, len(language_model.layers))
    if getattr(pruning.select, "sized", False):
        raise ValueError(f"`method` merges inside the layers of a vision encoder, and `model` {kind} is none.")
    prompts, reader = PromptReader(model, host, language_model), _reader(host, pruning)
    hooks = DecoderPruner(host, language_model, prompts, pruning, positions == "renumbered", reader)
    return Pruner(host, hooks).enable()


def _reader(host: VisionLanguageModel, pruning: TokenPruning) -> EncoderReader | None:
    """What reads the vision encoder of `host` for evaluators that need it."""
    reads = {read for e in pruning.evaluators.values() if (read := getattr(e, "reads_encoder", None))}
    if len(reads) > 1:
        raise ValueError("`method` has an evaluator that reads the class token and one that reads all patches.")
    if reads == {"columns"} and host.config.model_type not in ("llava", "llava_next"):
        return MergedColumnReader(host)
    return LayerReader(host, reads == {"columns"}) if reads else None


def _method(method: str | TokenPruning, keep: Any, depth: int) -> TokenPruning:
    if isinstance(method, str):
        if method not in TOKEN_PRESETS:
            raise ValueError(f"`method` must be one of {', '.join(TOKEN_PRESETS)}, got {method!r}.")
        method = TOKEN_PRESETS[method](depth)
    if not isinstance(method, TokenPruning):
        raise TypeError(f"`method` must be a name or a TokenPruning, got {type(method).__name__}.")
    if keep is None:
        return method
    if not isinstance(keep, Mapping):
        check_keep({0: keep})
        *earlier, last = method.keep
        lifted = {n: max(method.keep[n], keep) if isinstance(keep, float) else method.keep[n] for n in earlier}
        return method.with_keep(lifted | {last: keep}, keep if isinstance(keep, int) else None)
    return method.with_keep(keep)


class Pruner:
    """Pruning of one model, on or off.

    Attributes:
        pruning: what is dropped.
        last: `PruningTrace` of the last forward with visual tokens, `None` before the first; of the thread that asks,
            if it ran one.
    """

    def __init__(self, model: nn.Module, hooks: DecoderPruner | EncoderPruner) -> None:
        self.model, self.hooks = model, hooks
        self.pruning = hooks.pruning
        self.enabled = False

    @property
    def last(self) -> PruningTrace | None:
        return self.hooks.traces.last

    def enable(self) -> "Pruner":
        """Puts it in force, where it is not. Raises ValueError where another is."""
        if self.enabled:
            return self
        if self.model in _PRUNED:
            raise ValueError("`model` is already pruned: disable that first, for prunings cannot be nested.")
        _PRUNED.add(self.model)
        self.hooks.attach()
        self.enabled = True
        return self

    def disable(self) -> None:
        """Leaves the model as it was. Does nothing where pruning is off."""
        if self.enabled:
            self.hooks.detach()
            _PRUNED.discard(self.model)
            self.enabled = False

    def __enter__(self) -> "Pruner":
        return self.enable()

    def __exit__(self, *exception: Any) -> None:
        self.disable()
