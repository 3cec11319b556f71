"""Published checkpoints: found in a folder or on the hub, read without running what a pickle may hold, and what is
wrong with one said in a line."""

import contextlib
import errno
import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class CheckpointError(OSError):
    """Of a checkpoint that is missing or broken, in one line."""


class FormatError(ValueError):
    """Of a checkpoint that holds something else, in one line."""


@contextlib.contextmanager
def loading(name: str, source: Any) -> Iterator[None]:
    """Says what goes wrong within in a line that names the evaluator.

    Raises:
        FormatError, CheckpointError: always one of these.
    """
    here = Path(str(source).removeprefix("local-dir:")).expanduser().exists()
    try:
        with contextlib.nullcontext() if here else asked_once():
            yield
    except (CheckpointError, FormatError):
        raise
    except Exception as error:
        told = f"evaluator {name!r} cannot be loaded from {str(source)!r}: "
        if is_offline(error):
            told = (
                f"evaluator {name!r}: {str(source)!r} is not in the cache and there is no network: download it first "
            )
            raise CheckpointError(f"{told}or give `{name}=FOLDER`.") from error
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            raise FormatError(f"{told}a pickle of more than weights could run anything, and is refused.") from error
        if is_broken(error):
            raise CheckpointError(f"{told}a file is broken or truncated, or no file of weights.") from error
        if isinstance(error, KeyError):
            raise FormatError(f"{told}there is no {error} in it.") from error
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        kind = CheckpointError if isinstance(error, OSError) else FormatError
        raise kind(told + " ".join(lines[:2])[:300]) from error


@contextlib.contextmanager
def asked_once() -> Iterator[None]:
    """Within, the hub counts as offline if it cannot be reached now. Its client would try six times, in 23 seconds, for
    each file that is not in the cache, and has no setting for that (huggingface_hub 2.4)."""
    from huggingface_hub import constants, get_session

    before = constants.HF_HUB_OFFLINE
    try:
        if not before:
            get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception:  # of whichever HTTP library the client has; an answer of any status is none
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def is_offline(error: BaseException | None) -> bool:
    """Whether it came about because the hub cannot be reached."""
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    while error is not None:
        if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled):
            return True
        error = error.__cause__ or error.__context__
    return False


def is_broken(error: Exception) -> bool:
    """Whether it tells of a file that cannot be read, as torch and safetensors put it."""
    from safetensors import SafetensorError

    if isinstance(error, OSError) and error.errno == errno.EINVAL:  # torch seeks where a truncated file ends
        return True
    return isinstance(error, EOFError | pickle.UnpicklingError | SafetensorError) or "PytorchStream" in str(error)


def locate(source: str | Path, *files: str) -> Path:
    """The first of `files` that is in the folder `source`, or in the repository of that hub id; `source` itself if it
    is a file.

    Raises:
        OSError: there is none; within `loading` it becomes one line.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    path, failed = Path(source).expanduser(), None
    if path.is_file():
        return path
    if path.is_dir():
        if found := [path / file for file in files if (path / file).is_file()]:
            return found[0]
        raise FileNotFoundError(f"there is no {' or '.join(files)} in it.")
    if not HUB_ID.fullmatch(str(source)):
        raise FileNotFoundError("that is no file, folder or hub id.")
    for file in files:
        try:
            return Path(hf_hub_download(str(source), file))
        except EntryNotFoundError as error:
            failed = error
    raise OSError(f"there is no {' or '.join(files)} in it.") from failed


def read(path: Path) -> dict[str, Any]:
    """What a file of safetensors or of torch holds; within `loading`."""
    from safetensors.torch import load_file

    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def fill(module: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Loads `state` into `module`, all of both; within `loading`.

    Raises:
        ValueError: they do not fit.
    """
    own = module.state_dict()
    wrong = [key for key in own if getattr(state.get(key), "shape", None) != own[key].shape]
    wrong += [key for key in state if key not in own]
    if wrong:
        raise ValueError(f"it holds another model's weights, {len(wrong)} do not fit, the first is {wrong[0]!r}.")
    module.load_state_dict(state)


def loaded_whole(report: Mapping[str, Any]) -> None:
    """Looks at what `from_pretrained(..., output_loading_info=True)` of transformers or diffusers reports; within
    `loading`.

    Raises:
        ValueError: weights of the model were not in the checkpoint, and are random.
    """
    if wrong := [*report["missing_keys"], *report["mismatched_keys"]]:
        first = sorted(map(str, wrong))[0]
        raise ValueError(f"it holds another model's weights, {len(wrong)} are not of it, the first is {first!r}.")
